"""The recipe for one GPU trains on the CPU, on small images and without its weights, which take a network."""

import pytest

pytest.importorskip("detectron2")

from fa_detectron.engine import load_config
from tests.engine.conftest import run
from tests.engine.tiny import BASE, last_state, make_set

CONFIG = BASE.parent / "small_data_gpu.yaml"
SMALLER = ("MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu", "INPUT.MIN_SIZE_TRAIN", 64, "INPUT.MIN_SIZE_TEST", 64,
           "SOLVER.IMS_PER_BATCH", 2, "SOLVER.MAX_ITER", 2, "DATALOADER.NUM_WORKERS", 0)  # fmt: skip


def test_two_iterations(tmp_path):
    data = make_set(tmp_path / "data", images=2)
    words = ("--config-file", CONFIG, "--train", data, "--val", data)
    run(*words, *SMALLER, "OUTPUT_DIR", tmp_path / "out")
    state = last_state(tmp_path / "out")
    assert state["iteration"] == 1 and state["trainer"]["_trainer"]["averaged_steps"] == 2
    assert (tmp_path / "out" / "train_batches.jpg").exists() and (tmp_path / "out" / "model_best.pth").exists()


def test_it_starts_from_coco_with_the_pixels_of_its_weights():
    """Detectron2's RetinaNet R50: BGR, the strides in the first convolutions, P6 of C5."""
    cfg = load_config(str(CONFIG))
    assert cfg.MODEL.WEIGHTS.startswith("detectron2://COCO-Detection/retinanet_R_50_FPN_3x/")
    assert (cfg.INPUT.FORMAT, cfg.MODEL.PIXEL_STD, cfg.MODEL.RESNETS.STRIDE_IN_1X1) == ("BGR", [1.0, 1.0, 1.0], True)
    assert cfg.MODEL.PIXEL_MEAN == [103.53, 116.28, 123.675] and cfg.MODEL.FEATURE_ALIGN.P6_FEATURE == "res5"
    assert cfg.SOLVER.AMP.ENABLED and cfg.SOLVER.EMA_DECAY > 0 and len(cfg.INPUT.SCALE_JITTER) == 2
