"""export.py from a run's folder to the comparison."""

from pathlib import Path

import pytest

pytest.importorskip("detectron2")

from tests.commands import call
from tests.engine.conftest import run
from tests.engine.tiny import make_config, make_set


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one iteration that keeps every detection, with its data beside it."""
    base = tmp_path_factory.mktemp("export")
    data = make_set(base / "data", images=2)
    words = ("--config-file", make_config(base), "--train", data, "--val", data, "OUTPUT_DIR", base / "run")
    run(*words, "SOLVER.MAX_ITER", 1, "MODEL.FEATURE_ALIGN.SCORE_THRESH_TEST", "0.0", "TEST.SAMPLE_PICTURES", 0)
    return base / "run"


def command(*words: object) -> int:
    return call("export", *words)


def test_export_check_and_evaluate(folder, tmp_path, capsys):
    before = sorted(path.name for path in folder.rglob("*"))
    target = tmp_path / "model.pt2"
    words = ("--run", folder, "--output", target, "--size", 64, 64)
    assert command(*words, "--check", folder.parent / "data", "--evaluate") == 0
    text = capsys.readouterr().out
    assert "2 images, " in text and " 0 that only one of the two has" in text and "images a second" in text
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    header, torch, exported = (next(row for row in rows if row[0] == key) for key in ("model", "PyTorch", "exported"))
    assert header == ["model", "AP", "AP50", "AP75", "APs", "APm", "APl", "AR"]
    for one, other in zip(torch[1:], exported[1:]):
        assert one == other == "-" or float(one) == pytest.approx(float(other), abs=0.1)
    assert torch[-2] == "-"  # no large object
    assert ["category", "AP, PyTorch", "AP, exported"] in rows and any(row[0] == "block" for row in rows)
    assert sorted(path.name for path in folder.rglob("*")) == before
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt2"]


def test_wrong_arguments(folder, tmp_path, capsys):
    without_weights = tmp_path / "run"
    without_weights.mkdir()
    (without_weights / "config.yaml").write_text((folder / "config.yaml").read_text())
    target, images = tmp_path / "model.pt2", folder.parent / "data"
    for words, message in (
        (("--run", without_weights, "--output", target), "no weights in it"),
        (("--run", folder, "--output", tmp_path / "model.txt"), "must end in .onnx"),
        (("--run", folder, "--output", tmp_path / "model.onnx", "--opset", 12), "opset 12"),
        (("--run", folder, "--output", target, "--check", tmp_path / "nowhere.jpg"), "nowhere.jpg"),
        (("--run", folder, "--output", target, "--size", 64, 80, "--check", images), "--size is 64 80; export without"),
        (("--run", folder, "--output", target, "--weights", folder / "config.yaml"), "config.yaml"),
    ):
        assert command(*words) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and message in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]
