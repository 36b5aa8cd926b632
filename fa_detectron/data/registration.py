"""Data sets given by path, registered with Detectron2.

A path becomes the data set ``custom_train`` or ``custom_val``. The config has everything needed to find it and number
its classes again (DATASETS.TRAIN_PATH, VAL_PATH, IMAGES_ROOT, CLASS_NAMES, BAD_BOXES), so that the config.yaml of a
run's folder is enough for --eval-only. Sets registered by name (Detectron2's, the user's, the built-in one) stay as
they are.
"""

import logging
import os
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm

from fa_detectron.data.checks.boxes import BAD_BOXES
from fa_detectron.data.checks.classes import check_kept_classes, select_classes
from fa_detectron.data.checks.images import scan_images
from fa_detectron.data.checks.whole_set import check_annotations
from fa_detectron.data.conversion import category_ids, to_coco_json, to_dataset_dicts
from fa_detectron.data.findings import NOTE, Findings
from fa_detectron.data.hold_out import hold_out, keep_part
from fa_detectron.data.images.pixels import ImageReader
from fa_detectron.data.read_once import forget_sets, read_once, source_of
from fa_detectron.data.records import AnnotatedSet, ReadOptions
from fa_detectron.data.sources.find import parse_source, validation_split
from fa_detectron.data.values import class_name
from fa_detectron.errors import UserError
from fa_detectron.files import write_json

logger = logging.getLogger(__name__)

TRAIN_NAME, VAL_NAME = "custom_train", "custom_val"


def _read_classes(text: str, default_split: str, cfg: CfgNode) -> tuple[tuple[str, ...], tuple[int | str, ...]]:
    """(class names, category ids); no ids if the format has none."""
    data = read_once(source_of(text, default_split), ReadOptions.from_config(cfg), Findings(strict=True))
    if not data.classes:
        raise UserError(f"{data.path}: no image has a box, so no class is known")
    check_kept_classes(data.path, data.classes, cfg.DATASETS.KEEP_CLASSES)
    select_classes(data, cfg.DATASETS.KEEP_CLASSES, cfg.DATASETS.SINGLE_CLASS, Findings())
    return data.classes, data.category_ids or ()


def resolve_data_arguments(cfg: CfgNode, train: str = "", val: str = "", images: str = "") -> None:
    """Set the data of a run in ``cfg`` (in place): paths, set names, class names and class count.

    Args:
        cfg: a config with fa_detectron's keys, not frozen.
        train, val: --train and --val, paths as of :func:`fa_detectron.data.sources.find.parse_source` (default split:
            train, val). "" leaves DATASETS.TRAIN_PATH and VAL_PATH as they are. ``train`` alone uses the set's own
            validation split; without one, the run has no validation set until :func:`hold_out_validation` makes it.
        images: --images, the folder of the images of both.

    Class names come from DATASETS.CLASS_NAMES. If that is empty, they and DATASETS.CATEGORY_IDS come from the training
    path, else from the metadata of the named training set, else from the validation path.

    Raises:
        UserError: a path is wrong or its file broken.
    """
    forget_sets()
    data = cfg.DATASETS
    data.TRAIN_PATH, data.VAL_PATH = train or data.TRAIN_PATH, val or data.VAL_PATH
    images = images or data.IMAGES_ROOT
    data.IMAGES_ROOT = os.path.abspath(os.path.expanduser(images)) if images else ""
    data.KEEP_CLASSES = tuple(map(class_name, data.KEEP_CLASSES))
    if data.BAD_BOXES not in BAD_BOXES:
        raise UserError(f"DATASETS.BAD_BOXES is {data.BAD_BOXES!r}, must be one of {', '.join(BAD_BOXES)}")
    if data.IMAGES_ROOT and not (data.TRAIN_PATH or data.VAL_PATH):
        raise UserError("--images (DATASETS.IMAGES_ROOT) goes with --train or --val")
    if train:
        data.VAL_IMAGES = ()
    if train and not val:
        own = validation_split(train)
        data.VAL_PATH, data.TEST = str(own or ""), ()
        if own:
            logger.info("validation set: %s, the set's own split (--val names another)", own)
    if data.TRAIN_PATH and (train or not data.CLASS_NAMES):
        data.TRAIN_PATH = str(parse_source(data.TRAIN_PATH, "train"))
    if data.VAL_PATH:
        data.VAL_PATH = str(parse_source(data.VAL_PATH, "val"))
    if data.TRAIN_PATH:
        data.TRAIN = (TRAIN_NAME,)
    if data.VAL_PATH or data.VAL_IMAGES:
        data.TEST = (VAL_NAME,)
    if not data.CLASS_NAMES:
        data.CLASS_NAMES, data.CATEGORY_IDS = _classes(cfg)
    if data.TRAIN_PATH or data.VAL_PATH:
        data.CLASS_NAMES = tuple(map(class_name, data.CLASS_NAMES))  # as the readers call them
        cfg.MODEL.FEATURE_ALIGN.NUM_CLASSES = len(data.CLASS_NAMES)
        logger.info("%d classes: %s", len(data.CLASS_NAMES), ", ".join(data.CLASS_NAMES))


def _classes(cfg: CfgNode) -> tuple[tuple[str, ...], tuple[int | str, ...]]:
    data = cfg.DATASETS
    if data.TRAIN_PATH:
        return _read_classes(data.TRAIN_PATH, "train", cfg)
    for name in data.TRAIN:
        # A set that the user registered knows its classes once it is loaded: check_data compares them then.
        classes = MetadataCatalog.get(name).get("thing_classes") if name in DatasetCatalog.list() else None
        if classes:
            return tuple(classes), ()  # the set itself knows its ids
    if data.VAL_PATH:
        return _read_classes(data.VAL_PATH, "val", cfg)
    return (), ()


