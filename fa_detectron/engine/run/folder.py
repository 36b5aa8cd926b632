"""The run's folder: created when training really starts, so that a wrong argument leaves nothing behind."""

import fnmatch
import json
import logging
import math
import os

from detectron2.config import CfgNode
from detectron2.utils import comm

from fa_detectron.engine.run.logs import open_logs
from fa_detectron.errors import SharedError
from fa_detectron.files import atomic_write

_logger = logging.getLogger(__name__)
_TRACES = ("last_checkpoint", "log.txt", "metrics.json", "config.yaml")  # any of them would be overwritten
# What a run writes, checkpoints first. Other files in its folder are the user's, or other runs below it.
_RUN_FILES = (
    "model_*.pth", "last_checkpoint", "best_checkpoint.json", "metrics.json", "config.yaml", "log.txt", "log.txt.rank*",
    "events.out.tfevents.*", "samples", "train_batches.jpg", "inference", "inference_TTA", "eval", "custom_*.json",
    "report.html",
)  # fmt: skip


def raise_together(problem: str) -> None:
    """Raise the ``problem`` of the first process that has one ("" for none) in all: none waits for another."""
    if problem := next(filter(None, comm.all_gather(problem)), ""):
        raise SharedError(problem)


def open_run_folder(cfg: CfgNode, resumed: bool) -> None:
    """Make OUTPUT_DIR with ``config.yaml`` and ``log.txt`` (``log.txt.rankN`` in the other processes).

    Args:
        cfg: the run's config; its copy in the folder is all that ``--eval-only`` needs.
        resumed: whether the run continues from a checkpoint in the folder.
    """
    folder = cfg.OUTPUT_DIR
    os.makedirs(folder, exist_ok=True)
    if comm.is_main_process():
        if not resumed and any(os.path.exists(os.path.join(folder, name)) for name in _TRACES):
            _logger.warning("%s held an earlier run: its files are now in %s", folder, _put_aside(folder))
        with atomic_write(os.path.join(folder, "config.yaml")) as file:
            file.write(cfg.dump())
    comm.synchronize()  # the earlier run's files are gone
    open_logs([folder])


def set_final_aside(folder: str, iterations: int) -> None:
    """Rename the ``model_final.pth`` of a finished run that continues: its weights are no longer the final ones."""
    path, aside = (os.path.join(folder, name) for name in ("model_final.pth", f"model_after_{iterations}.pth"))
    if os.path.exists(path):
        os.replace(path, aside)
        _logger.info("the finished run continues: its model_final.pth is now %s", aside)


def trim_metrics(path: str, start: int) -> None:
    """Remove what a run wrote after the checkpoint it is resumed from, and a line that a kill left unfinished.

    Args:
        path: ``metrics.json``, one object per line; may be absent.
        start: the first iteration that will be written again.
    """
    if not os.path.exists(path):
        return
    with open(path, encoding="utf-8", errors="replace") as file:
        lines = file.readlines()
    kept = [line for line in lines if line.endswith("\n") and _iteration(line) < start]
    with atomic_write(path) as file:
        file.writelines(kept)


def _iteration(line: str) -> float:
    try:
        return json.loads(line)["iteration"]
    except (ValueError, KeyError, TypeError):
        return math.inf


def _put_aside(folder: str) -> str:
    """Move an earlier run's files to ``folder/previous/N``, N counting up."""
    previous = os.path.join(folder, "previous")
    os.makedirs(previous, exist_ok=True)
    number = 1 + max((int(name) for name in os.listdir(previous) if name.isdecimal()), default=0)
    target = os.path.join(previous, str(number))
    os.mkdir(target)
    names = os.listdir(folder)
    for pattern in _RUN_FILES:
        for name in fnmatch.filter(names, pattern):
            os.replace(os.path.join(folder, name), os.path.join(target, name))
    return target
