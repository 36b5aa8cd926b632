"""How long a run is: from its data, from --epochs, from --minutes; a resumed run is as long as it was."""

import json
import shutil
import signal
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("detectron2")

from fa_detectron.apps.train import argument_parser
from fa_detectron.engine import load_config, progress, setup
from fa_detectron.engine.config_file import given_keys
from fa_detectron.engine.schedule import settle_schedule
from fa_detectron.errors import UserError
from tests.engine.conftest import run
from tests.engine.test_resume import OPTIONS, assert_same, stop_at
from tests.engine.tiny import BASE, last_state, make_config, make_set

SMALL = BASE.parent / "small_data.yaml"
# OPTIONS without its length and periods.
RANDOM = tuple(word for pair in zip(OPTIONS[0::2], OPTIONS[1::2]) if "MAX_ITER" not in pair[0] for word in pair)


@pytest.fixture(scope="module")
def seven(tmp_path_factory) -> tuple:
    """A config of batch 2 and 7 images: an epoch is 3.5 iterations."""
    folder = tmp_path_factory.mktemp("seven")
    data = make_set(folder / "data", images=7, widths=(64, 96))
    return ("--config-file", make_config(folder), "--train", data, "--val", data)


def solver_of(*words):
    return setup(argument_parser().parse_args([str(word) for word in words])).SOLVER


def by_size(images: int, *overrides: object):
    words = [str(word) for word in overrides]
    cfg = load_config(str(SMALL), words)
    cfg.DATASETS.TRAIN_PATH = "set.json"
    settle_schedule(cfg, images, given_keys(str(SMALL), words))
    return cfg


@pytest.mark.parametrize("images, iterations", [(10, 600), (205, 615), (300, 900), (5000, 6000)])
def test_the_small_recipe_trains_longer_on_more_images(images, iterations, caplog):
    cfg = by_size(images)
    assert (cfg.SOLVER.MAX_ITER, cfg.TEST.EVAL_PERIOD) == (iterations, iterations // 10)
    assert cfg.SOLVER.WARMUP_ITERS == 50
    assert (
        f"{iterations} iterations of 4 images, {4 * iterations / images:.3g} epochs of {images} images" in caplog.text
    )


def test_a_length_of_ones_own_wins(tmp_path):
    assert by_size(5000, "SOLVER.MAX_ITER", 600).SOLVER.MAX_ITER == 600
    path = tmp_path / "mine.yaml"
    path.write_text(f'_BASE_: "{SMALL}"\nSOLVER: {{MAX_ITER: 70}}\n')
    data = make_set(tmp_path / "data", images=2)
    assert solver_of("--config-file", path, "--train", data, "--val", data).MAX_ITER == 70
    assert solver_of("--config-file", path, "--train", data, "--val", data, "--epochs", 100).MAX_ITER == 50


def test_epochs_count_the_images_that_are_trained_on(seven, tmp_path):
    """With their steps and periods; an image without a box counts where it is trained on."""
    cfg = setup(argument_parser().parse_args([*map(str, seven), "--epochs", "20", "SOLVER.STEPS", "(2,)"]))
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS, cfg.SOLVER.EPOCHS) == (70, (47,), 20.0)
    data = make_set(tmp_path / "empty", images=7)
    content = json.loads(data.read_text())
    content["annotations"] = content["annotations"][:5]
    data.write_text(json.dumps(content))
    words = (*seven[:2], "--train", data, "--val", data, "--epochs", 10)
    assert solver_of(*words).MAX_ITER == 35
    assert solver_of(*words, "DATALOADER.FILTER_EMPTY_ANNOTATIONS", "True").MAX_ITER == 25


@pytest.mark.parametrize(
    "words, message",
    [
        (("--epochs", 3, "--minutes", 2), "--epochs and --minutes both say how long"),
        (("--epochs", 3, "SOLVER.MAX_ITER", 2), r"--epochs and SOLVER\.MAX_ITER both"),
        (("--epochs", 0), "--epochs: expected a number above 0, not 0"),
        (("--minutes", "nan"), "--minutes: expected a number above 0, not nan"),
        (("--patience", -1), r"--patience \(TEST\.PATIENCE\) is -1"),
        (("SOLVER.EPOCHS", -2.0), r"SOLVER\.EPOCHS is -2"),
        (("SOLVER.AUTO_LENGTH.MIN_ITER", 9000), r"SOLVER\.AUTO_LENGTH is .*MIN_ITER 9000, MAX_ITER 6000; expected"),
    ],
)
def test_a_contradicting_length_is_refused(seven, words, message):
    with pytest.raises(UserError, match=message):
        solver_of(*seven, *words)


def test_epochs_resume_exactly_and_are_kept(seven, tmp_path, monkeypatch):
    """Also by a command that does not say them again."""
    words = (*seven, *RANDOM, "SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR", "TEST.EVAL_PERIOD", 0)
    length = ("--epochs", 2)
    run(*words[:2], *length, *words[2:], "OUTPUT_DIR", tmp_path / "straight")
    with monkeypatch.context() as patch:
        stop_at(patch, signal.SIGTERM, 2)
        with pytest.raises(SystemExit):
            run(*words[:2], *length, *words[2:], "OUTPUT_DIR", tmp_path / "parts")
    done = run(*words[:2], "--resume", *words[2:], "OUTPUT_DIR", tmp_path / "parts")
    assert (done.trainer.start_iter, done.trainer.max_iter, done.cfg.SOLVER.EPOCHS) == (3, 7, 2.0)
    assert_same(*(last_state(tmp_path / part) for part in ("straight", "parts")))


