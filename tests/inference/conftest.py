"""One tiny trained run. Its score threshold is 0, so that even three iterations leave detections to look at."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("detectron2")

from fa_detectron.inference import Predictor
from tests.engine.conftest import run
from tests.engine.tiny import make_config, make_set

CLASSES = ("block", "cone")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """folder: the run's; images: the folder of its data; data: the COCO JSON."""
    base = tmp_path_factory.mktemp("inference")
    data = make_set(base / "data", images=3, classes=CLASSES)
    words = ("--config-file", make_config(base), "--train", data, "--val", data, "OUTPUT_DIR", base / "run")
    run(*words, "SOLVER.MAX_ITER", 1, "SOLVER.CHECKPOINT_PERIOD", 100, "MODEL.FEATURE_ALIGN.SCORE_THRESH_TEST", "0.0")
    return SimpleNamespace(folder=base / "run", images=data.parent, data=data)


@pytest.fixture(scope="session")
def predictor(trained: SimpleNamespace) -> Predictor:
    return Predictor.from_run(trained.folder, device="cpu", batch_size=2)


@pytest.fixture
def photos(trained: SimpleNamespace, tmp_path: Path) -> Path:
    """A folder of one's own with the run's three images: 0.png, 1.png, 2.png."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for file in trained.images.glob("*.png"):
        shutil.copy(file, folder)
    return folder
