"""The run's folder: made when training really starts, so that a wrong argument leaves nothing behind."""

import copy
import fnmatch
import json
import logging
import logging.handlers
import math
import os
import secrets
from collections.abc import Sequence

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger

import fa_detectron
from fa_detectron.errors import SharedError, failures
from fa_detectron.files import atomic_write

_LOGGERS = ("fa_detectron", "detectron2", "fvcore")
_FORMAT = logging.Formatter("[%(asctime)s] %(name)s %(levelname)s: %(message)s", "%m/%d %H:%M:%S")
_TRACES = ("last_checkpoint", "log.txt", "metrics.json", "config.yaml")  # any of them would be written over
# What a run writes, checkpoints first. Other files in its folder are the user's, or other runs below it.
_RUN_FILES = (
    "model_*.pth", "last_checkpoint", "best_checkpoint.json", "metrics.json", "config.yaml", "log.txt", "log.txt.rank*",
    "events.out.tfevents.*", "samples", "train_batches.jpg", "inference", "inference_TTA", "eval", "custom_*.json",
    "report.html",
)  # fmt: skip
_held: logging.handlers.MemoryHandler | None = None
_files: list[logging.Handler] = []


def start_logging() -> None:
    """Log to the terminal (rank 0 alone); what is said before there is a run folder goes to its log.txt afterwards."""
    global _held
    if _held is not None:
        return
    _close_logs()  # what comes is another run's
    _held = logging.handlers.MemoryHandler(10_000, flushLevel=logging.CRITICAL + 1, flushOnClose=False)
    for name in _LOGGERS:
        setup_logger(distributed_rank=int(os.environ.get("RANK", "0")), name=name)
        logging.getLogger(name).addHandler(_held)


def held_lines() -> list[logging.LogRecord]:
    """What has been logged and waits for a run folder, for another process to take up with :func:`take_lines`."""
    records = [copy.copy(record) for record in (_held.buffer if _held is not None else ())]
    for record in records:
        record.msg, record.args, record.exc_info = record.getMessage(), None, None  # so that it can be pickled
    return records


def take_lines(records: list[logging.LogRecord]) -> None:
    """Have the lines of the process that started this one written to log.txt, too."""
    start_logging()
    if _held is not None:
        _held.buffer[:0] = records


def raise_together(problem: str) -> None:
    """Raise the main process's ``problem``, "" for none, in all processes: none is left waiting for another."""
    problem = comm.all_gather(problem)[0]
    if problem:
        raise SharedError(problem)


def start_process(cfg: CfgNode) -> None:
    """Logging, seeds and library switches of this process; say once where it runs. Writes no file."""
    start_logging()
    # Each worker draws its own augmentations; Detectron2 takes the data order from rank 0's seed.
    seed_all_rng(secrets.randbits(31) if cfg.SEED < 0 else cfg.SEED + comm.get_rank())
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
        if not resumed and any(os.path.exists(os.path.join(folder, name)) for name in _TRACES):
            logger.warning("%s held an earlier run: its files are now in %s", folder, _put_aside(folder))
        with atomic_write(os.path.join(folder, "config.yaml")) as file:
            file.write(cfg.dump())
    comm.synchronize()  # the earlier run's files have gone
    open_logs([folder])


def open_logs(folders: Sequence[str]) -> None:
    """From now on, log to ``log.txt`` (``log.txt.rankN`` in the other processes) in each folder, made where absent.

    The messages from before there was a log come first; the logs of an earlier run in this process are closed.
    """
    global _held
    rank = comm.get_rank()
    held = list(_held.buffer) if _held is not None else []
    targets = (*map(logging.getLogger, _LOGGERS), failures)
    for target in targets:
        if _held is not None:
            target.removeHandler(_held)
    _held = None
    _close_logs()
    for folder in folders:
        os.makedirs(folder, exist_ok=True)
        handler = _file_handler(os.path.join(folder, f"log.txt.rank{rank}" if rank else "log.txt"))
        for record in held:
            handler.handle(record)
        for target in targets:
            target.addHandler(handler)
        _files.append(handler)


def _close_logs() -> None:
    """Detach the logs of an earlier run in this process."""
    for old in _files:
        for target in (*map(logging.getLogger, _LOGGERS), failures):
            target.removeHandler(old)
        old.close()
    _files.clear()


def note_failure(folder: str, text: str) -> None:
    """Write a line to the log.txt of a run that this process has only launched, if there is one yet."""
    path = os.path.join(folder, "log.txt")
    if not os.path.isfile(path):
        return
    handler = _file_handler(path)
    handler.emit(failures.makeRecord(failures.name, logging.ERROR, "", 0, text, (), None))
    handler.close()


def _file_handler(path: str) -> logging.Handler:
    handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(_FORMAT)
    return handler


def set_final_aside(folder: str, iterations: int) -> None:
    """Rename the ``model_final.pth`` of a finished run that goes on: its weights are the run's last ones no longer."""
    path, aside = (os.path.join(folder, name) for name in ("model_final.pth", f"model_after_{iterations}.pth"))
    if os.path.exists(path):
        os.replace(path, aside)
        logging.getLogger("fa_detectron.engine").info("the finished run goes on: its model_final.pth is now %s", aside)


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


def _put_aside(folder: str) -> str:
    """Move an earlier run's files to ``folder/previous/N``, N counting up, so that no run loses or continues them."""
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
