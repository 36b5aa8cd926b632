"""Check all data of a run before it starts, and log what there is."""

import difflib
import logging
from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from detectron2.utils.logger import log_first_n
from tabulate import tabulate

from fa_detectron.data.checks.boxes import box_problem, nothing_to_learn
from fa_detectron.data.checks.images import check_image_files, check_images_exist
from fa_detectron.data.checks.statistics import InputSize, box_statistics, input_size, report_lost_boxes
from fa_detectron.data.conversion import to_dataset_dicts
from fa_detectron.data.findings import Findings
from fa_detectron.data.hold_out import COPIES_ON_BOTH_SIDES, shared_sources
from fa_detectron.data.images.pixel_range import settle_pixel_range
from fa_detectron.data.images.pixels import ImageReader
from fa_detectron.data.registration import TRAIN_NAME, VAL_NAME, PathLoader
from fa_detectron.data.training.stream import all_crowd
from fa_detectron.errors import UserError

logger = logging.getLogger(__name__)

_SHOWN_CLASSES = 100
_Counts = list[tuple[int, int]]  # (boxes, images) of every class


def check_data(cfg: CfgNode, training: bool) -> int:
    """Check the sets that a run uses, measure INPUT.PIXEL_RANGE if they need one, log a table of boxes per class.

    Args:
        cfg: with its sets registered (register_from_config), not frozen.
        training: False skips DATASETS.TRAIN: --eval-only must work without the training data.

    Returns:
        The number of training images.

    Raises:
        UserError: a set is unknown, broken or without images, its classes are not the model's, or a training set has
            no box; a test set has images of more than 8 bits per channel, and the training set has none. Bad boxes of
            sets registered by name are only reported: Detectron2 drops empty ones itself (COCO has some), and the set
            belongs to the user.
    """
    num_classes = cfg.MODEL.FEATURE_ALIGN.NUM_CLASSES
    columns: dict[str, _Counts] = {}
    files: dict[str, list[str]] = {}
    reader = ImageReader.from_config(cfg)
    class_names: Sequence[str] = cfg.DATASETS.CLASS_NAMES
    train_names = list(cfg.DATASETS.TRAIN) if training else []
    trained_images = 0
    for name in dict.fromkeys([*train_names, *cfg.DATASETS.TEST]):
        records = _load_and_check(name, input_size(cfg, training=True) if name in train_names else None, reader)
        class_names = _check_metadata(cfg, name)
        _compare_with_limit(cfg, name, records)
        columns[name] = class_counts(records, num_classes)
        files[name] = [record["file_name"] for record in records]
        if name in train_names and not any(boxes for boxes, _ in columns[name]):
            raise UserError(f"training set {name}: {nothing_to_learn(len(records))}")
        trained_images += train_names.count(name) * sum(is_trained(cfg, record) for record in records)
        logger.info("%s: %s", name, _images_in_words(cfg, records, training=name in train_names))
    train, test = ({name: files[name] for name in names} for names in (train_names, cfg.DATASETS.TEST))
    settled = settle_pixel_range(train, test, reader, findings := Findings(strict=True))
    findings.log()
    if settled != reader:
        cfg.INPUT.PIXEL_RANGE = list(settled.value_range)
    trained = [file for name in train_names for file in files[name]]
    for name in cfg.DATASETS.TEST:
        if name not in train_names:
            findings = Findings()
            findings.problem(f"data set {name}", COPIES_ON_BOTH_SIDES, shared_sources(trained, files[name]))
            findings.log()
    if columns:
        logger.info("Boxes (and images that have them) per class:\n%s", class_table(class_names, columns))
    return trained_images


def is_trained(cfg: CfgNode, record: dict[str, Any]) -> bool:
    """Whether the training loader uses an image of a training set."""
    if all_crowd(record):
        return False
    return bool(record.get("annotations")) or not cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS


def _images_in_words(cfg: CfgNode, records: Sequence[dict[str, Any]], training: bool) -> str:
    """The message about the images of a set, and what is done with those without a box."""
    key, background = "DATALOADER.FILTER_EMPTY_ANNOTATIONS", sum(not record.get("annotations") for record in records)
    crowd = sum(map(all_crowd, records))
    text = f"{len(records)} images, {background} of them without a box"
    if training and background:
        left_out = cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
        text += f" (left out of training: {key} True)" if left_out else f" (trained on as background: {key} False)"
    if training and crowd:
        text += f", {crowd} with only crowd boxes (left out of training)"
    return text


def _load_and_check(name: str, size: InputSize | None, reader: ImageReader) -> list[dict[str, Any]]:
    if name not in DatasetCatalog.list():
        close = difflib.get_close_matches(name, DatasetCatalog.list())
        hint = f"; did you mean {', '.join(close)}?" if close else ""
        raise UserError(f"DATASETS: no data set is registered as {name!r}{hint}")
    if name in (TRAIN_NAME, VAL_NAME):
        return _check_path_set(DatasetCatalog[name], size, reader)
    try:
        records = DatasetCatalog.get(name)
    except (OSError, ValueError, KeyError, TypeError, AssertionError, SyntaxError) as error:
        # The errors of Detectron2's readers; broken XML raises SyntaxError.
        raise UserError(f"data set {name}: cannot be loaded: {type(error).__name__}: {error}") from error
    if not records:
        raise UserError(f"data set {name}: holds no image")
    findings = Findings(strict=True)
    check_images_exist(f"data set {name}", [record["file_name"] for record in records], findings)
    _check_files(f"data set {name}", records, reader, findings)
    bad = []
    for record in records:
        for i, item in enumerate(record.get("annotations", [])):
            if item["bbox_mode"] in (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS):
                box = BoxMode.convert(list(item["bbox"]), item["bbox_mode"], BoxMode.XYXY_ABS)
                problem = box_problem(tuple(map(float, box)), record["width"], record["height"])
                if problem:
                    bad.append(f"annotation {i} of image {record['image_id']!r}: {problem}")
    findings.problem(name, "bad boxes", bad)
    findings.log()
    return records


