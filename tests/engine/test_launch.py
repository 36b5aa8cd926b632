"""Workers that die or hang end the run, in words and in bounded time; a restart goes on."""

import importlib
import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch.multiprocessing as mp

pytest.importorskip("detectron2")

from fa_detectron.engine import argument_parser, launch, setup
from fa_detectron.errors import UserError
from tests.engine.processes import START, free_port
from tests.engine.tiny import TRAIN_NET

launching = importlib.import_module("fa_detectron.engine.launch")  # the package has the function by that name

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
LONG = ("SOLVER.MAX_ITER", 100_000, "SOLVER.CHECKPOINT_PERIOD", 5, "TEST.EVAL_PERIOD", 0)


def start(words: tuple, log: Path, launcher: tuple = ()) -> subprocess.Popen:
    line = [sys.executable, *launcher, str(TRAIN_NET), *map(str, words)]
    with open(log, "w") as out:
        return subprocess.Popen(line, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=out, stderr=out)


def workers(process: subprocess.Popen) -> list[int]:
    command = ["pgrep", "-P", str(process.pid), "-f", "spawn_main|train_net"]
    found = subprocess.run(command, capture_output=True, text=True)
    return [int(pid) for pid in found.stdout.split()]


def wait_for(path: Path, process: subprocess.Popen, log: Path) -> None:
    end = time.monotonic() + 200
    while not path.exists() or not path.stat().st_size:
        assert process.poll() is None and time.monotonic() < end, (path, log.read_text())
        time.sleep(0.1)


@pytest.mark.parametrize("how", ["killed", "hung", "killed under torchrun"])
def test_a_lost_worker_ends_the_run_which_can_be_resumed(tiny, tmp_path, how):
    torchrun = "torchrun" in how
    processes = () if torchrun else ("--num-processes", 2)
    words = (*tiny.args, *processes, "--timeout", 0.2, *LONG, "OUTPUT_DIR", tmp_path / "out")
    process = start(words, tmp_path / "log", TORCHRUN if torchrun else ())
    try:
        wait_for(tmp_path / "out" / "last_checkpoint", process, tmp_path / "log")
        victim = workers(process)[-1]
        os.kill(victim, signal.SIGSTOP if how == "hung" else signal.SIGKILL)
        status = process.wait(120)
    finally:
        process.kill()
    text = (tmp_path / "log").read_text()
    assert status == (1 if torchrun else 2), text
    lost = f"(pid {victim}) died by signal SIGKILL" if how == "killed" else "has lost another worker"
    assert lost in text or ("torchrun" in how and "SIGKILL" in text)
    if how != "killed":
        return
    assert f"--resume continues from the last checkpoint in {tmp_path / 'out'}" in text
    iteration = int((tmp_path / "out" / "last_checkpoint").read_text()[len("model_") : -len(".pth")]) + 1
    words = (*words[:2], "--resume", *words[2:], "SOLVER.MAX_ITER", iteration + 2)
    assert start(words, tmp_path / "again").wait(120) == 0
    assert f"at iteration {iteration} of {iteration + 2}" in (tmp_path / "again").read_text()


def late(rank: int, port: int, words: list[str], folder: str) -> None:
    """Rank 0 comes seconds after the other, as one does that reads the data, or that shares a busy machine."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="2")
    os.environ.update(LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE="2")
    args = argument_parser().parse_args(words)
    cfg = setup(args)
    time.sleep(0 if rank else 4)
    launch(lambda args, cfg: Path(folder, str(rank)).touch(), args, cfg)


def test_to_wait_for_each_others_start_is_no_loss(tiny, tmp_path):
    words = [str(word) for word in (*tiny.args, "--timeout", 0.02)]
    mp.start_processes(late, (free_port(), words, str(tmp_path)), nprocs=2, start_method=START)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1"]


def test_a_worker_that_is_alone_says_so(tiny, monkeypatch):
    monkeypatch.setattr(launching, "_START", timedelta(seconds=1))
    port = free_port()
    for name, value in {"RANK": 1, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, str(value))
    args = argument_parser().parse_args([str(word) for word in (*tiny.args, "--timeout", 0.01)])
    with pytest.raises(UserError, match=rf"worker 1 has not found the other 1 at 127\.0\.0\.1:{port} .*started"):
        launch(print, args, setup(args))
