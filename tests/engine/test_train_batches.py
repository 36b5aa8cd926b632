"""Augmented runs resume exactly, and every run's folder shows what it trains on."""

import signal

import pytest
from PIL import Image

pytest.importorskip("detectron2")

from fa_detectron.apps.train import argument_parser
from fa_detectron.engine import setup
from tests.engine.conftest import run
from tests.engine.test_resume import assert_same, stop_at
from tests.engine.tiny import last_state, make_config, make_set

AUGMENTED = (
    *("INPUT.SCALE_JITTER", "(0.5, 2.0)", "INPUT.COLOR_JITTER", 0.3, "INPUT.MOSAIC", 0.5, "INPUT.MIN_VISIBLE", 0.3),
    *("SOLVER.MAX_ITER", 4, "SOLVER.CHECKPOINT_PERIOD", 0, "TEST.EVAL_PERIOD", 0),
)


def test_augmented_runs_go_on_exactly_and_show_their_batches(tmp_path, monkeypatch):
    data = make_set(tmp_path / "data", images=7, widths=(64, 96))
    words = ("--config-file", make_config(tmp_path), "--train", data, "--val", data)
    run(*words, *AUGMENTED, "OUTPUT_DIR", tmp_path / "straight")
    with monkeypatch.context() as patch:
        stop_at(patch, signal.SIGTERM, 1)
        with pytest.raises(SystemExit):
            run(*words, *AUGMENTED, "INPUT.SAMPLE_PICTURES", 0, "OUTPUT_DIR", tmp_path / "parts")
    assert not (tmp_path / "parts" / "train_batches.jpg").exists()
    run(*words[:2], "--resume", *words[2:], *AUGMENTED, "DATALOADER.NUM_WORKERS", 1, "OUTPUT_DIR", tmp_path / "parts")
    assert_same(*(last_state(tmp_path / part) for part in ("straight", "parts")))
    picture = Image.open(tmp_path / "straight" / "train_batches.jpg")
    assert picture.width > 4 * 320 and picture.height > 4 * 200  # 16 in rows of 4
    assert len(picture.convert("RGB").getcolors(maxcolors=1 << 24)) > 100


def test_sets_by_name_have_no_picture_unless_a_key_says_so(tmp_path):
    words = ["--config-file", "configs/demo.yaml", "MODEL.TIMM.WEIGHTS", "", "OUTPUT_DIR", str(tmp_path)]
    assert setup(argument_parser().parse_args(words)).INPUT.SAMPLE_PICTURES == 0
    assert setup(argument_parser().parse_args([*words, "INPUT.SAMPLE_PICTURES", "6"])).INPUT.SAMPLE_PICTURES == 6
