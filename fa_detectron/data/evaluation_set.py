"""The set on which a finished run is evaluated."""

import tempfile

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog

from fa_detectron.data.checks.run_data import check_data
from fa_detectron.data.registration import register_from_config, resolve_data_arguments
from fa_detectron.errors import UserError


def evaluation_config(cfg: CfgNode, folder: str, data: str = "", images: str = "") -> CfgNode:
    """The config for evaluating a finished run's model on one set, which is checked and registered.

    Args:
        cfg: the run's config.
        folder: for everything that the evaluation writes; the run's own folder stays as it is.
        data: a path as of --val; "" takes the run's (first) test set.
        images: folder of the images of ``data``, if they are not beside it.

    Raises:
        UserError: the run has no test set, or the set is broken or has other classes.
    """
    cfg = cfg.clone()
    cfg.defrost()
    if images and not data:
        raise UserError("--images goes with --data")
    if data:
        cfg.DATASETS.IMAGES_ROOT = ""  # that of the run's own data
    cfg.TEST.SAMPLE_PICTURES = 0
    resolve_data_arguments(cfg, val=data, images=images)
    if not cfg.DATASETS.TEST:
        raise UserError(f"{cfg.OUTPUT_DIR}: the run has no test set; name annotated images with --data")
    cfg.DATASETS.TEST = cfg.DATASETS.TEST[:1]
    cfg.OUTPUT_DIR = folder
    register_from_config(cfg)
    check_data(cfg, training=False)
    return cfg


def annotated_records(cfg: CfgNode, data: str = "", images: str = "") -> list[dict]:
    """The (first) test set of a run as Detectron2's dataset dicts, checked; nothing is written.

    Args:
        cfg, data, images: as of :func:`evaluation_config`.

    Raises:
        UserError: as there; or the set has no box.
    """
    with tempfile.TemporaryDirectory() as folder:  # the set writes its COCO file where the run is
        checked = evaluation_config(cfg, folder, data, images)
        (name,) = checked.DATASETS.TEST
        records = DatasetCatalog.get(name)
    if not any(not a.get("iscrowd", 0) for record in records for a in record.get("annotations", ())):
        raise UserError(f"{data or checked.DATASETS.VAL_PATH or name}: no image has a box, so there is no ground truth")
    return records
