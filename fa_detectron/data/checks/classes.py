"""Training on some of the classes of a set, or on all of them as one."""

import difflib
from collections import Counter
from collections.abc import Sequence

from fa_detectron.data.findings import NOTE, Findings
from fa_detectron.data.records import AnnotatedSet
from fa_detectron.errors import UserError

SINGLE_CLASS = "object"  # the name of the only class


def check_kept_classes(path: str, classes: Sequence[str], keep: Sequence[str]) -> None:
    """Refuse names in DATASETS.KEEP_CLASSES that a training set's ``classes`` do not have.

    Raises:
        UserError: names them, and what they may have been meant to be.
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
    """Leave out the boxes of other classes, then make one class of the rest on request (in place).

    Images whose boxes are all left out stay, as background.

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
        what = f"{len(data.classes)} classes become one, {SINGLE_CLASS!r} (DATASETS.SINGLE_CLASS)"
        findings.say(NOTE, data.path, what)
        for image in data.images:
            for annotation in image.annotations:
                annotation.label = SINGLE_CLASS
        data.classes, data.category_ids = (SINGLE_CLASS,), None
