"""The ground truth of a run, for commands that look at a finished run."""

import tempfile

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog

from fa_detectron.errors import UserError

from .preparation import check_data
from .registration import register_from_config, resolve_data_arguments


def annotated_records(cfg: CfgNode, data: str = "", images: str = "") -> list[dict]:
    """The (first) test set of a run as Detectron2's dataset dicts, checked; nothing is written.

    Args:
        cfg: the run's config.
        data: in its place, as --val names it.
        images: folder of the images of ``data``, where they do not lie beside it.

    Raises:
        UserError: the run has no test set, it is broken, has other classes, or not a single box.
    """
    cfg = cfg.clone()
    cfg.defrost()
    if images and not data:
        raise UserError("--images goes with --data")
    if data:
        cfg.DATASETS.IMAGES_ROOT = ""  # that of the run's own data
    resolve_data_arguments(cfg, val=data, images=images)
    if not cfg.DATASETS.TEST:
        raise UserError(f"{cfg.OUTPUT_DIR}: the run has no test set; name annotated images with --data")
    cfg.DATASETS.TEST = cfg.DATASETS.TEST[:1]
    (name,) = cfg.DATASETS.TEST
    with tempfile.TemporaryDirectory() as folder:  # the set writes its COCO file where the run is
        cfg.OUTPUT_DIR = folder
        register_from_config(cfg)
        check_data(cfg, training=False)
        records = DatasetCatalog.get(name)
    if not any(not a.get("iscrowd", 0) for record in records for a in record.get("annotations", ())):
        raise UserError(f"{data or cfg.DATASETS.VAL_PATH or name}: no image has a box, so there is no ground truth")
    return records