@pytest.fixture
def six_seconds_a_step(monkeypatch):
    """A clock by which every measured step takes 6 seconds; the steps themselves are real."""
    measure = progress._measure
    monkeypatch.setattr(progress, "_measure", lambda *args: (6.0, measure(*args)[1]))


ALL_STATE = ("SOLVER.EMA_DECAY", 0.9, "SOLVER.ACCUMULATION_STEPS", 2, "SOLVER.IMS_PER_BATCH", 4, "SOLVER.AMP.ENABLED",
             True, "DATALOADER.NUM_WORKERS", 1, "SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR")  # fmt: skip


def test_measuring_leaves_no_trace_and_minutes_resume_exactly(seven, tmp_path, monkeypatch, six_seconds_a_step):
    words = (*seven, *RANDOM, *ALL_STATE, "SOLVER.STEPS", "(2,)", "TEST.EVAL_PERIOD", 0)
    timed = (*words[:2], "--minutes", 1, *words[2:])
    whole = run(*timed, "OUTPUT_DIR", tmp_path / "timed")
    iterations = whole.trainer.max_iter
    assert 2 <= iterations <= 9  # of 60 seconds, less those of measuring and of one evaluation
    written = load_config(str(tmp_path / "timed" / "config.yaml")).SOLVER
    assert (written.MAX_ITER, written.MINUTES) == (iterations, 1.0)
    assert f"length: {iterations} iterations of 4 images" in (tmp_path / "timed" / "log.txt").read_text()

    run(*words, "SOLVER.MAX_ITER", iterations, "OUTPUT_DIR", tmp_path / "counted")
    one, two = (last_state(tmp_path / part) for part in ("timed", "counted"))
    assert_same(one, two)
    trained = [state["trainer"]["_trainer"]["trained_model"] for state in (one, two)]
    assert all(torch.equal(value, trained[1][key]) for key, value in trained[0].items())

    shutil.copytree(tmp_path / "timed", tmp_path / "parts")
    monkeypatch.setattr(progress, "_measure", lambda *args: pytest.fail("measured again"))
    for file in (tmp_path / "parts").glob("*.pth"):
        file.unlink()
    (tmp_path / "parts" / "last_checkpoint").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(progress, "_measure", lambda *args: (60 / (iterations + 0.5), 3))
        patch.setattr(progress, "_evaluation_seconds", lambda *args: 0.0)
        stop_at(patch, signal.SIGTERM, 2)
        with pytest.raises(SystemExit):
            run(*timed, "OUTPUT_DIR", tmp_path / "parts")
    assert load_config(str(tmp_path / "parts" / "config.yaml")).SOLVER.MAX_ITER == iterations
    done = run(*timed[:2], "--resume", *timed[2:], "OUTPUT_DIR", tmp_path / "parts")
    assert (done.trainer.start_iter, done.trainer.max_iter) == (3, iterations)
    assert_same(one, last_state(tmp_path / "parts"))

    with pytest.raises(UserError, match=r"--minutes 2: the run in .* estimated for 1 minutes"):
        run(*timed[:2], "--resume", "--minutes", 2, *words[2:], "OUTPUT_DIR", tmp_path / "parts")


@pytest.mark.parametrize("period, iterations, evaluated", [((), 3540, 354), (("TEST.EVAL_PERIOD", 2), 898, 2)])
def test_minutes_leave_room_for_evaluations(seven, tmp_path, monkeypatch, period, iterations, evaluated):
    """An hour of steps of a second and evaluations of six: ten of them, or as many as the user wants."""
    monkeypatch.setattr(progress, "_measure", lambda *args: (1.0, 3))
    monkeypatch.setattr(progress, "_evaluation_seconds", lambda *args: 6.0)
    path = tmp_path / "plain.yaml"
    path.write_text(f'_BASE_: "{BASE}"\nSOLVER: {{MAX_ITER: 300, STEPS: [200], IMS_PER_BATCH: 2}}\n')
    words = ("--config-file", path, *seven[2:], "--minutes", 60, *period)
    cfg = setup(argument_parser().parse_args([str(word) for word in words]))
    loader = SimpleNamespace(dataset=SimpleNamespace(records=range(7)))
    solver = (fitted := progress.fit_to_minutes(cfg, None, loader)).SOLVER
    assert solver.MAX_ITER == pytest.approx(iterations, abs=2)
    assert solver.STEPS == (round(200 * solver.MAX_ITER / 300),)
    assert fitted.TEST.EVAL_PERIOD == pytest.approx(evaluated, abs=1)
    assert (solver.CHECKPOINT_PERIOD, solver.WARMUP_ITERS) == (solver.MAX_ITER // 10, solver.MAX_ITER // 10)


def test_the_log_says_how_long_it_will_take(seven, tmp_path):
    run(*seven, "SOLVER.MAX_ITER", 15, "TEST.EVAL_PERIOD", 0, "OUTPUT_DIR", tmp_path)
    log = (tmp_path / "log.txt").read_text()
    assert "15 iterations of 2 images, 4.29 epochs of 7 images: " in log
    assert " s per iteration, about " in log and " of them for evaluations" in log


def test_reckoning_from_minutes_loads_no_set_before_the_earlier_run_is_put_aside(
    seven, tmp_path, monkeypatch, six_seconds_a_step
):
    words = (*seven[:2], "--minutes", 1, *seven[2:], "OUTPUT_DIR", tmp_path)
    run(*words)
    before = (tmp_path / "custom_val.json").stat().st_ino
    run(*words)
    assert (tmp_path / "previous" / "1" / "custom_val.json").stat().st_ino == before


def test_a_hook_that_fails_before_training_is_not_hidden_by_the_bar(capsys):
    pytest.importorskip("tqdm")
    bar = progress.ProgressBar()
    bar.after_train()  # as the trainer does where another hook's before_train has raised
