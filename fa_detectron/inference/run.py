"""A finished training run, from its folder alone: config, class names, weights."""

import os
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from torch import nn

from fa_detectron.checkpoint import FeatureAlignCheckpointer
from fa_detectron.data.registration import TRAIN_NAME, VAL_NAME
from fa_detectron.engine import Trainer, load_config
from fa_detectron.errors import UserError

_WEIGHTS = ("model_final.pth", "model_best.pth")  # in the order of preference


@dataclass(frozen=True)
class Run:
    """A trained detector.

    Attributes:
        folder: the run's folder; "" for a model that was loaded by its config file.
        cfg: its config, frozen; OUTPUT_DIR is ``folder`` if there is one, MODEL.DEVICE and MODEL.WEIGHTS what was
            loaded.
        model: in evaluation mode, on its device.
        class_names: K names, in the order of the model's class numbers.
        category_ids: K ids, those of the training data's COCO file (DATASETS.CATEGORY_IDS, or what Detectron2 knows of
            a registered set); 1 to K where it has none, as the run's own evaluation numbers them.
    """

    folder: str
    cfg: CfgNode
    model: nn.Module
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]

    @property
    def name(self) -> str:
        """For titles: the folder's name, else that of the checkpoint's file without its suffix."""
        if self.folder:
            return os.path.basename(os.path.abspath(self.folder))
        return os.path.splitext(os.path.basename(self.cfg.MODEL.WEIGHTS))[0] or "random weights"


def load_run(
    folder: str | os.PathLike, *, weights: str = "", device: str = "", overrides: tuple[str, ...] | list[str] = ()
) -> Run:
    """Load a run's model with its trained weights.

    Args:
        folder: the OUTPUT_DIR of a training run; it may have been moved since.
        weights: a checkpoint of this model; "" takes the folder's ``model_final.pth``, else ``model_best.pth``, else
            the last checkpoint of an interrupted run.
        device: "cpu", "cuda", "cuda:1"; "" is the GPU where torch has one.
        overrides: ["KEY", "VALUE", ...] on top of the run's config; its MODEL.WEIGHTS and MODEL.DEVICE stand for
            ``weights`` and ``device`` where those are "".

    Raises:
        UserError: no such run, no weights in it, or weights of another model.
    """
    folder = os.path.expanduser(os.fspath(folder))
    cfg = load_config(config_of_run(folder), overrides)
    cfg.OUTPUT_DIR = folder
    weights = weights or _override(overrides, "MODEL.WEIGHTS") or find_weights(folder)
    return _load(cfg, folder, weights, device or _override(overrides, "MODEL.DEVICE"))


def config_of_run(folder: str) -> str:
    """The config file of a run's folder.

    Raises:
        UserError: the folder does not exist, or is not that of a run.
    """
    folder = os.path.expanduser(folder)
    config = os.path.join(folder, "config.yaml")
    if not os.path.isdir(folder):
        raise UserError(f"run folder {folder}: no such folder; give the OUTPUT_DIR of a training run")
    if not os.path.isfile(config):
        raise UserError(f"run folder {folder}: it has no config.yaml, so it is not the OUTPUT_DIR of a training run")
    return config


def load_model(
    config_file: str | os.PathLike,
    *,
    weights: str = "",
    device: str = "",
    overrides: tuple[str, ...] | list[str] = (),
) -> Run:
    """Load a model by its config file instead of a run's folder.

    Args:
        config_file: YAML file.
        weights: a checkpoint of this model, MODEL.WEIGHTS of ``overrides`` where this is ""; random weights without
            either, whatever the config starts its training from.
        device, overrides: as of :func:`load_run`.

    Raises:
        UserError: a missing or broken file, or weights of another model.
    """
    cfg = load_config(os.fspath(config_file), overrides)
    cfg.MODEL.TIMM.WEIGHTS = ""  # the backbone's, before the training
    weights = weights or _override(overrides, "MODEL.WEIGHTS")
    return _load(cfg, "", weights, device or _override(overrides, "MODEL.DEVICE"))


def _override(overrides: tuple[str, ...] | list[str], key: str) -> str:
    """The last value of a key among KEY VALUE pairs, "" where it has none."""
    return dict(zip(overrides[0::2], overrides[1::2])).get(key, "")


