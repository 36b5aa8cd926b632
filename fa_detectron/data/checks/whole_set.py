"""A complete check of one set: its entries, its boxes and all of its images."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from detectron2.config import CfgNode

from fa_detectron.data.checks.boxes import clean_boxes, nothing_to_learn, repeated_boxes
from fa_detectron.data.checks.classes import check_classes, check_kept_classes, check_labels, select_classes
from fa_detectron.data.checks.images import Digests, Scanned, same_content, scan_images
from fa_detectron.data.checks.statistics import BoxStatistics, box_statistics, input_size, report_lost_boxes
from fa_detectron.data.findings import NOTE, REFUSED, Findings
from fa_detectron.data.images.pixels import ImageReader
from fa_detectron.data.read_once import read_once, source_of
from fa_detectron.data.records import AnnotatedSet, ReadOptions
from fa_detectron.errors import UserError


def check_annotations(data: AnnotatedSet, cfg: CfgNode, class_names: Sequence[str] | None, findings: Findings) -> None:
    """Select the classes of a set that was read, and check classes and boxes (in place), by the keys of DATASETS.

    Args:
        class_names: the model's; None for a training set whose classes they will be.
    """
    select_classes(data, cfg.DATASETS.KEEP_CLASSES, cfg.DATASETS.SINGLE_CLASS, findings)
    if class_names is not None:
        check_classes(data, class_names, findings)
    check_labels(data, findings)
    clean_boxes(data, cfg.DATASETS.BAD_BOXES, findings)


@dataclass
class Checked:
    """A set that was checked; ``data`` holds its usable boxes."""

    data: AnnotatedSet
    statistics: BoxStatistics
    digests: Digests


def check_set(
    path: str,
    split: str,
    cfg: CfgNode,
    findings: Findings,
    classes: Sequence[str] | None = None,
    bar: Callable[[Sequence], Iterable] = lambda items: items,
    scanned: Scanned | None = None,
) -> Checked | None:
    """Check one set.

    Args:
        path, split: as --train of train_net.py takes it, and the split of a folder that is named without one.
        cfg: how annotations and images are read, and the input size.
        classes: the class names of the training set, if this is another one.
        bar, scanned: of :func:`scan_images`.

    Returns:
        None if the set cannot be read; ``findings`` then says why.
    """
    name, training = path, classes is None
    try:
        name = str(source := source_of(path, split))
        data = read_once(source, ReadOptions.from_config(cfg), findings)
        if training:
            check_kept_classes(data.path, data.classes, cfg.DATASETS.KEEP_CLASSES)
    except UserError as error:
        findings.say(REFUSED, name, str(error).removeprefix(f"{name}: "))
        return None
    check_annotations(data, cfg, classes, findings)
    findings.problem(data.path, "boxes that an image has twice", repeated_boxes(data))
    digests = scan_images(data, ImageReader.from_config(cfg), findings, bar, scanned)
    findings.problem(data.path, "groups of images with the same pixels", same_content(data, digests))
    statistics = box_statistics(data, size := input_size(cfg))
    if training and not statistics.boxes:
        findings.say(REFUSED, data.path, nothing_to_learn(len(data.images)))
    if training:
        # check_labels reports those that have crowd boxes.
        known = {annotation.label for image in data.images for annotation in image.annotations}
        missing = [name for name, (boxes, _) in statistics.classes.items() if not boxes and name not in known]
        findings.problem(data.path, "classes without a box to learn from", missing)
    report_lost_boxes(data, statistics, size, findings)
    if statistics.without_box:
        findings.say(NOTE, data.path, f"{statistics.without_box} of {len(data.images)} images have no box")
    return Checked(data, statistics, digests)