def _compare_with_limit(cfg: CfgNode, name: str, records: Sequence[dict[str, Any]]) -> None:
    limit = cfg.TEST.DETECTIONS_PER_IMAGE
    boxes = [sum(not a.get("iscrowd", 0) for a in record.get("annotations", ())) for record in records]
    crowded, most = sum(count > limit for count in boxes), max(boxes, default=0)
    if crowded:
        logger.warning(
            "%s: %d images have more boxes than the model gives detections (TEST.DETECTIONS_PER_IMAGE %d), so not all "
            "of them can be found; %s has %d: set TEST.DETECTIONS_PER_IMAGE to that or more",
            *(name, crowded, limit, records[boxes.index(most)]["file_name"], most),
        )


def _check_files(path: str, records: Sequence[dict[str, Any]], reader: ImageReader, findings: Findings) -> None:
    files = [(record["file_name"], record["width"], record["height"]) for record in records]
    check_image_files(path, files, reader, findings)


def _check_path_set(loader: PathLoader, size: InputSize | None, reader: ImageReader) -> list[dict[str, Any]]:
    data = loader.read(findings := Findings(strict=True))
    if size is not None:
        report_lost_boxes(data, box_statistics(data, size), size, findings)
    findings.log()
    if loader.evaluated and data.has_id_zero:
        tell_of_id_zero(data.path)
    records = to_dataset_dicts(data, loader.class_names)
    _check_files(data.path, records, reader, findings)
    return records


def tell_of_id_zero(path: str) -> None:
    """Log once per process why plain pycocotools may give lower figures for the COCO file ``path``."""
    text = (
        f"{path}: an annotation has the id 0, which plain pycocotools never matches. It counts in the figures here, so "
        "they can be higher than those of pycocotools against this file."
    )
    log_first_n(logging.INFO, text, name=__name__, key="message")


def _check_metadata(cfg: CfgNode, name: str) -> Sequence[str]:
    """The class names of a loaded set. Raises UserError unless they are the model's."""
    num_classes, wanted = cfg.MODEL.FEATURE_ALIGN.NUM_CLASSES, list(cfg.DATASETS.CLASS_NAMES)
    classes = list(MetadataCatalog.get(name).get("thing_classes", ()))
    shown = f"{', '.join(classes[:10])}{', ...' if len(classes) > 10 else ''}"
    if classes and len(classes) != num_classes:
        raise UserError(
            f"MODEL.FEATURE_ALIGN.NUM_CLASSES is {num_classes}, but data set {name} has {len(classes)} classes: {shown}"
        )
    if classes and wanted and classes != wanted:
        raise UserError(
            f"data set {name} has the classes {shown}, in this order; DATASETS.CLASS_NAMES says "
            f"{', '.join(wanted[:10])}{', ...' if len(wanted) > 10 else ''}"
        )
    return classes or wanted or [str(i) for i in range(num_classes)]


def class_counts(records: Sequence[dict[str, Any]], num_classes: int) -> _Counts:
    """(boxes, images) of every class in Detectron2's dataset dicts; crowd boxes do not count.

    Raises:
        UserError: a class number is outside 0 .. num_classes - 1.
    """
    boxes, images = [0] * num_classes, [0] * num_classes
    for record in records:
        labels = [a["category_id"] for a in record.get("annotations", []) if not a.get("iscrowd", 0)]
        for label in labels:
            if not 0 <= label < num_classes:
                raise UserError(
                    f"image {record.get('image_id')!r} ({record.get('file_name')}): a box has class number {label}, "
                    f"and there are {num_classes} classes, 0 to {num_classes - 1}"
                )
            boxes[label] += 1
        for label in set(labels):
            images[label] += 1
    return list(zip(boxes, images))


def class_table(class_names: Sequence[str], columns: dict[str, _Counts]) -> str:
    """A text table: a row per class, a column per set with "boxes (images)", and the total boxes."""
    rows = [["class", *columns]]
    for i, name in enumerate(class_names[:_SHOWN_CLASSES]):
        rows.append([name, *(f"{counts[i][0]} ({counts[i][1]})" for counts in columns.values())])
    if len(class_names) > _SHOWN_CLASSES:
        rows.append([f"... {len(class_names) - _SHOWN_CLASSES} more", *("" for _ in columns)])
    rows.append(["all", *(str(sum(boxes for boxes, _ in counts)) for counts in columns.values())])
    return tabulate(rows[1:], rows[0], "plain", disable_numparse=True, colalign=["left", *("right" for _ in columns)])
