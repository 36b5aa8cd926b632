"""What a run needs of its machine, checked before it starts: disk space, shared memory, file handles."""

import errno
import math
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.queues import Queue
from typing import Any

from detectron2.config import CfgNode
from detectron2.utils import comm
from torch import nn
from torch._utils import ExceptionWrapper
from torch.utils.data import DataLoader

from fa_detectron.errors import UserError

_SHARED_MEMORY = "/dev/shm"
_OTHER_HANDLES = 200  # libraries, logs and processes
_TENSORS = 3  # per image: pixels, boxes, classes; each takes a file handle on its way from a data worker
_SAMPLED = 1000  # images
_HANDLES = "allow more open files (ulimit -n {}), or lower DATALOADER.NUM_WORKERS"
_QUEUE: Any = Queue  # of whose hook for such errors no type knows
_print_error = _QUEUE._on_queue_feeder_error
_MEMORY = f"give {_SHARED_MEMORY} more (docker run --shm-size 8g, or --ipc host), or lower DATALOADER.NUM_WORKERS"


def check_folder(folder: str) -> None:
    """Raise a UserError unless the run's folder can be made or written to, as far as the system can tell."""
    with suppress(FileNotFoundError):
        os.stat(folder)  # raises for names that are too long, loops of links, folders without permission
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise UserError(f"OUTPUT_DIR {folder} exists and is not a folder")
    there = _existing(folder)
    if not os.access(there, os.W_OK):
        reason = "no permission" if os.access(there, os.R_OK) else "not accessible"
        if hasattr(os, "statvfs") and os.statvfs(there).f_flag & getattr(os, "ST_RDONLY", 0):
            reason = "the file system is read-only"
        raise UserError(f"OUTPUT_DIR {folder}: {there} cannot be written to ({reason}); name another folder")


def _existing(folder: str) -> str:
    """The folder, or the nearest one above it that exists."""
    folder = os.path.abspath(folder)
    while not os.path.exists(folder):
        folder = os.path.dirname(folder)
    return folder


