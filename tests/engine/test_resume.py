"""A run that was stopped goes on as if it had not been: bitwise the same weights, whatever stopped it."""

import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest
import torch

pytest.importorskip("detectron2")

from detectron2.engine import HookBase

from fa_detectron.engine import Trainer
from fa_detectron.engine.resume import effect_of_shares
from fa_detectron.engine.step import BatchShares
from tests.engine.conftest import run
from tests.engine.tiny import TRAIN_NET, last_state, make_config, make_set

# All that is random: the order of the data, flip, size, crop, dropout; and wide images beside square ones.
OPTIONS = (
    *("MODEL.FEATURE_ALIGN.GLOBAL_ATTENTION.ENABLED", True, "MODEL.FEATURE_ALIGN.GLOBAL_ATTENTION.NUM_LAYERS", 1),
    *("MODEL.FEATURE_ALIGN.GLOBAL_ATTENTION.DIM_FEEDFORWARD", 16),
    *("INPUT.MIN_SIZE_TRAIN", "(48, 56, 64)", "INPUT.CROP.ENABLED", True),
    *("SOLVER.MAX_ITER", 20, "SOLVER.CHECKPOINT_PERIOD", 0, "SOLVER.STEPS", "(12,)", "TEST.EVAL_PERIOD", 7),
)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> tuple:
    folder = tmp_path_factory.mktemp("mixed")
    data = make_set(folder / "data", images=7, widths=(64, 96))
    return ("--config-file", make_config(folder), "--train", data, "--val", data)


