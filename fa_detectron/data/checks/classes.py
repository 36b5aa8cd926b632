"""The classes of an annotated set: which are trained on, and what looks wrong with them."""

import difflib
from collections import Counter, defaultdict
from collections.abc import Sequence

from fa_detectron.data.findings import NOTE, PROBLEM, Findings
from fa_detectron.data.records import AnnotatedSet
from fa_detectron.data.values import lookalike_key
from fa_detectron.errors import UserError

ONLY_CLASS = "object"  # the name of the class of DATASETS.SINGLE_CLASS


def check_kept_classes(path: str, classes: Sequence[str], keep: Sequence[str]) -> None:
    """Refuse names in DATASETS.KEEP_CLASSES that are not among a training set's ``classes``.

    Raises:
        UserError: names them, and similar classes.
    """
    unknown = [name for name in keep if name not in classes]
    if unknown:
        near = [match for name in unknown for match in difflib.get_close_matches(name, classes, n=1)]
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise UserError(
            f"{path}: --classes (DATASETS.KEEP_CLASSES) names {', '.join(map(repr, unknown))}, its classes are "
            f"{', '.join(classes[:50])}{hint}"
        )


def select_classes(data: AnnotatedSet, keep: Sequence[str], single: bool, findings: Findings) -> None:
    """Drop the boxes of other classes, then merge the rest into one class on request (in place).

    Images without a box afterwards stay, as background.

    Args:
        keep: DATASETS.KEEP_CLASSES; () keeps all.
        single: DATASETS.SINGLE_CLASS.
    """
    if keep:
        left_out: Counter[str] = Counter()
        for image in data.images:
            left_out.update(a.label for a in image.annotations if a.label not in keep)
            image.annotations = [a for a in image.annotations if a.label in keep]
        others = [f"{name}: {left_out[name]} boxes" for name in data.classes if name not in keep]
        findings.note(data.path, "classes left out (DATASETS.KEEP_CLASSES)", others)
        if data.category_ids is not None:
            pairs = zip(data.classes, data.category_ids)
            data.category_ids = tuple(category_id for name, category_id in pairs if name in keep)
        data.classes = tuple(name for name in data.classes if name in keep)
    if single and data.classes:
        what = f"{len(data.classes)} classes become one, {ONLY_CLASS!r} (DATASETS.SINGLE_CLASS)"
        findings.say(NOTE, data.path, what)
        for image in data.images:
            for annotation in image.annotations:
                annotation.label = ONLY_CLASS
        data.classes, data.category_ids = (ONLY_CLASS,), None


def check_classes(data: AnnotatedSet, class_names: Sequence[str], findings: Findings) -> None:
    """Refuse a set with boxes of classes that the model does not have.

    Raises:
        UserError: names these classes, with their counts of boxes.
    """
    known, unknown = set(class_names), {}
    similar = {lookalike_key(name): name for name in class_names}
    for image in data.images:
        for annotation in image.annotations:
            if annotation.label not in known:
                unknown.setdefault(annotation.label, []).append(image.where(annotation))
    items = [
        f"{label!r}: {len(where)} boxes, first: {where[0]}"
        + (f" (did you mean {similar[key]!r}?)" if (key := lookalike_key(label)) in similar else "")
        for label, where in sorted(unknown.items())
    ]
    findings.refuse(
        data.path,
        f"classes that are not among the {len(class_names)} classes of the training set "
        f"({', '.join(class_names[:20])}{', ...' if len(class_names) > 20 else ''})",
        items,
        "Rename them, or add them to the training set (DATASETS.CLASS_NAMES, where it is set by hand).",
    )


def check_labels(data: AnnotatedSet, findings: Findings) -> None:
    """Report classes with similar names, and classes that have only crowd boxes."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in data.classes:
        groups[lookalike_key(name)].append(name)
    alike = [", ".join(map(repr, names)) for names in groups.values() if len(names) > 1]
    findings.problem(data.path, "groups of classes whose names look alike; each name is a class", alike)

    boxes, crowd = Counter(), Counter()
    for image in data.images:
        for annotation in image.annotations:
            (crowd if annotation.iscrowd else boxes)[annotation.label] += 1
    consequence = "nothing is learnt from them, and the evaluation counts none"
    if crowd and not boxes:
        what = f"all of its {crowd.total()} boxes are crowd (ignored, difficult) boxes: {consequence}"
        findings.say(PROBLEM, data.path, what)
        return
    alone = [f"{name}: {count} boxes" for name, count in sorted(crowd.items()) if not boxes[name]]
    findings.problem(data.path, f"classes with only crowd (ignored, difficult) boxes; {consequence}", alone)