def room_problem(cfg: CfgNode, model: nn.Module, start: int) -> str:
    """An error message if there is too little disk space for the run's checkpoints, else "".

    Args:
        cfg: the run's config.
        model: the model that they hold.
        start: iterations that are done. A resumed run's own checkpoints count as space, since they are replaced.
    """
    solver = cfg.SOLVER
    weights = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    states = 2 if solver.OPTIMIZER == "ADAMW" else 1
    numbered = weights * (2 if solver.EMA_DECAY else 1) + trained * states
    steps, period, kept = solver.MAX_ITER - start, solver.CHECKPOINT_PERIOD, solver.CHECKPOINTS_KEPT + 1
    count = (max(0, steps - 1) // period if period > 0 else 0) + 1
    if solver.CHECKPOINTS_KEPT:  # one more while the next is being written; by time, any number may be
        count = kept if solver.CHECKPOINT_MINUTES > 0 else min(kept, count)
    alone = 2 if cfg.DATASETS.TEST else 1  # model_final.pth and model_best.pth
    needed = count * numbered + alone * weights
    there = _existing(cfg.OUTPUT_DIR)
    free = shutil.disk_usage(there).free
    if start:
        with os.scandir(there) as entries:
            free += sum(e.stat().st_size for e in entries if re.fullmatch(r"model_(\d+|final|best)\.pth", e.name))
    if free >= needed:
        return ""
    return (
        f"OUTPUT_DIR {cfg.OUTPUT_DIR}: the checkpoints of this run need {needed / 1e6:,.0f} MB ({count} of "
        f"{numbered / 1e6:,.0f} MB to resume from, {alone} of {weights / 1e6:,.0f} MB with the weights alone), and "
        f"{free / 1e6:,.0f} MB are free. Make room, name another folder, or keep fewer (SOLVER.CHECKPOINTS_KEPT 2)"
    )


def worker_problem(cfg: CfgNode, loader: DataLoader, records: Sequence[dict]) -> str:
    """An error message if shared memory or file handles do not suffice for the data workers' batches, else "".

    The soft limit of open files is raised where necessary and allowed.

    Args:
        cfg: the run's config.
        loader: of this process, not started.
        records: of the training set; their width and height give the size of a batch.
    """
    if not loader.num_workers:
        return ""
    parts = comm.get_world_size() * cfg.SOLVER.ACCUMULATION_STEPS
    images = (loader.num_workers * (loader.prefetch_factor or 2) + 1) * cfg.SOLVER.IMS_PER_BATCH // parts
    problem = _handles_problem(images * _TENSORS + _OTHER_HANDLES)
    if problem or cfg.INPUT.CROP.ENABLED:
        return problem
    bytes_needed = images * _mean_image_bytes(cfg, records) * comm.get_local_size()
    free = _free_memory()
    if free >= bytes_needed:
        return ""
    return (
        f"{_SHARED_MEMORY} has {free / 1e6:,.1f} MB free, and the data workers of this machine need about "
        f"{bytes_needed / 1e6:,.1f} MB to hand over images (DATALOADER.NUM_WORKERS {loader.num_workers}): {_MEMORY}"
    )


def _free_memory() -> float:
    """Free bytes of shared memory; infinite where the system does not limit it (macOS, Windows)."""
    return shutil.disk_usage(_SHARED_MEMORY).free if os.path.isdir(_SHARED_MEMORY) else math.inf


def _mean_image_bytes(cfg: CfgNode, records: Sequence[dict]) -> float:
    shorts = cfg.INPUT.MIN_SIZE_TRAIN
    shorts = [shorts] if isinstance(shorts, int) else list(shorts)
    sizes = []
    for index in range(0, len(records), max(1, len(records) // _SAMPLED)):
        width, height = records[index].get("width"), records[index].get("height")
        if not width or not height:  # sets that a user registers need not have them
            continue
        for short in shorts:
            scale = min(short / min(width, height), cfg.INPUT.MAX_SIZE_TRAIN / max(width, height)) if short else 1.0
            sizes.append(3 * width * height * scale**2)
    return sum(sizes) / max(1, len(sizes))


def _handles_problem(needed: int) -> str:
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return ""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return ""
    if hard != resource.RLIM_INFINITY and hard < needed:
        remedy = _HANDLES.format(needed)
        return f"this process may open {hard} files, and its data workers need about {needed}: {remedy}"
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    return ""


@contextmanager
def explained_worker_errors() -> Iterator[None]:
    """Raise a UserError when data workers run out of shared memory or file handles.

    Without this, a worker that cannot hand over a batch only prints a traceback, and training waits forever.
    """
    before = vars(Queue)["_on_queue_feeder_error"]  # the descriptor itself: contexts may be nested
    _QUEUE._on_queue_feeder_error = _hand_over_error  # the workers are forked from this process
    try:
        yield
    except (RuntimeError, OSError) as error:
        text = str(error)
        lines = text.strip().splitlines() or [""]
        first = lines[-1 if lines[0].startswith("Caught") else 0][:120]  # a worker's error starts with its traceback
        full = (
            getattr(error, "errno", None) == errno.ENOSPC
            and getattr(error, "filename", None) is None
            and _free_memory() < 2**20
        )
        if re.search("Too many open files|received 0 items of ancdata", text):  # shared memory is opened as a file
            raise UserError(f"the data workers ran out of file handles ({first}): {_HANDLES.format(4096)}") from None
        if full or re.search("Bus error|shared memory|unable to (write|resize|mmap|allocate).*torch_|/torch_", text):
            raise UserError(f"the data workers ran out of shared memory ({first}): {_MEMORY}") from None
        raise
    finally:
        _QUEUE._on_queue_feeder_error = before


def _hand_over_error(queue: Queue, error: Exception, item: object) -> None:
    """In a worker: send the error instead of the batch that could not be sent; ``item`` is (number, batch)."""
    if isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], int):
        queue.put((item[0], ExceptionWrapper(where="in a data worker")))
    else:
        _print_error(error, item)
