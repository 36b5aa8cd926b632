"""What a run needs of its machine, looked at before it starts: room on the disk, shared memory, file handles."""

import errno
import math
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.queues import Queue

from detectron2.config import CfgNode
from detectron2.utils import comm
from torch import nn
from torch._utils import ExceptionWrapper
from torch.utils.data import DataLoader

from fa_detectron.errors import UserError

_SHARED_MEMORY = "/dev/shm"
_OTHER_HANDLES = 200  # of libraries, logs and processes
_TENSORS = 3  # an image's: pixels, boxes, classes; each takes a file handle on its way from a data worker
_LOOKED_AT = 1000  # images
_HANDLES = "allow more open files (ulimit -n {}), or lower DATALOADER.NUM_WORKERS"
_print_error = Queue._on_queue_feeder_error
_MEMORY = f"give {_SHARED_MEMORY} more (docker run --shm-size 8g, or --ipc host), or lower DATALOADER.NUM_WORKERS"


def check_folder(folder: str) -> None:
    """Whether the run's folder can be made or written to, as far as the system tells beforehand."""
    with suppress(FileNotFoundError):
        os.stat(folder)  # raises for names that are too long, loops of links, folders that may not be entered
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise UserError(f"OUTPUT_DIR {folder} exists and is not a folder")
    there = os.path.abspath(folder)
    while not os.path.exists(there):
        there = os.path.dirname(there)
    if not os.access(there, os.W_OK):
        reason = "no permission" if os.access(there, os.R_OK) else "not accessible"
        if hasattr(os, "statvfs") and os.statvfs(there).f_flag & getattr(os, "ST_RDONLY", 0):
            reason = "the file system is read-only"
        raise UserError(f"OUTPUT_DIR {folder}: {there} cannot be written to ({reason}); name another folder")


def room_problem(cfg: CfgNode, model: nn.Module, start: int) -> str:
    """What is wrong with the room for the checkpoints of a run, "" for nothing.

    Args:
        cfg: the run's.
        model: whose weights they hold.
        start: iterations that are done; a resumed run's own checkpoints count as room, for they make way for new ones.
    """
    solver = cfg.SOLVER
    weights = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    states = 2 if solver.OPTIMIZER == "ADAMW" else 1
    numbered = weights * (2 if solver.EMA_DECAY else 1) + trained * states
    written = max(0, solver.MAX_ITER - start) // solver.CHECKPOINT_PERIOD + 1 if solver.CHECKPOINT_PERIOD > 0 else 1
    count = solver.CHECKPOINTS_KEPT + 1 if solver.CHECKPOINTS_KEPT else written
    needed = count * numbered + 2 * weights  # model_final.pth and model_best.pth
    there = os.path.abspath(cfg.OUTPUT_DIR)
    while not os.path.exists(there):
        there = os.path.dirname(there)
    free = shutil.disk_usage(there).free
    if start:
        with os.scandir(there) as entries:
            free += sum(e.stat().st_size for e in entries if re.fullmatch(r"model_(\d+|final|best)\.pth", e.name))
    if free >= needed:
        return ""
    return (
        f"OUTPUT_DIR {cfg.OUTPUT_DIR}: the checkpoints of this run need {needed / 1e6:,.0f} MB ({count} of "
        f"{numbered / 1e6:,.0f} MB to go on from, 2 of {weights / 1e6:,.0f} MB with the weights alone), and "
        f"{free / 1e6:,.0f} MB are free. Make room, name another folder, or keep fewer (SOLVER.CHECKPOINTS_KEPT 2)"
    )


def check_data_workers(cfg: CfgNode, loader: DataLoader, records: Sequence[dict]) -> None:
    """Whether the batches that the data workers prepare fit into shared memory, and their handles into the limit.

    Args:
        cfg: the run's.
        loader: of this process, not started.
        records: of the training set; width and height say how large a batch is.

    Raises:
        UserError: too little of either. The soft limit of open files is raised as far as it may be.
    """
    if not loader.num_workers:
        return
    parts = comm.get_world_size() * cfg.SOLVER.ACCUMULATION_STEPS
    images = (loader.num_workers * loader.prefetch_factor + 1) * cfg.SOLVER.IMS_PER_BATCH // parts
    _check_handles(images * _TENSORS + _OTHER_HANDLES)
    if cfg.INPUT.CROP.ENABLED:
        return
    bytes_needed = images * _mean_image_bytes(cfg, records) * comm.get_local_size()
    free = _free_memory()
    if free < bytes_needed:
        raise UserError(
            f"{_SHARED_MEMORY} has {free / 1e6:,.1f} MB free, and the data workers of this machine need about "
            f"{bytes_needed / 1e6:,.1f} MB to hand over images (DATALOADER.NUM_WORKERS {loader.num_workers}): {_MEMORY}"
        )


def _free_memory() -> float:
    """Bytes of shared memory that are free; without end where the system gives it no size (macOS, Windows)."""
    return shutil.disk_usage(_SHARED_MEMORY).free if os.path.isdir(_SHARED_MEMORY) else math.inf


def _mean_image_bytes(cfg: CfgNode, records: Sequence[dict]) -> float:
    shorts = cfg.INPUT.MIN_SIZE_TRAIN
    shorts = [shorts] if isinstance(shorts, int) else list(shorts)
    sizes = []
    for index in range(0, len(records), max(1, len(records) // _LOOKED_AT)):
        width, height = records[index].get("width"), records[index].get("height")
        if not width or not height:  # sets that a user registers need not say
            continue
        for short in shorts:
            scale = min(short / min(width, height), cfg.INPUT.MAX_SIZE_TRAIN / max(width, height)) if short else 1.0
            sizes.append(3 * width * height * scale**2)
    return sum(sizes) / max(1, len(sizes))


def _check_handles(needed: int) -> None:
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise UserError(
            f"this process may open {hard} files, and its data workers need about {needed}: {_HANDLES.format(needed)}"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


@contextmanager
def explained_worker_errors() -> Iterator[None]:
    """Turn what happens when data workers run out of shared memory or file handles into a user's error.

    Without this a worker that cannot hand over a batch only prints a traceback, and the training waits for ever.
    """
    before = vars(Queue)["_on_queue_feeder_error"]  # as it is stored: contexts may be nested
    Queue._on_queue_feeder_error = _hand_over_error  # the workers are forked from this process
    try:
        yield
    except (RuntimeError, OSError) as error:
        text = str(error)
        lines = text.strip().splitlines() or [""]
        first = lines[-1 if lines[0].startswith("Caught") else 0][:120]  # a worker's error starts with its traceback
        full = getattr(error, "errno", None) == errno.ENOSPC and error.filename is None and _free_memory() < 2**20
        if re.search("Too many open files|received 0 items of ancdata", text):  # shared memory is opened as a file
            raise UserError(f"the data workers ran out of file handles ({first}): {_HANDLES.format(4096)}") from None
        if full or re.search("Bus error|shared memory|unable to (write|resize|mmap|allocate).*torch_|/torch_", text):
            raise UserError(f"the data workers ran out of shared memory ({first}): {_MEMORY}") from None
        raise
    finally:
        Queue._on_queue_feeder_error = before


def _hand_over_error(queue: Queue, error: Exception, item: object) -> None:
    """In a worker: send the error in place of the batch that could not be sent, ``item`` being (number, batch)."""
    if isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], int):
        queue.put((item[0], ExceptionWrapper(where="in a data worker")))
    else:
        _print_error(error, item)
