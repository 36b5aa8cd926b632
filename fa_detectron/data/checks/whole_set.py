"""A look through one whole set: its entries, its boxes and all of its images."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from detectron2.config import CfgNode

from fa_detectron.data.checks.boxes import check_classes, clean_boxes, nothing_to_learn
from fa_detectron.data.checks.classes import check_kept_classes, select_classes
from fa_detectron.data.checks.labels import check_labels
from fa_detectron.data.checks.statistics import (
    BoxStatistics,
    InputSize,
    box_statistics,
    input_size,
    repeated_boxes,
    size_that_serves,
)
from fa_detectron.data.findings import NOTE, REFUSED, Findings
from fa_detectron.data.images.pixels import ImageReader
from fa_detectron.data.images.scan import Digests, same_content, scan_images
from fa_detectron.data.readers import read_annotated_set
from fa_detectron.data.records import AnnotatedSet, ReadOptions
from fa_detectron.data.sources.find import parse_source
from fa_detectron.errors import UserError

# Every set of small objects has some boxes between the locations; with more than this share its images are too small.
LOST_SHARE = 0.01


@dataclass
class Checked:
    """A set that was looked through; ``data`` holds its usable boxes."""

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
) -> Checked | None:
    """Look through one set.

    Args:
        path, split: as --train of train_net.py takes it, and the split of a folder that is named without one.
        cfg: how annotations and images are read, and at which size images are trained on.
        classes: the class names of the training set, where this is another one.
        bar: wraps the walk over the images, to show how far it is.

    Returns:
        None where the set is too broken to be read; ``findings`` then says why.
    """
    name = path
    try:
        name = str(source := parse_source(path, split))
        data = read_annotated_set(source, ReadOptions.from_config(cfg), findings)
        if classes is None:
            check_kept_classes(data.path, data.classes, cfg.DATASETS.KEEP_CLASSES)
    except UserError as error:
        findings.say(REFUSED, name, str(error).removeprefix(f"{name}: "))
        return None
    select_classes(data, cfg.DATASETS.KEEP_CLASSES, cfg.DATASETS.SINGLE_CLASS, findings)
    if classes is not None:
        check_classes(data, classes, findings)
    check_labels(data, findings)
    clean_boxes(data, cfg.DATASETS.BAD_BOXES, findings)
    findings.problem(data.path, "boxes that an image has twice", repeated_boxes(data))
    digests = scan_images(data, ImageReader.from_config(cfg), findings, bar)
    findings.problem(data.path, "groups of images with the same pixels", same_content(data, digests))
    statistics = box_statistics(data, size := input_size(cfg))
    _judge(data, statistics, size, findings, training=classes is None)
    return Checked(data, statistics, digests)


def _judge(data: AnnotatedSet, statistics: BoxStatistics, size: InputSize, findings: Findings, training: bool) -> None:
    if training and not statistics.boxes:
        findings.say(REFUSED, data.path, nothing_to_learn(len(data.images)))
    if training:
        # Of those that have crowd boxes, check_labels tells.
        known = {annotation.label for image in data.images for annotation in image.annotations}
        missing = [name for name, (boxes, _) in statistics.classes.items() if not boxes and name not in known]
        findings.problem(data.path, "classes without a box to learn from", missing)
    lost = statistics.without_location
    if lost:
        share = len(lost) / statistics.boxes
        add = findings.problem if share >= LOST_SHARE else findings.note
        larger = size_that_serves(data, size, LOST_SHARE) if share >= LOST_SHARE and size.short_side else 0
        add(
            data.path,
            f"boxes ({share:.2%}) in which no location lies at the input size, so that nothing is learnt from them",
            lost,
            f"--size {larger} would leave at most {LOST_SHARE:.0%}." if larger else "",
        )
    if statistics.without_box:
        findings.say(NOTE, data.path, f"{statistics.without_box} of {len(data.images)} images have no box")