@pytest.fixture(scope="module")
def straight(mixed, tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("straight")
    run(*mixed, *OPTIONS, "OUTPUT_DIR", folder)
    return last_state(folder)


class SignalAt(HookBase):
    """Sends this process a signal in the middle of a step, or of an evaluation."""

    def __init__(self, number: int, iteration: int) -> None:
        self._number, self._iteration = number, iteration

    def before_step(self) -> None:
        if self.trainer.iter == self._iteration:
            os.kill(os.getpid(), self._number)


def stop_at(monkeypatch, number: int, iteration: int) -> None:
    build = Trainer.build_hooks
    monkeypatch.setattr(Trainer, "build_hooks", lambda self: [*build(self), SignalAt(number, iteration)])


def assert_same(one: dict, two: dict) -> None:
    assert one["model"].keys() == two["model"].keys()
    for key, value in one["model"].items():
        assert torch.equal(value, two["model"][key]), key
    momentum = [state["trainer"]["_trainer"]["optimizer"]["state"] for state in (one, two)]
    for key, value in momentum[0].items():
        assert torch.equal(value["momentum_buffer"], momentum[1][key]["momentum_buffer"]), key


@pytest.mark.parametrize("data_workers", [0, 2])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ten_and_resume_and_ten_is_twenty(mixed, straight, tmp_path, monkeypatch, number, data_workers):
    words = (*mixed, *OPTIONS, "DATALOADER.NUM_WORKERS", data_workers, "OUTPUT_DIR", tmp_path)
    with monkeypatch.context() as patch:
        stop_at(patch, number, 9)
        with pytest.raises(SystemExit) as status:
            run(*words)
    assert status.value.code == 128 + number
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000009.pth"
    done = run(words[0], words[1], "--resume", *words[2:])
    assert done.trainer.start_iter == 10
    log = (tmp_path / "log.txt").read_text()
    name = signal.Signals(number).name
    path = f"{tmp_path}/model_0000009.pth"
    assert f"stopped by {name} after iteration 10 of 20; --resume continues from {path}" in log
    assert f"resumed from {path} at iteration 10 of 20: weights, optimizer, schedule, and the data" in log
    assert_same(straight, last_state(tmp_path))


TOGETHER = ("SOLVER.EMA_DECAY", 0.9, "SOLVER.ACCUMULATION_STEPS", 2, "SOLVER.IMS_PER_BATCH", 4, "SOLVER.AMP.ENABLED",
            True, "DATALOADER.NUM_WORKERS", 2, "SOLVER.MAX_ITER", 8, "SOLVER.STEPS", "(6,)")  # fmt: skip


def test_an_average_parts_and_bfloat16_go_on_exactly_too(mixed, tmp_path, monkeypatch):
    words = (*mixed, *OPTIONS, *TOGETHER, "TEST.EVAL_PERIOD", 0)
    run(*words, "OUTPUT_DIR", tmp_path / "straight")
    with monkeypatch.context() as patch:
        stop_at(patch, signal.SIGTERM, 3)
        with pytest.raises(SystemExit):
            run(*words, "OUTPUT_DIR", tmp_path / "parts")
    run(words[0], words[1], "--resume", *words[2:], "OUTPUT_DIR", tmp_path / "parts")
    one, two = (last_state(tmp_path / part) for part in ("straight", "parts"))
    assert_same(one, two)
    trained = [state["trainer"]["_trainer"]["trained_model"] for state in (one, two)]
    assert all(torch.equal(value, trained[1][key]) for key, value in trained[0].items())


def test_another_batch_or_number_of_processes_is_named(mixed, tmp_path):
    words = (*mixed, *OPTIONS, "SOLVER.MAX_ITER", 2, "TEST.EVAL_PERIOD", 0, "OUTPUT_DIR", tmp_path)
    run(*words)
    resumed = (*words[:2], "--resume", *words[2:])
    run(*resumed, "SOLVER.MAX_ITER", 3)
    assert "a step was" not in (tmp_path / "log.txt").read_text()
    run(*resumed, "SOLVER.MAX_ITER", 4, "SOLVER.IMS_PER_BATCH", 4, "SOLVER.ACCUMULATION_STEPS", 2)
    wanted = "a step was 2 images over 1 process, now it is 4 images over 1 process, 2 parts each: an iteration has"
    assert wanted in (tmp_path / "log.txt").read_text()


@pytest.mark.parametrize(
    "before, now, words",
    [
        ((16, 4, 1), (16, 2, 1), "16 images over 4 processes, now it is 16 images over 2 processes: the images cont"),
        ((16, 4, 1), (16, 2, 1), "grouped into other batches"),
        ((16, 4, 1), (16, 1, 4), "continue unchanged; only random numbers"),
        ((16, 4, 1), (16, 4, 1), "^$"),
    ],
)
def test_what_other_processes_change(before, now, words):
    assert re.search(words, effect_of_shares(BatchShares(*before), BatchShares(*now)))


def test_the_seed_of_a_run_without_one_is_kept(mixed, tmp_path, monkeypatch):
    words = (*mixed, *OPTIONS, "SEED", -1, "SOLVER.MAX_ITER", 4, "SOLVER.CHECKPOINT_PERIOD", 2, "TEST.EVAL_PERIOD", 0)
    run(*words, "OUTPUT_DIR", tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    (tmp_path / "parts" / "last_checkpoint").write_text("model_0000001.pth")
    run(words[0], words[1], "--resume", *words[2:], "OUTPUT_DIR", tmp_path / "parts")
    one, two = (last_state(tmp_path / part) for part in ("whole", "parts"))
    assert_same(one, two)


def test_a_signal_during_evaluation_does_not_wait_for_its_end(mixed, tmp_path, monkeypatch):
    def test(cls, cfg, model, evaluators=None):
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("the evaluation went on")

    monkeypatch.setattr(Trainer, "test", classmethod(test))
    with pytest.raises(SystemExit) as status:
        run(*mixed, *OPTIONS, "OUTPUT_DIR", tmp_path)
    assert status.value.code == 143
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000006.pth"


def test_metrics_after_the_checkpoint_go(mixed, tmp_path):
    words = (*mixed, *OPTIONS, "SOLVER.MAX_ITER", 4, "SOLVER.CHECKPOINT_PERIOD", 2, "TEST.EVAL_PERIOD", 0)
    run(*words, "OUTPUT_DIR", tmp_path)
    (tmp_path / "last_checkpoint").write_text("model_0000001.pth")
    rows = [{"iteration": 0, "lr": 1.0}, {"iteration": 1, "lr": 2.0}, {"iteration": 2, "lr": 3.0}]
    (tmp_path / "metrics.json").write_text("".join(f"{json.dumps(row)}\n" for row in rows) + '{"iteration": 1, "l')
    run(*words[:2], "--resume", *words[2:], "OUTPUT_DIR", tmp_path)
    found = [json.loads(row) for row in (tmp_path / "metrics.json").read_text().splitlines()]
    assert found[:2] == rows[:2] and {"iteration": 2, "lr": 3.0} not in found and len(found) > 2


def test_the_last_two_numbered_checkpoints_stay(mixed, tmp_path):
    words = (*mixed, *OPTIONS, "SOLVER.MAX_ITER", 5, "SOLVER.CHECKPOINT_PERIOD", 1, "TEST.EVAL_PERIOD", 0)
    run(*words, "OUTPUT_DIR", tmp_path / "two")
    names = sorted(path.name for path in (tmp_path / "two").glob("*.pth"))
    assert [name for name in names if "best" not in name] == [
        "model_0000003.pth",
        "model_0000004.pth",
        "model_final.pth",
    ]
    run(*words, "SOLVER.CHECKPOINTS_KEPT", 0, "OUTPUT_DIR", tmp_path / "all")
    assert len(list((tmp_path / "all").glob("model_0*.pth"))) == 5


def test_a_new_run_puts_the_old_ones_checkpoints_aside(mixed, tmp_path, monkeypatch):
    words = (*mixed, *OPTIONS, "SOLVER.MAX_ITER", 3, "TEST.EVAL_PERIOD", 0, "OUTPUT_DIR", tmp_path)
    run(*words)
    (tmp_path / "model_0000000.pth.99.tmp").write_text("left by a process that was killed")
    old = (tmp_path / "model_final.pth").read_bytes()
    stop_at(monkeypatch, signal.SIGTERM, 0)
    with pytest.raises(SystemExit):
        run(*words)
    assert (tmp_path / "previous" / "1" / "model_final.pth").read_bytes() == old
    assert not (tmp_path / "model_final.pth").exists() and not list(tmp_path.glob("*.tmp"))


def test_final_weights_of_a_run_that_goes_on_are_its_last_ones_no_longer(mixed, tmp_path, monkeypatch):
    words = (*mixed, *OPTIONS, "TEST.EVAL_PERIOD", 0, "OUTPUT_DIR", tmp_path)
    run(*words, "SOLVER.MAX_ITER", 3)
    old = (tmp_path / "model_final.pth").read_bytes()
    stop_at(monkeypatch, signal.SIGTERM, 4)
    with pytest.raises(SystemExit):
        run(words[0], words[1], "--resume", *words[2:], "SOLVER.MAX_ITER", 9)
    assert not (tmp_path / "model_final.pth").exists()
    assert (tmp_path / "model_after_3.pth").read_bytes() == old


@pytest.mark.parametrize("number, processes", [(signal.SIGINT, 1), (signal.SIGTERM, 2), (signal.SIGHUP, 2)])
def test_a_signal_to_the_command_ends_it_with_a_checkpoint(mixed, tmp_path, number, processes):
    """With several processes the launcher alone gets the signal, as from ``kill``."""
    words = [*mixed, "--num-processes", processes, *OPTIONS, "SOLVER.MAX_ITER", 100_000, "OUTPUT_DIR", tmp_path]
    words += ["DATALOADER.NUM_WORKERS", 1]
    command = [sys.executable, str(TRAIN_NET), *map(str, words), "TEST.EVAL_PERIOD", "0"]
    with open(tmp_path / "err", "w") as err:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=err)
    try:
        wait_for(tmp_path / "metrics.json", process)
        process.send_signal(number)
        assert process.wait(60) == 128 + number
    finally:
        process.kill()
    log = (tmp_path / "log.txt").read_text()
    name = (tmp_path / "last_checkpoint").read_text()
    assert f"--resume continues from {tmp_path}/{name}" in log
    assert "Traceback" not in (tmp_path / "err").read_text()


@pytest.mark.parametrize("processes", [1, 2])
def test_a_lost_terminal_ends_the_command_with_a_checkpoint(mixed, tmp_path, processes):
    """A closed window: SIGHUP to all its processes, and every write to it fails."""
    words = [*mixed, "--num-processes", processes, *OPTIONS, "SOLVER.MAX_ITER", 100_000, "OUTPUT_DIR", tmp_path]
    words += ["DATALOADER.NUM_WORKERS", 1, "TEST.EVAL_PERIOD", 0]
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, str(TRAIN_NET), *map(str, words)])
    try:
        end = time.monotonic() + 100
        while not (tmp_path / "metrics.json").exists() or not (tmp_path / "metrics.json").stat().st_size:
            assert time.monotonic() < end
            if select.select([terminal], [], [], 0.1)[0]:
                os.read(terminal, 100_000)
        os.close(terminal)
        _, status = os.waitpid(pid, 0)
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(status) == 128 + signal.SIGHUP
    assert "stopped by SIGHUP after iteration" in (tmp_path / "log.txt").read_text()
    assert (tmp_path / (tmp_path / "last_checkpoint").read_text()).exists()


