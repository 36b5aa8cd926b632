"""Losses and gradients that are no numbers: named, skipped where asked for, and never in a checkpoint."""

import json
import math
import os

import pytest
import torch
import torch.multiprocessing as mp

pytest.importorskip("detectron2")

from detectron2.utils.events import EventStorage
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fa_detectron.engine.run.signals import StopSignals
from fa_detectron.engine.step import StepTrainer
from fa_detectron.errors import UserError
from fa_detectron.modeling import FeatureAlign
from tests.engine.conftest import run
from tests.engine.processes import START, free_port

QUICK = ("TEST.EVAL_PERIOD", 0, "SOLVER.CHECKPOINT_PERIOD", 2)


def spoil(monkeypatch, steps: set[int], what: str = "loss_neg") -> None:
    """Make ``what`` NaN in these steps, counted from 0."""
    losses, count = FeatureAlign.losses, iter(range(1000))

    def spoiled(self, *args):
        found = losses(self, *args)
        if next(count) in steps:
            if what in found:
                found[what] = found[what] * math.nan
            else:
                self.mu.register_hook(lambda grad: grad * math.nan)
        return found

    monkeypatch.setattr(FeatureAlign, "losses", spoiled)


NAMES = {"loss_neg": "loss_neg is nan over", "mu": "the gradient is not finite after"}


@pytest.mark.parametrize("what", list(NAMES))
def test_the_run_stops_and_says_where(tiny, tmp_path, monkeypatch, what):
    with monkeypatch.context() as patch:
        spoil(patch, {2}, what)
        text = rf"^iteration 3: {NAMES[what]} the images .*\.png, .*\.png\. .*SOLVER\.BASE_LR"
        with pytest.raises(UserError, match=text):
            run(*tiny.args, *QUICK, "OUTPUT_DIR", tmp_path)
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000001.pth"
    assert run(*tiny.args, "--resume", *QUICK, "OUTPUT_DIR", tmp_path).trainer.start_iter == 2


def test_skipping_leaves_the_step_out(tiny, tmp_path, monkeypatch):
    spoil(monkeypatch, {1})
    words = ("--skip-nonfinite", *QUICK, "OUTPUT_DIR", tmp_path)
    run(*tiny.args, *words, "SOLVER.MAX_ITER", 2, "SOLVER.CHECKPOINT_PERIOD", 1, "SOLVER.CHECKPOINTS_KEPT", 0)
    first, last = (torch.load(tmp_path / f"model_{name}.pth", weights_only=True) for name in ("0000000", "0000001"))
    assert all(torch.equal(value, last["model"][key]) for key, value in first["model"].items())
    assert last["trainer"]["_trainer"]["skipped"] == 1
    assert "iteration 2: loss_neg is nan over the images" in (tmp_path / "log.txt").read_text()
    rows = [json.loads(row) for row in (tmp_path / "metrics.json").read_text().splitlines()]
    assert [row["skipped_steps"] for row in rows if "skipped_steps" in row][-1] == 1


def test_five_in_a_row_are_too_many(tiny, tmp_path, monkeypatch):
    spoil(monkeypatch, {0, 2, 3, 4, 5, 6})
    with pytest.raises(UserError, match=r"iteration 7: .*too often to skip: 5 in a row"):
        run(*tiny.args, "--skip-nonfinite", *QUICK, "SOLVER.MAX_ITER", 20, "OUTPUT_DIR", tmp_path)


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, batch: list[dict]) -> dict[str, torch.Tensor]:
        return {"loss": self.weight * batch[0]["factor"]}


def toy_worker(rank: int, port: int, folder: str) -> None:
    """Three steps; the second is bad on one worker alone."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="2")
    torch.distributed.init_process_group("gloo")
    model = DistributedDataParallel(Toy())
    options = {"seed": 0, "stop": StopSignals(), "skip_nonfinite": True}
    trainer = StepTrainer(model, torch.optim.SGD(model.parameters(), lr=0.1), **options)
    factors = [1.0, math.nan if rank else 1.0, 1.0]
    trainer.start([[{"file_name": "a.png", "factor": factor}] for factor in factors])
    with EventStorage():
        for trainer.iter in range(3):
            trainer.run_step()
    torch.save({"weight": model.module.weight.detach(), "skipped": trainer.skipped}, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_all_workers_skip_alike(tmp_path):
    mp.start_processes(toy_worker, (free_port(), str(tmp_path)), nprocs=2, start_method=START)
    for rank in (0, 1):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert found["skipped"] == 1 and found["weight"].item() == pytest.approx(0.8)
