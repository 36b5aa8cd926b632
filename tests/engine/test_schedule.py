"""Warm-up, evaluation and checkpoints of a run, as its length and its user's settings make them."""

import pytest

pytest.importorskip("detectron2")

from fa_detectron.apps.train import argument_parser
from fa_detectron.engine import load_config, setup
from fa_detectron.engine.config_file import given_keys
from fa_detectron.engine.schedule import scale_to_workers, settle_schedule
from tests.engine.conftest import run
from tests.engine.tiny import BASE, make_set

PLAIN = """
_BASE_: "{base}"
SOLVER: {{IMS_PER_BATCH: 2, MAX_ITER: {iterations}}}
"""


def settled(folder, iterations: int, *words):
    path = folder / "plain.yaml"
    path.write_text(PLAIN.format(base=BASE, iterations=iterations))
    data = make_set(folder / "data", images=2)
    args = ["--config-file", path, "--train", data, "--val", data, "OUTPUT_DIR", folder / "out", *words]
    return setup(argument_parser().parse_args([str(word) for word in args]))


@pytest.mark.parametrize("iterations, warmup", [(30, 3), (9, 0), (90000, 1000)])
def test_the_warm_up_takes_at_most_a_tenth(tmp_path, caplog, iterations, warmup):
    """1000 iterations by default: a run of 30 would end at a thirtieth of its rate."""
    cfg = settled(tmp_path, iterations)
    assert cfg.SOLVER.WARMUP_ITERS == warmup
    said = f"SOLVER.WARMUP_ITERS 1000 -> {warmup}: the warm-up takes at most a tenth of the {iterations} iterations"
    assert (said in caplog.text) == (warmup != 1000)


def test_published_configs_keep_their_warm_up():
    for path in sorted(BASE.parent.glob("*-Detection/*.yaml")):
        cfg = load_config(str(path))
        after = scale_to_workers(cfg.clone(), 4)
        settle_schedule(after, 100, given_keys(str(path)))
        assert (after.SOLVER, after.TEST) == (cfg.SOLVER, cfg.TEST), path.name


def test_data_by_path_is_evaluated_and_saved_ten_times(tmp_path):
    cfg = settled(tmp_path, 600)
    assert (cfg.TEST.EVAL_PERIOD, cfg.SOLVER.CHECKPOINT_PERIOD, cfg.SOLVER.CHECKPOINT_MINUTES) == (60, 60, 10.0)
    assert settled(tmp_path, 7).TEST.EVAL_PERIOD == 1
    assert settled(tmp_path, 90000).SOLVER.CHECKPOINT_PERIOD == 5000  # Detectron2's own, which is more often


def test_the_users_own_periods_stay(tmp_path):
    cfg = settled(tmp_path, 600, "TEST.EVAL_PERIOD", 0, "SOLVER.CHECKPOINT_PERIOD", 5000)
    assert (cfg.TEST.EVAL_PERIOD, cfg.SOLVER.CHECKPOINT_PERIOD, cfg.SOLVER.CHECKPOINT_MINUTES) == (0, 5000, 0.0)
    cfg = settled(tmp_path, 600, "SOLVER.CHECKPOINT_PERIOD", 5000, "SOLVER.CHECKPOINT_MINUTES", 3.0)
    assert (cfg.TEST.EVAL_PERIOD, cfg.SOLVER.CHECKPOINT_MINUTES) == (60, 3.0)
    cfg = settled(tmp_path, 600, "TEST.EVAL_PERIOD", -1, "SOLVER.CHECKPOINT_PERIOD", -1)  # Detectron2's "never"
    assert (cfg.TEST.EVAL_PERIOD, cfg.SOLVER.CHECKPOINT_PERIOD) == (0, 0)


def test_a_checkpoint_is_written_when_its_time_has_come(tiny, tmp_path):
    words = (*tiny.args, "SOLVER.CHECKPOINT_PERIOD", 0, "SOLVER.CHECKPOINTS_KEPT", 0, "TEST.EVAL_PERIOD", 0)
    numbered = {"at once": 3, "never": 1}
    for name, minutes in (("at once", 1e-9), ("never", 0.0)):
        run(*words, "SOLVER.CHECKPOINT_MINUTES", minutes, "OUTPUT_DIR", tmp_path / name)
        assert len(list((tmp_path / name).glob("model_0*.pth"))) == numbered[name]