def hold_out_validation(cfg: CfgNode) -> None:
    """Hold out a validation set of DATASETS.TRAIN_PATH if a run has none (in place: DATASETS.VAL_IMAGES and TEST).

    Reads every image once, to keep images with equal pixels on one side.

    Raises:
        UserError: the set is broken, or DATASETS.VAL_FRACTION is not a fraction.
    """
    data = cfg.DATASETS
    if not 0 <= data.VAL_FRACTION < 1:
        raise UserError(f"--val-fraction (DATASETS.VAL_FRACTION) is {data.VAL_FRACTION}, must be 0 or more and below 1")
    if not data.TRAIN_PATH or data.TEST or not data.VAL_FRACTION:
        return
    loader = PathLoader(cfg, TRAIN_NAME, data.TRAIN_PATH, "train")
    annotated = loader.read(Findings(strict=True))
    digests = scan_images(annotated, ImageReader.from_config(cfg), Findings(strict=True))
    data.VAL_IMAGES = hold_out(annotated, digests, data.VAL_FRACTION, max(cfg.SEED, 0))
    if not data.VAL_IMAGES:
        logger.warning("%s: too few images with a box to hold any out for validation", annotated.path)
        return
    data.TEST = (VAL_NAME,)
    logger.info(
        "no validation set: %d of %d images are held out for it, by class, copies together (DATASETS.VAL_FRACTION %g; "
        "--val PATH names another set, --val-fraction 0 trains on all images without evaluation)",
        *(len(data.VAL_IMAGES), len(annotated.images), data.VAL_FRACTION),
    )


def register_from_config(cfg: CfgNode) -> None:
    """Register custom_train and custom_val of the config, replacing previous ones.

    Nothing is read until a set is used. Loading a broken one raises UserError.
    """
    data = cfg.DATASETS
    validation = (data.VAL_PATH, "val") if data.VAL_PATH or not data.VAL_IMAGES else (data.TRAIN_PATH, "train")
    for name, path, default_split in ((TRAIN_NAME, data.TRAIN_PATH, "train"), (VAL_NAME, *validation)):
        if name in DatasetCatalog.list():
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
        if not path:
            continue
        if not cfg.DATASETS.CLASS_NAMES:
            raise UserError("DATASETS.CLASS_NAMES is empty; call resolve_data_arguments(cfg) first")
        if cfg.DATASETS.CATEGORY_IDS and len(cfg.DATASETS.CATEGORY_IDS) != len(cfg.DATASETS.CLASS_NAMES):
            raise UserError(
                f"DATASETS.CATEGORY_IDS has {len(cfg.DATASETS.CATEGORY_IDS)} ids for {len(cfg.DATASETS.CLASS_NAMES)} "
                "DATASETS.CLASS_NAMES; give one for each class, or () to count from 1"
            )
        loader = PathLoader(cfg, name, path, default_split)
        DatasetCatalog.register(name, loader)
        MetadataCatalog.get(name).set(
            thing_classes=list(cfg.DATASETS.CLASS_NAMES), evaluator_type="coco", json_file=loader.json_file
        )


def count_images(name: str) -> int:
    """The number of images in a registered set. Writes nothing, unlike loading a set given by path."""
    loader = DatasetCatalog[name]
    return len(loader.read(Findings(strict=True)).images if isinstance(loader, PathLoader) else loader())


class PathLoader:
    """Reads a set when Detectron2 asks for it, and writes the COCO file that its evaluation compares with.

    The evaluation has a file of its own, because it needs exactly the model's classes and the boxes that are used, and
    VOC and YOLO sets have none. Images and categories keep the ids of the user's file, so that detections can be
    evaluated against either.
    """

    def __init__(self, cfg: CfgNode, name: str, path: str, default_split: str) -> None:
        self.name, self._path, self._default_split, self._cfg = name, path, default_split, cfg.clone()
        data = cfg.DATASETS
        self.class_names, self._run_ids = tuple(data.CLASS_NAMES), tuple(data.CATEGORY_IDS)
        # A validation set of its own is read completely.
        self._held_out = () if name == VAL_NAME and data.VAL_PATH else tuple(data.VAL_IMAGES)
        self.json_file = os.path.join(os.path.abspath(cfg.OUTPUT_DIR), f"{name}.json")
        self.evaluated = name in data.TEST

    def read(self, findings: Findings) -> AnnotatedSet:
        """The set with its boxes checked."""
        source = source_of(self._path, self._default_split)
        data = read_once(source, ReadOptions.from_config(self._cfg), findings)
        findings.say(NOTE, data.path, data.summary)
        check_annotations(data, self._cfg, self.class_names, findings)
        if self._held_out:
            keep_part(data, self._held_out, self.name == VAL_NAME, findings)
        return data

    def __call__(self) -> list[dict[str, Any]]:
        data = self.read(Findings(strict=True))
        ids = category_ids(data, self.class_names, self._run_ids).values()
        MetadataCatalog.get(self.name).set(thing_dataset_id_to_contiguous_id={key: i for i, key in enumerate(ids)})
        if self.evaluated and comm.is_main_process():  # the evaluator waits for it
            write_json(self.json_file, to_coco_json(data, self.class_names, self._run_ids))
        return to_dataset_dicts(data, self.class_names)
