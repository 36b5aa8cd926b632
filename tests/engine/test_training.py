"""Training, resuming, evaluating: what a run does and what it leaves."""

import json
import math
import shutil

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.engine import DefaultPredictor

from fa_detectron import add_feature_align_config
from fa_detectron.engine.hooks import BestCheckpoint
from fa_detectron.errors import UserError
from tests.engine.conftest import run
from tests.engine.tiny import last_state


def load(path):
    return torch.load(path, weights_only=True)


def test_a_run_leaves_everything_in_its_folder(trained):
    names = {path.name for path in trained.folder.iterdir()}
    wanted = {"config.yaml", "log.txt", "metrics.json", "model_0000001.pth", "model_final.pth", "last_checkpoint"}
    assert wanted <= names
    assert not [name for name in names if name.endswith(".tmp")]
    assert len(list((trained.folder / "samples").glob("*.png"))) == 2
    assert "resumed" not in (trained.folder / "log.txt").read_text()
    rows = [json.loads(row) for row in (trained.folder / "metrics.json").read_text().splitlines()]
    assert {"loss_pos", "loss_neg", "loss_norm", "lr"} <= set().union(*rows)
    assert any("bbox/AP" in row for row in rows)


def test_one_class_has_its_own_ap(trained):
    assert trained.results["bbox"]["AP-block"] == trained.results["bbox"]["AP"]


def test_the_gaussian_priors_are_trained_and_saved(trained):
    weights = load(trained.folder / "model_final.pth")["model"]
    assert weights["mu"].shape == weights["sigma"].shape == (5, 1, 2)
    assert (weights["mu"] != 0).any() and (weights["sigma"] != 1).any()


def test_a_resumed_run_equals_one_that_was_not_interrupted(tiny, tmp_path, monkeypatch):
    """Iteration, optimizer and schedule go on; the data is held still, because its order starts anew."""
    from detectron2.data.samplers import TrainingSampler

    monkeypatch.setattr(TrainingSampler, "_infinite_indices", lambda self: iter([0, 1] * 1000))
    extra = ("INPUT.RANDOM_FLIP", "none", "SOLVER.STEPS", "(3,)", "SOLVER.MAX_ITER", 4, "TEST.EVAL_PERIOD", 0)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(*tiny.args, *extra, "OUTPUT_DIR", whole)
    shutil.copytree(whole, parts)
    (parts / "model_final.pth").unlink()
    (parts / "model_0000003.pth").unlink()
    (parts / "last_checkpoint").write_text("model_0000001.pth")
    done = run(*tiny.args, "--resume", *extra, "OUTPUT_DIR", parts)
    assert done.trainer.start_iter == 2
    assert f"resumed from {parts}/model_0000001.pth at iteration 2 of 4" in (parts / "log.txt").read_text()
    one, two = last_state(whole), last_state(parts)
    for key, value in one["model"].items():
        assert torch.equal(value, two["model"][key]), key
    assert one["trainer"]["hooks"] == two["trainer"]["hooks"]
    assert two["trainer"]["_trainer"]["optimizer"]["param_groups"][0]["lr"] == pytest.approx(1e-4)


def test_resuming_a_finished_run_only_evaluates(tiny, trained, tmp_path):
    folder = tmp_path / "again"
    shutil.copytree(trained.folder, folder)
    before = (folder / "model_final.pth").read_bytes()
    done = run(*tiny.args, "--resume", "OUTPUT_DIR", folder)
    assert done.results["bbox"] == pytest.approx(trained.results["bbox"], nan_ok=True)
    assert (folder / "model_final.pth").read_bytes() == before


def test_eval_only_needs_nothing_but_the_run_folder(trained):
    weights = trained.folder / "model_final.pth"
    config = (trained.folder / "config.yaml").read_bytes()
    done = run("--config-file", trained.folder / "config.yaml", "--eval-only", "MODEL.WEIGHTS", weights)
    assert done.results["bbox"] == pytest.approx(trained.results["bbox"], nan_ok=True)
    assert (trained.folder / "config.yaml").read_bytes() == config


