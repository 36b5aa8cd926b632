"""The run's folder: made when training really starts, so that a wrong argument leaves nothing behind."""

import fnmatch
import json
import logging
import logging.handlers
import math
import os
import shutil
from collections.abc import Sequence

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger

import fa_detectron
from fa_detectron.files import atomic_write

_LOGGERS = ("fa_detectron", "detectron2", "fvcore")
_held: logging.handlers.MemoryHandler | None = None
_files: list[logging.Handler] = []


def start_logging() -> None:
    """Log to the terminal (rank 0 alone); what is said before there is a run folder goes to its log.txt afterwards."""
    global _held
    if _held is not None:
        return
    _held = logging.handlers.MemoryHandler(10_000, flushLevel=logging.CRITICAL + 1, flushOnClose=False)
    for name in _LOGGERS:
        setup_logger(distributed_rank=int(os.environ.get("RANK", "0")), name=name)
        logging.getLogger(name).addHandler(_held)


def start_process(cfg: CfgNode) -> None:
    """Logging, seeds and library switches of this process; say once where it runs. Writes no file."""
    start_logging()
    # Each worker draws its own augmentations; Detectron2 takes the data order from rank 0's seed.
    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED + comm.get_rank())
    torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK

    if cfg.MODEL.DEVICE.startswith("cuda"):
        where = f"{comm.get_world_size()} GPU(s), {torch.cuda.get_device_name()}"
    else:
        gpu = "MODEL.DEVICE says so" if torch.cuda.is_available() else "torch sees no GPU here"
        where = f"the CPU ({gpu}), {comm.get_world_size()} process(es) of {torch.get_num_threads()} threads"
    logging.getLogger("fa_detectron.engine").info(
        "fa_detectron %s, torch %s, on %s", fa_detectron.__version__, torch.__version__, where
    )


def open_run_folder(cfg: CfgNode, resumed: bool) -> None:
    """Make OUTPUT_DIR with ``config.yaml`` and ``log.txt`` (``log.txt.rankN`` in the other processes).

    Args:
        cfg: the config that runs; its copy in the folder is all that ``--eval-only`` needs.
        resumed: whether the run goes on from a checkpoint in the folder.
    """
    folder = cfg.OUTPUT_DIR
    logger = logging.getLogger("fa_detectron.engine")
    os.makedirs(folder, exist_ok=True)
    if comm.is_main_process():
        if not resumed and os.path.exists(os.path.join(folder, "last_checkpoint")):
            _put_aside(folder)
            logger.warning("%s holds an earlier run: its checkpoints are now in %s/previous", folder, folder)
        with atomic_write(os.path.join(folder, "config.yaml")) as file:
            file.write(cfg.dump())
    open_logs([folder])


def open_logs(folders: Sequence[str]) -> None:
    """From now on, log to ``log.txt`` (``log.txt.rankN`` in the other processes) in each folder, made where absent.

    The messages from before there was a log come first; the logs of an earlier run in this process are closed.
    """
    global _held
    rank = comm.get_rank()
    held = list(_held.buffer) if _held is not None else []
    for name in _LOGGERS:
        for old in (_held, *_files):
            if old is not None:
                logging.getLogger(name).removeHandler(old)
    for old in _files:
        old.close()
    _held, _files[:] = None, []
    for folder in folders:
        os.makedirs(folder, exist_ok=True)
        handler = logging.FileHandler(os.path.join(folder, f"log.txt.rank{rank}" if rank else "log.txt"))
        handler.setFormatter(logging.Formatter("[%(asctime)s] %(name)s %(levelname)s: %(message)s", "%m/%d %H:%M:%S"))
        for record in held:
            handler.handle(record)
        for name in _LOGGERS:
            logging.getLogger(name).addHandler(handler)
        _files.append(handler)


def trim_metrics(path: str, start: int) -> None:
    """Leave out what a run wrote after the checkpoint it is resumed from, and a line that a kill left unfinished.

    Args:
        path: ``metrics.json``, an object a line; may be absent.
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


def _put_aside(folder: str) -> None:
    """Move an earlier run's checkpoints to ``folder/previous``, so that --resume takes none of them for the new run's.

    Those that were there before go.
    """
    previous = os.path.join(folder, "previous")
    shutil.rmtree(previous, ignore_errors=True)
    os.makedirs(previous)
    for name in ("last_checkpoint", "best_checkpoint.json", *fnmatch.filter(os.listdir(folder), "model_*.pth")):
        if os.path.exists(os.path.join(folder, name)):
            os.replace(os.path.join(folder, name), os.path.join(previous, name))
