"""Room, shared memory and file handles are looked at before a run; what still fails there ends it in words."""

import re
import shutil
import sys
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

pytest.importorskip("detectron2")

from fa_detectron.engine.run import folder, resources
from fa_detectron.errors import SharedError, UserError
from tests.engine.conftest import run

QUICK = ("TEST.EVAL_PERIOD", 0, "SOLVER.MAX_ITER", 1)


def free(monkeypatch, count: int, where: str = "") -> None:
    usage = shutil.disk_usage
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: SimpleNamespace(free=count) if where in str(path) else usage(path)
    )


@pytest.mark.parametrize("optimizer, megabytes", [("SGD", 183), ("ADAMW", 229)])
def test_too_little_room_for_the_checkpoints_is_said_before_anything_is_written(
    tiny, tmp_path, monkeypatch, optimizer, megabytes
):
    """11.5 M parameters, 11.3 M of them trained: 46 MB of weights, 45 MB of each optimizer's moment."""
    free(monkeypatch, 10**8)
    words = rf"need {megabytes} MB \(1 of .*2 of 46 MB with the weights alone\), and 100 MB are free"
    with pytest.raises(UserError, match=words):
        run(*tiny.args, *QUICK, "SOLVER.OPTIMIZER", optimizer, "OUTPUT_DIR", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_estimate_is_no_less_than_what_is_written(trained):
    from fa_detectron.engine import Trainer

    model, sizes = Trainer.build_model(trained.cfg), {}
    for path in trained.folder.glob("model_*.pth"):
        sizes[path.name] = path.stat().st_size
    text = needed(trained.cfg, model)
    assert text == pytest.approx(2 * sizes["model_0000002.pth"] + 2 * sizes["model_final.pth"], rel=0.02)


def test_as_many_checkpoints_are_counted_as_the_run_will_have(trained):
    """At most one more than are kept, always so where time decides; without evaluation there is no best one."""
    from fa_detectron.engine import Trainer

    model, cfg = Trainer.build_model(trained.cfg), trained.cfg.clone()
    cfg.defrost()
    weights = needed(cfg, model) - needed_with(cfg, model, "DATASETS.TEST", ())
    one = (needed(cfg, model) - 2 * weights) / 2
    cases = ((2, 0.0, 2, 1), (2, 1.0, 2, 3), (100, 0.0, 2, 3), (100, 0.0, 5, 6), (8, 0.0, 0, 4))
    for iterations, minutes, kept, count in cases:
        cfg.SOLVER.MAX_ITER, cfg.SOLVER.CHECKPOINT_MINUTES, cfg.SOLVER.CHECKPOINTS_KEPT = iterations, minutes, kept
        assert needed(cfg, model) == pytest.approx(count * one + 2 * weights, rel=0.02)


def needed_with(cfg, model, *pair) -> float:
    other = cfg.clone()
    other.merge_from_list(list(pair))
    return needed(other, model)


def test_a_resumed_runs_own_checkpoints_count_as_room(trained, monkeypatch):
    from fa_detectron.engine import Trainer

    model = Trainer.build_model(trained.cfg)
    free(monkeypatch, 10**8)
    assert resources.room_problem(trained.cfg, model, start=0)  # an earlier run's are kept
    assert not resources.room_problem(trained.cfg, model, start=2)


def needed(cfg, model, start: int = 0) -> float:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=-(10**12)))
        text = resources.room_problem(cfg, model, start)
    return 1e6 * float(re.search(r"need ([\d,]+) MB", text)[1].replace(",", ""))


def test_too_little_shared_memory_is_said_before_the_workers_start(tiny, tmp_path, monkeypatch):
    """2 workers prepare 2 batches of 2 images each, one is in use: 10 images of 64x64."""
    free(monkeypatch, 100_000, "/dev/shm")
    words = r"/dev/shm has 0\.1 MB free, .* need about 0\.1 MB .*NUM_WORKERS 2\): give .*\(docker run --shm-size"
    with pytest.raises(UserError, match=words):
        run(*tiny.args, *QUICK, "DATALOADER.NUM_WORKERS", 2, "OUTPUT_DIR", tmp_path)
    free(monkeypatch, 123_000, "/dev/shm")
    run(*tiny.args, *QUICK, "DATALOADER.NUM_WORKERS", 2, "OUTPUT_DIR", tmp_path)


@pytest.fixture
def limits(monkeypatch):
    """The limits of open files as the module sees them: [soft, hard]."""
    import resource

    now = [0, 0]
    monkeypatch.setattr(resource, "getrlimit", lambda which: tuple(now))
    monkeypatch.setattr(resource, "setrlimit", lambda which, pair: now.__setitem__(slice(None), pair))
    return now


def test_the_limit_of_open_files_is_raised_where_it_may_be(limits):
    limits[:] = [256, 4096]
    assert not resources._handles_problem(1000)
    assert limits == [1000, 4096]
    assert not resources._handles_problem(500)
    assert limits == [1000, 4096]
    words = r"may open 4096 files, .* about 5000: .*ulimit -n 5000.*NUM_WORKERS"
    assert re.search(words, resources._handles_problem(5000))


def test_systems_without_that_limit_pass(monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)
    assert not resources._handles_problem(10**9)


def test_a_problem_of_any_process_ends_all_of_them(monkeypatch):
    monkeypatch.setattr(folder.comm, "all_gather", lambda problem: [problem, "too little on the other machine", ""])
    with pytest.raises(SharedError, match="too little on the other machine"):
        folder.raise_together("")


class Fails(Dataset):
    """Its tensors cannot be handed over, which a worker finds out in a thread of its own."""

    def __init__(self, message: str) -> None:
        self.message = message

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int):
        return Unsendable(self.message)


class Unsendable:
    def __init__(self, message: str) -> None:
        self.message = message

    def __reduce__(self):
        raise RuntimeError(self.message)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "message, words",
    [
        ("unable to write to file </torch_7_8_9>: No space left on device (28)", "ran out of shared memory .*shm-size"),
        (
            "unable to open shared memory object </torch_7>: Too many open files (24)",
            "ran out of file handles .*ulimit -n",
        ),
        ("received 0 items of ancdata", "ran out of file handles .*ulimit -n"),
    ],
)
def test_a_batch_that_cannot_be_handed_over_is_an_error_and_no_hang(message, words):
    with pytest.raises(UserError, match=words), resources.explained_worker_errors():
        list(DataLoader(Fails(message), num_workers=1, collate_fn=list))
    assert list(DataLoader(torch.arange(3), num_workers=1)) == [0, 1, 2]


@pytest.mark.timeout(60)
def test_an_evaluation_within_the_training_leaves_the_explanation_on():
    with pytest.raises(UserError, match="ran out of file handles"), resources.explained_worker_errors():
        with resources.explained_worker_errors():
            pass
        list(DataLoader(Fails("received 0 items of ancdata"), num_workers=1, collate_fn=list))


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="shape"), resources.explained_worker_errors():
        raise RuntimeError("another shape")
