"""What a process logs, and where: the terminal, and ``log.txt`` in the run's folder."""

import copy
import logging
import logging.handlers
import os
import secrets
from collections.abc import Sequence

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger

import fa_detectron
from fa_detectron.errors import failures

_LOGGERS = ("fa_detectron", "detectron2", "fvcore")
_FORMAT = logging.Formatter("[%(asctime)s] %(name)s %(levelname)s: %(message)s", "%m/%d %H:%M:%S")
_held: logging.handlers.MemoryHandler | None = None
_files: list[logging.Handler] = []


def start_logging() -> None:
    """Log to the terminal (rank 0 only); messages before there is a run folder are kept for its log.txt."""
    global _held
    if _held is not None:
        return
    _close_logs()  # those of a previous run in this process
    _held = logging.handlers.MemoryHandler(10_000, flushLevel=logging.CRITICAL + 1, flushOnClose=False)
    for name in _LOGGERS:
        setup_logger(distributed_rank=int(os.environ.get("RANK", "0")), name=name)
        logging.getLogger(name).addHandler(_held)


def start_process(cfg: CfgNode) -> None:
    """Set up logging, seeds and library switches of this process; log once where it runs. Writes no file."""
    start_logging()
    # Each worker draws its own augmentations; the order of the data follows from the run's seed.
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


def held_lines() -> list[logging.LogRecord]:
    """The messages that wait for a run folder, in a form that can be pickled for :func:`take_lines`."""
    records = [copy.copy(record) for record in (_held.buffer if _held is not None else ())]
    for record in records:
        record.msg, record.args, record.exc_info = record.getMessage(), None, None
    return records


def take_lines(records: list[logging.LogRecord]) -> None:
    """Add the messages of the process that started this one, for log.txt."""
    start_logging()
    if _held is not None:
        _held.buffer[:0] = records


def open_logs(folders: Sequence[str]) -> None:
    """From now on, log to ``log.txt`` (``log.txt.rankN`` in the other processes) in each folder; makes the folders.

    The kept messages come first; the logs of a previous run in this process are closed.
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
    for old in _files:
        for target in (*map(logging.getLogger, _LOGGERS), failures):
            target.removeHandler(old)
        old.close()
    _files.clear()


def note_failure(folder: str, text: str) -> None:
    """Write a line to the log.txt of a run that this process only launched, if there is one."""
    path = os.path.join(folder, "log.txt")
    if os.path.isfile(path):
        handler = _file_handler(path)
        handler.emit(failures.makeRecord(failures.name, logging.ERROR, "", 0, text, (), None))
        handler.close()


def _file_handler(path: str) -> logging.Handler:
    handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(_FORMAT)
    return handler