def test_under_nohup_a_lost_terminal_changes_nothing(monkeypatch):
    from fa_detectron.engine.run.signals import StopSignals

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
        assert stop.received == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_command_ends_with_its_data_workers(mixed, tmp_path):
    """A scheduler signals every process: the worker outlives it, and ends with the command."""
    words = [*mixed, *OPTIONS, "SOLVER.MAX_ITER", 100_000, "TEST.EVAL_PERIOD", 0, "DATALOADER.NUM_WORKERS", 2]
    command = [sys.executable, str(TRAIN_NET), *map(str, (*words, "OUTPUT_DIR", tmp_path))]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        wait_for(tmp_path / "metrics.json", process)
        os.killpg(process.pid, signal.SIGTERM)
        assert process.wait(15) == 143
    finally:
        process.kill()
    done = int((tmp_path / "last_checkpoint").read_text()[len("model_") : -len(".pth")]) + 1
    command += ["SOLVER.MAX_ITER", str(done + 1)]
    command.insert(command.index("--train"), "--resume")
    assert subprocess.run(command, capture_output=True, timeout=60).returncode == 0


def wait_for(path, process: subprocess.Popen) -> None:
    end = time.monotonic() + 60
    while not path.exists() or not path.stat().st_size:
        assert process.poll() is None and time.monotonic() < end, path
        time.sleep(0.1)
