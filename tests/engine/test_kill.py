"""kill -9 at any moment, in the middle of a checkpoint's write as well, costs at most one checkpoint period.

The long loop is tests/soak/kill_loop.py (``make soak``).
"""

import io
import random
import signal
import time
from functools import partial
from pathlib import Path

import pytest
import torch

pytest.importorskip("detectron2")

from detectron2.engine import HookBase

from fa_detectron.engine import Trainer
from tests.engine.conftest import run
from tests.engine.processes import CONTEXT

PERIOD = 3


class Journal(HookBase):
    """Notes the first iteration of every life and every finished one; what is written survives the process."""

    def __init__(self, path: str) -> None:
        self._path = path

    def _note(self, text: str) -> None:
        with open(self._path, "a") as file:
            file.write(text)

    def before_train(self) -> None:
        self._note(f"begin {self.trainer.start_iter}\n")

    def after_step(self) -> None:
        self._note(f"done {self.trainer.iter + 1}\n")


def life(words: list[str], journal: str, slow_disk: bool) -> None:
    """One life of the run. ``slow_disk``: a checkpoint takes a second, so that a kill hits its write."""
    build = Trainer.build_hooks
    Trainer.build_hooks = lambda self: [Journal(journal), *build(self)]  # noted before its checkpoint is written
    save = torch.save

    def drip(content: dict, file: io.BufferedWriter) -> None:
        whole = io.BytesIO()
        save(content, whole)
        size = len(whole.getbuffer()) // 50 + 1
        whole.seek(0)
        while part := whole.read(size):
            file.write(part)
            file.flush()
            time.sleep(0.02)

    if slow_disk:
        torch.save = drip
    run(*words)


def notes(journal: Path) -> list[list[str]]:
    return [line.split() for line in journal.read_text().splitlines()] if journal.exists() else []


def noted(journal: Path, count: int) -> bool:
    return len(notes(journal)) >= count


def writing(folder: Path, pid: int) -> bool:
    """Whether the process is, or was when it died, inside a checkpoint's write."""
    return any(folder.glob(f"*.pth.{pid}.tmp"))


def wait_until(happened, process) -> None:
    end = time.monotonic() + 120
    while not happened():
        assert process.is_alive() and time.monotonic() < end
        time.sleep(0.005)


def kill_loop(words: tuple, folder: Path, kills: int) -> int:
    """Kill the run ``kills`` times, every second time inside a checkpoint's write, then let it end; compare.

    Returns:
        How many kills fell into a write.
    """
    straight, killed, journal, rng = folder / "straight", folder / "killed", folder / "journal", random.Random(0)
    words = tuple(map(str, (*words, "SOLVER.CHECKPOINT_PERIOD", PERIOD, "SOLVER.MAX_ITER", 15 * kills)))
    words = (*words, "TEST.EVAL_PERIOD", "0")
    run(*words, "OUTPUT_DIR", straight)
    resumed = (*words[:2], "--resume", *words[2:], "OUTPUT_DIR", str(killed))
    inside = 0
    for number in range(kills):
        before, slow = len(notes(journal)), number % 2 == 1
        process = CONTEXT.Process(target=life, args=(resumed, str(journal), slow))
        process.start()
        if slow:
            wait_until(partial(writing, killed, process.pid), process)
        else:
            wait_until(partial(noted, journal, before + PERIOD + 2 + rng.randrange(PERIOD)), process)
        time.sleep(rng.random() * 0.3)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        inside += writing(killed, process.pid)
    run(*resumed)
    done = 0
    for what, iteration in notes(journal):
        if what == "begin":
            assert int(iteration) >= done - PERIOD
        done = int(iteration)
    one, two = (torch.load(path / "model_final.pth", weights_only=True) for path in (straight, killed))
    assert all(torch.equal(value, two["model"][key]) for key, value in one["model"].items())
    assert not list(killed.glob("*.tmp"))
    return inside


def test_three_kills_cost_nothing(tiny, tmp_path):
    assert kill_loop(tiny.args, tmp_path, kills=3) >= 1
