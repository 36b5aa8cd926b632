"""The names of data sets in tables, reports and folders."""

import os
import re

from detectron2.config import CfgNode

from fa_detectron.data.registration import TRAIN_NAME, VAL_NAME

HELD_OUT = " (held out)"


def data_name(path: str, *others: str) -> str:
    """The last two parts of a path with its split: ``valid/_annotations.coco.json``, ``data/VOC2012:test``.

    More parts if ``others``, such as the run's training set, would have the same name; no more than that, since the
    folders above may be private.
    """
    parts = _parts(path)
    for count in range(2, len(parts)):
        if all(_parts(other)[-count:] != parts[-count:] for other in others if _parts(other) != parts):
            return "/".join(parts[-count:])
    return "/".join(parts)


def set_source(cfg: CfgNode, name: str) -> str:
    """The path of a run's set, with a note if it is held out of the training set; else its registered name."""
    data = cfg.DATASETS
    held_out = f"{data.TRAIN_PATH}{HELD_OUT}" if data.VAL_IMAGES else ""
    return {TRAIN_NAME: data.TRAIN_PATH, VAL_NAME: data.VAL_PATH or held_out}.get(name) or name


def set_name(cfg: CfgNode, name: str, *others: str) -> str:
    """The name of a run's set for people: :func:`data_name` of one given by path, else its registered name."""
    source = set_source(cfg, name)
    return name if source == name else data_name(source, cfg.DATASETS.TRAIN_PATH, cfg.DATASETS.VAL_PATH, *others)


def folder_name(name: str) -> str:
    """``name`` as a folder name: ``valid-_annotations.coco``, ``data-VOC2012-test``."""
    stem = re.sub(r"\.(json|ya?ml)(?=[: ]|$)", "", name)
    return re.sub(r"[^\w.-]+", "-", stem)[-80:].strip("-.") or "set"


def _parts(path: str) -> list[str]:
    return [part for part in path.split(os.sep) if part]