def _load(cfg: CfgNode, folder: str, weights: str, device: str) -> Run:
    cfg.MODEL.DEVICE = choose_device(device)
    cfg.MODEL.WEIGHTS = os.path.expanduser(weights)
    if weights:
        _check_same_classes(cfg, cfg.MODEL.WEIGHTS)
    cfg.freeze()
    model = Trainer.build_model(cfg)
    if weights:
        FeatureAlignCheckpointer(model).load(cfg.MODEL.WEIGHTS, checkpointables=[], strict=True)
    metadata = _data_metadata(cfg)
    return Run(folder, cfg, model.eval(), _class_names(cfg, metadata), _category_ids(cfg, metadata))


def find_weights(folder: str) -> str:
    """The checkpoint of a run's folder: the final one, else the best, else the last.

    Raises:
        UserError: there is none.
    """
    for name in _WEIGHTS:
        path = os.path.join(folder, name)
        if os.path.isfile(path):
            return path
    record = os.path.join(folder, "last_checkpoint")
    if os.path.isfile(record):
        with open(record, encoding="utf-8") as file:
            path = os.path.join(folder, os.path.basename(file.read().strip()))
        if os.path.isfile(path):
            return path
    raise UserError(
        f"run folder {folder}: no weights in it (looked for {', '.join(_WEIGHTS)} and the one that last_checkpoint "
        "names); let the training finish, or name a checkpoint"
    )


def _check_same_classes(cfg: CfgNode, weights: str) -> None:
    """Refuse weights out of another run's folder whose classes have other names, which their file does not tell."""
    folder = os.path.dirname(os.path.abspath(weights))
    config = os.path.join(folder, "config.yaml")
    if not os.path.isfile(config) or os.path.realpath(folder) == os.path.realpath(cfg.OUTPUT_DIR):
        return
    try:
        theirs = load_config(config).DATASETS.CLASS_NAMES
    except UserError:  # of another program
        return
    ours = cfg.DATASETS.CLASS_NAMES
    if theirs and ours and list(theirs) != list(ours):
        raise UserError(
            f"checkpoint {weights}: of another run, with the classes {', '.join(theirs[:10])}; those of "
            f"{cfg.OUTPUT_DIR} are {', '.join(ours[:10])}"
        )


def choose_device(name: str = "") -> str:
    """The device to compute on, checked; "" is the GPU where torch has one, else the CPU.

    Raises:
        UserError: no such device.
    """
    if not name:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device {name!r}: expected cpu, cuda or cuda:N") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        there = f"{count} GPU{'s' if count > 1 else ''}" if count else "no GPU"
        raise UserError(f"device {name!r}: torch can use {there} here")
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"device {name!r}: expected cpu, cuda or cuda:N")
    return name


def _data_metadata(cfg: CfgNode) -> Any:
    """Metadata of the run's data set, if it is one that is registered by name here; else None."""
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        if name not in (TRAIN_NAME, VAL_NAME) and name in DatasetCatalog.list():
            metadata = MetadataCatalog.get(name)
            if not metadata.get("thing_classes") and os.path.isfile(metadata.get("json_file") or ""):
                DatasetCatalog.get(name)  # what the user has registered knows its categories once it is loaded
            return metadata
    return None


def _class_names(cfg: CfgNode, metadata: Any) -> tuple[str, ...]:
    count = cfg.MODEL.FEATURE_ALIGN.NUM_CLASSES
    names = cfg.DATASETS.CLASS_NAMES or (metadata.get("thing_classes", ()) if metadata else ())
    if not names:
        return tuple(str(number) for number in range(count))
    if len(names) != count:
        raise UserError(
            f"{cfg.OUTPUT_DIR}/config.yaml: MODEL.FEATURE_ALIGN.NUM_CLASSES is {count}, but there are {len(names)} "
            "DATASETS.CLASS_NAMES"
        )
    return tuple(names)


def _category_ids(cfg: CfgNode, metadata: Any) -> tuple[int, ...]:
    count = cfg.MODEL.FEATURE_ALIGN.NUM_CLASSES
    if len(cfg.DATASETS.CATEGORY_IDS) == count:
        return tuple(cfg.DATASETS.CATEGORY_IDS)
    numbers = metadata.get("thing_dataset_id_to_contiguous_id", {}) if metadata else {}
    category = {number: key for key, number in numbers.items()}
    return tuple(category[i] for i in range(count)) if len(category) == count else tuple(range(1, count + 1))
