"""The moving average of the weights: its formula, its place in checkpoints, and exact resuming."""

import shutil

import pytest
import torch

pytest.importorskip("detectron2")

from detectron2.config import get_cfg
from detectron2.utils.events import EventStorage

from fa_detectron import add_feature_align_config
from fa_detectron.engine.run.signals import StopSignals
from fa_detectron.engine.solver import build_average
from fa_detectron.engine.step import StepTrainer
from fa_detectron.errors import UserError
from tests.engine.conftest import run
from tests.engine.test_nonfinite import Toy
from tests.engine.tiny import last_state


def config(decay: float):
    cfg = get_cfg()
    add_feature_align_config(cfg)
    cfg.SOLVER.EMA_DECAY = decay
    return cfg


def test_the_formula():
    model = Toy()
    average = build_average(config(0.9), model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    trainer = StepTrainer(model, optimizer, seed=0, stop=StopSignals(), average=average)
    trainer.start([[{"factor": 1.0}]] * 3)
    expected = None
    with EventStorage():
        for trainer.iter in range(3):
            trainer.run_step()
            weight = model.weight.item()
            expected = weight if expected is None else 0.9 * expected + 0.1 * weight
    assert average.module.weight.item() == pytest.approx(expected)
    assert build_average(config(0.0), model) is None
    with pytest.raises(UserError, match=r"SOLVER\.EMA_DECAY is 1\.0"):
        build_average(config(1.0), model)


def test_the_average_is_what_is_saved_and_resumed(tiny, tmp_path):
    words = (*tiny.args, "SOLVER.EMA_DECAY", 0.8, "SOLVER.MAX_ITER", 4, "TEST.EVAL_PERIOD", 0)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    done = run(*words, "OUTPUT_DIR", whole)
    shutil.copytree(whole, parts)
    (parts / "last_checkpoint").write_text("model_0000001.pth")
    run(*words[:2], "--resume", *words[2:], "OUTPUT_DIR", parts)
    one, two = map(last_state, (whole, parts))
    trained = [state["trainer"]["_trainer"]["trained_model"] for state in (one, two)]
    for key, value in one["model"].items():
        assert torch.equal(value, two["model"][key]) and torch.equal(trained[0][key], trained[1][key]), key
    assert not torch.equal(one["model"]["mu"], trained[0]["mu"])
    again = run("--config-file", whole / "config.yaml", "--eval-only", "MODEL.WEIGHTS", whole / "model_final.pth")
    assert again.results["bbox"] == pytest.approx(done.results["bbox"], nan_ok=True)


def test_an_average_starts_from_the_weights(tiny, trained, tmp_path):
    """From weights to fine-tune, and from a checkpoint of a run that had no average."""
    shutil.copytree(trained.folder, tmp_path / "run")
    for words in (("MODEL.WEIGHTS", trained.folder / "model_final.pth"), ("--resume", "OUTPUT_DIR", tmp_path / "run")):
        flags = [word for word in words if word == "--resume"]
        rest = [word for word in words if word != "--resume"]
        options = ("SOLVER.EMA_DECAY", 0.999, "SOLVER.MAX_ITER", 4, "SOLVER.BASE_LR", 0.0, "TEST.EVAL_PERIOD", 0)
        done = run(*tiny.args, *flags, "OUTPUT_DIR", tmp_path / "new", *rest, *options)
        wanted = torch.load(trained.folder / "model_final.pth", weights_only=True)["model"]
        torch.testing.assert_close(done.trainer.checkpointer.model.state_dict()["mu"], wanted["mu"], atol=1e-3, rtol=0)
        if not flags:
            assert torch.equal(done.trainer.model.state_dict()["mu"], wanted["mu"])
