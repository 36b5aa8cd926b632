"""What looks wrong with the classes of a set."""

from collections import Counter, defaultdict

from fa_detectron.data.findings import PROBLEM, Findings
from fa_detectron.data.records import AnnotatedSet
from fa_detectron.data.values import look


def check_labels(data: AnnotatedSet, findings: Findings) -> None:
    """Report classes whose names look alike, and what has crowd boxes alone."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in data.classes:
        groups[look(name)].append(name)
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
    findings.problem(data.path, f"classes of crowd (ignored, difficult) boxes alone; {consequence}", alone)
