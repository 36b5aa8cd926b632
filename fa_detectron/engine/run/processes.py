"""One process or many: GPUs over NCCL, CPU processes over gloo, or the ones that torchrun has started."""

import argparse
import math
import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from logging import LogRecord
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.config import CfgNode
from detectron2.utils import comm

from fa_detectron.engine.run.logs import held_lines, note_failure, take_lines
from fa_detectron.engine.run.signals import STATUSES, handled_signals, leave_lost_terminal
from fa_detectron.errors import SharedError, UserError, run_command
from fa_detectron.machine import usable_cpus

_FAREWELL = 5.0  # seconds for the other workers to end by themselves
# At least, to find each other: machines start one after the other, and rank 0 reads the data first.
_START = timedelta(minutes=10)
_Main = Callable[[argparse.Namespace, CfgNode], Any]


def under_torchrun() -> bool:
    """Whether a launcher such as torchrun has started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def is_first_process() -> bool:
    """Whether this process is the one that checks the data for all."""
    return os.environ.get("RANK", "0") == "0"


def count_processes(args: argparse.Namespace, cfg: CfgNode) -> tuple[int, str]:
    """How many processes this machine runs and on which device ("cuda" or "cpu").

    Raises:
        UserError: more GPUs asked for than the machine has, or contradicting arguments.
    """
    gpus = torch.cuda.device_count()
    for name, value in (("--num-gpus", args.num_gpus), ("--num-processes", args.num_processes)):
        if value is not None and value < 0:
            raise UserError(f"{name} {value}: expected a number of processes")
    if not 0 <= args.machine_rank < args.num_machines:
        raise UserError(
            f"--machine-rank {args.machine_rank}: the {args.num_machines} of --num-machines are numbered from 0"
        )
    if not 0 < args.timeout < math.inf:
        raise UserError(f"--timeout {args.timeout}: expected a number of minutes above 0")
    if args.num_gpus and args.num_processes:
        raise UserError("--num-gpus N and --num-processes N (CPU) exclude each other")
    if args.num_gpus and args.num_gpus > gpus:
        there = f"{gpus} GPU{'s' if gpus > 1 else ''}" if gpus else "no GPU that torch can use"
        raise UserError(
            f"--num-gpus {args.num_gpus}: this machine has {there}"
            + ("" if gpus else "; without --num-gpus the CPU is used, and --num-processes N runs several CPU processes")
        )
    asked = args.num_gpus or args.num_processes
    by_default = gpus and args.num_gpus is None and not asked and cfg.MODEL.DEVICE.startswith("cuda")
    device = "cuda" if args.num_gpus or by_default else "cpu"
    if not under_torchrun():
        return asked or 1, device

    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if asked and asked != local:
        raise UserError(f"torchrun started {local} processes on this machine; --num-gpus/--num-processes says {asked}")
    if device == "cuda" and local > gpus:
        raise UserError(f"torchrun started {local} processes on this machine, which has {gpus} GPUs")
    return local, device


def launch(main: _Main, args: argparse.Namespace, cfg: CfgNode) -> Any:
    """Run ``main(args, cfg)`` in as many processes as the arguments or torchrun's environment ask for.

    Args:
        main: a module's function (spawned processes import it by name).
        args: with num_gpus, num_processes, num_machines, machine_rank, dist_url, timeout.
        cfg: the resolved config; MODEL.DEVICE says whether processes use GPUs or CPUs.

    Returns:
        What ``main`` returns if it ran in this process; else None.

    Raises:
        UserError: a worker process died (the message says which, and how).
        SystemExit: a worker has reported a user's error itself.
    """
    if under_torchrun():
        return _run_worker(main, args, cfg)
    local, _ = count_processes(args, cfg)
    if local * args.num_machines == 1:
        return main(args, cfg)

    address, port = _rendezvous(args)
    environment = {
        "WORLD_SIZE": str(args.num_machines * local),
        "LOCAL_WORLD_SIZE": str(local),
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port),
    }
    options = (args.machine_rank * local, environment, held_lines(), main, args, cfg)
    context = mp.start_processes(_spawned, options, nprocs=local, join=False, start_method="spawn")
    try:
        with _passed_on(context.processes):
            while not context.join(grace_period=_FAREWELL):
                pass
    except mp.ProcessExitedException as error:
        if error.exit_code in (2, *STATUSES) and not error.signal_name:
            raise SystemExit(error.exit_code) from None  # the worker has said why
        how = f"by signal {error.signal_name}" if error.signal_name else f"with exit status {error.exit_code}"
        text = (
            f"worker process {error.error_index} (pid {error.error_pid}) died {how}; the run has ended. "
            f"--resume continues from the last checkpoint in {cfg.OUTPUT_DIR}, if there is one"
        )
        note_failure(cfg.OUTPUT_DIR, text)
        raise UserError(text) from None
    return None


@contextmanager
def _passed_on(processes: list[BaseProcess]) -> Iterator[None]:
    """Pass Ctrl-C, SIGTERM and SIGHUP on to the workers, which stop after the current step, and wait for them."""

    def handle(number: int, frame: FrameType | None) -> None:
        leave_lost_terminal()
        for process in processes:
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, number)

    before = {number: signal.signal(number, handle) for number in handled_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _rendezvous(args: argparse.Namespace) -> tuple[str, int]:
    if args.dist_url == "auto":
        if args.num_machines > 1:
            raise UserError("--num-machines above 1 needs --dist-url tcp://HOST:PORT of the machine of rank 0")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return "127.0.0.1", probe.getsockname()[1]
    scheme, _, rest = args.dist_url.partition("://")
    host, _, port = rest.rpartition(":")
    if scheme != "tcp" or not host or not port.isdigit():
        raise UserError(f"--dist-url {args.dist_url}: expected tcp://HOST:PORT or auto")
    return host, int(port)


def _spawned(index: int, first_rank: int, environment: dict[str, str], lines: list[LogRecord], *task: Any) -> None:
    """``task``: the arguments of :func:`_run_worker`."""
    os.environ.update(environment, RANK=str(first_rank + index), LOCAL_RANK=str(index))

    def work() -> None:
        if first_rank + index == 0:
            take_lines(lines)
        _run_worker(*task)

    run_command(work)


def _run_worker(main: _Main, args: argparse.Namespace, cfg: CfgNode) -> Any:
    """Join the process group that the environment describes (torchrun's variables), and run."""
    from fa_detectron.data import register_from_config

    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if cfg.MODEL.DEVICE.startswith("cuda"):
        torch.cuda.set_device(local_rank)
        backend = "nccl"
    else:
        backend = "gloo"
        if "OMP_NUM_THREADS" not in os.environ:  # the processes share the cores
            torch.set_num_threads(max(1, usable_cpus() // local))
    patience = timedelta(minutes=args.timeout)
    store = _meet(max(_START, patience))
    try:
        rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=patience)
        _create_local_group(local)
        # Only the first process has looked at the data, so its config is the run's.
        shared = [cfg if is_first_process() else None]
        dist.broadcast_object_list(shared, src=0)
        cfg = shared[0]
        register_from_config(cfg)  # a spawned process starts with Detectron2's own data sets only
        comm.synchronize()
        result = main(args, cfg)
    except SharedError:
        if comm.is_main_process():
            raise
        time.sleep(_FAREWELL)  # the first exit ends the others, and the main process has something to say
        raise SystemExit(2) from None
    except RuntimeError as error:
        # Some of gloo's errors name it; others only say that an operation timed out or that a pair was closed.
        if not isinstance(error, dist.DistError) and not re.search("gloo|timed out|pair closure", str(error)):
            raise
        # Only the first line: the rest is torch's own addresses.
        raise UserError(
            f"worker {rank} has lost another worker ({str(error).splitlines()[0]}); the run has ended. "
            f"--resume continues from the last checkpoint in {cfg.OUTPUT_DIR}, if there is one"
        ) from None
    _wait_for_all(store, rank, world, patience)
    dist.destroy_process_group()  # not on failure: it could wait for workers that are gone
    return result


def _wait_for_all(store: dist.Store, rank: int, world: int, patience: timedelta) -> None:
    """Wait until all workers are done: one that closes its connections looks lost to one that still reads from them."""
    store.set(f"ended/{rank}", "")
    try:
        store.wait([f"ended/{other}" for other in range(world)], patience)
    except dist.DistError:
        pass  # the store ended with its worker, which has seen all end; or the others took longer than --timeout


def _meet(patience: timedelta) -> dist.Store:
    """Wait until all workers are there; returns the store by which they found each other."""
    try:
        store, _, _ = next(dist.rendezvous("env://", timeout=patience))
    except (dist.DistError, ValueError) as error:  # ValueError: a variable that is not set
        raise UserError(
            f"worker {os.environ['RANK']} has not found the other {int(os.environ['WORLD_SIZE']) - 1} at "
            f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')} ({str(error).splitlines()[0]}). Are they "
            "all started, and can this machine reach that port?"
        ) from None
    return store


def _create_local_group(local: int) -> None:
    """Tell Detectron2 which ranks share a machine; release 0.6 does this in its own launcher only."""
    if hasattr(comm, "create_local_process_group"):
        comm.create_local_process_group(local)
        return
    for first in range(0, dist.get_world_size(), local):
        group = dist.new_group(list(range(first, first + local)))
        if first <= dist.get_rank() < first + local:
            comm._LOCAL_PROCESS_GROUP = group
