"""Workers that die or hang end the run, in words and in bounded time; a restart goes on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("detectron2")

from tests.engine.tiny import TRAIN_NET

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


def wait_for(path: Path, process: subprocess.Popen) -> None:
    end = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None and time.monotonic() < end, path
        time.sleep(0.1)


@pytest.mark.parametrize("how", ["killed", "hung", "killed under torchrun"])
def test_a_lost_worker_ends_the_run_which_can_be_resumed(tiny, tmp_path, how):
    torchrun = "torchrun" in how
    processes = () if torchrun else ("--num-processes", 2)
    words = (*tiny.args, *processes, "--timeout", 0.05, *LONG, "OUTPUT_DIR", tmp_path / "out")
    process = start(words, tmp_path / "log", TORCHRUN if torchrun else ())
    try:
        wait_for(tmp_path / "out" / "last_checkpoint", process)
        victim = workers(process)[-1]
        os.kill(victim, signal.SIGSTOP if how == "hung" else signal.SIGKILL)
        status = process.wait(60)
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