def test_the_same_seed_gives_the_same_training(tiny, tmp_path):
    weights = []
    for name in ("a", "b"):
        run(*tiny.args, "OUTPUT_DIR", tmp_path / name, "TEST.EVAL_PERIOD", 0)
        weights.append(load(tmp_path / name / "model_final.pth")["model"])
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())


def test_detectron2s_predictor_takes_the_run_folder(trained):
    cfg = get_cfg()
    add_feature_align_config(cfg)
    cfg.merge_from_file(str(trained.folder / "config.yaml"))
    cfg.MODEL.WEIGHTS = str(trained.folder / "model_final.pth")
    cfg.MODEL.FEATURE_ALIGN.SCORE_THRESH_TEST = 0.0
    instances = DefaultPredictor(cfg)(torch.zeros(48, 80, 3, dtype=torch.uint8).numpy())["instances"]
    assert instances.image_size == (48, 80) and len(instances) > 0


def test_mixed_precision_trains_on_the_cpu(tiny, tmp_path):
    seen = []

    class Recorder(torch.nn.Module):
        def forward(self, x):
            seen.append(x.dtype)
            return x

    from fa_detectron.engine import Trainer

    build = Trainer.build_model.__func__

    def with_recorder(cls, cfg):
        model = build(cls, cfg)
        model.backbone.bottom_up.res3.add_module("recorder", Recorder())
        return model

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "build_model", classmethod(with_recorder))
        done = run(*tiny.args, "SOLVER.AMP.ENABLED", True, "TEST.EVAL_PERIOD", 0, "OUTPUT_DIR", tmp_path / "out")
    assert torch.bfloat16 in seen
    last = json.loads((tmp_path / "out" / "metrics.json").read_text().splitlines()[0])
    assert math.isfinite(last["total_loss"])
    assert all(p.dtype == torch.float32 for p in done.trainer.model.parameters())


def test_a_diverged_training_stops_with_advice(tiny, tmp_path):
    with pytest.raises(UserError, match=r"SOLVER\.BASE_LR"):
        run(*tiny.args, "SOLVER.BASE_LR", 1e30, "SOLVER.MAX_ITER", 5, "OUTPUT_DIR", tmp_path / "out")


class FakeCheckpointer:
    def __init__(self, folder):
        self.save_dir, self.written = str(folder), []

    def write(self, name, **state):
        self.written.append((name, state["iteration"]))
        return name


def test_the_best_checkpoint_is_the_best_and_survives_resuming(tmp_path):
    checkpointer = FakeCheckpointer(tmp_path)
    best = BestCheckpoint(checkpointer, "bbox/AP")
    best.restore(0)
    for iteration, value in ((1, 10.0), (3, 9.0), (5, math.nan), (7, 12.0)):
        best.update({"bbox/AP": value}, iteration)
    assert checkpointer.written == [("model_best", 1), ("model_best", 7)]

    resumed = BestCheckpoint(checkpointer, "bbox/AP")
    resumed.restore(8)
    resumed.update({"bbox/AP": 11.0}, 9)
    assert checkpointer.written[-1] == ("model_best", 7)

    afresh = BestCheckpoint(checkpointer, "bbox/AP")
    afresh.restore(0)
    afresh.update({"bbox/AP": 1.0}, 1)
    assert checkpointer.written[-1] == ("model_best", 1)


def test_the_best_checkpoint_is_not_the_one_to_resume_from(trained):
    assert (trained.folder / "last_checkpoint").read_text() == "model_0000002.pth"
    record = json.loads((trained.folder / "best_checkpoint.json").read_text())
    assert record["metric"] == "bbox/AP"
    assert load(trained.folder / "model_best.pth")["iteration"] == record["iteration"]
