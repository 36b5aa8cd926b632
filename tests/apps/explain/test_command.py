"""explain.py from the folders of runs to pictures and figures."""

import json
import math
import shutil
from types import SimpleNamespace

import pytest

pytest.importorskip("detectron2")

from PIL import Image

from fa_detectron.apps.explain.alignment import Alignment
from fa_detectron.apps.explain.comparison import method_table, select_images
from fa_detectron.engine import load_config
from fa_detectron.errors import UserError
from fa_detectron.inference import load_run
from fa_detectron.modeling.config import method_name
from tests.commands import call
from tests.engine.conftest import run
from tests.engine.tiny import BASE, make_config, make_set

OFF = ("MODEL.FEATURE_ALIGN.FEATURE_FILTER", "False", "MODEL.FEATURE_ALIGN.MDQ", "False")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Two runs of one iteration on the same data."""
    base = tmp_path_factory.mktemp("explain")
    data = make_set(base / "data", images=3, classes=("block", "cone"))
    words = ("--config-file", make_config(base), "--train", data, "--val", data, "TEST.SAMPLE_PICTURES", 0)
    words = (*words, "SOLVER.MAX_ITER", 1, "SOLVER.CHECKPOINT_PERIOD", 100)
    run(*words, "OUTPUT_DIR", base / "aligned")
    run(*words, "OUTPUT_DIR", base / "plain", *OFF)
    return SimpleNamespace(data=data, aligned=base / "aligned", plain=base / "plain")


def command(*words: object) -> int:
    return call("explain", "--device", "cpu", *words)


def test_pictures_averages_and_figures(runs, tmp_path, capsys):
    before = sorted(path for path in runs.plain.parent.rglob("*"))
    words = ("--run", runs.plain, "--run", runs.aligned, "--run", runs.aligned, "--average")
    target = tmp_path / "new" / "f.json"
    assert command(*words, "--output", tmp_path / "out", "--image", "2", "0.png", "--json", target) == 0
    names = [f"{stem}{end}.jpg" for stem in ("000_0", "002_2") for end in ("", "_levels")]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [*names, "priors.jpg"]
    for name in names:
        Image.open(tmp_path / "out" / name).load()
    assert sorted(path for path in runs.plain.parent.rglob("*")) == before
    figures = json.loads(target.read_text())
    assert [entry["method"] for entry in figures["runs"]] == ["AutoAssign", "FeatureAlign", "FeatureAlign"]
    first, second, third = figures["runs"]
    assert [image["image_id"] for image in first["images"]] == [2, 0]
    assert first["average"]["images"] == 3 and first["average"]["boxes"] == 3
    assert 0 <= first["average"]["misalignment"] <= 1 and second["average"] == third["average"]
    methods = figures["methods"]
    assert methods["AutoAssign"]["runs"] == 1 and methods["AutoAssign"]["misalignment"]["std"] is None
    assert methods["FeatureAlign"]["misalignment"]["std"] == 0
    assert methods["FeatureAlign"]["misalignment"]["mean"] == second["average"]["misalignment"]
    text = capsys.readouterr().out
    assert "AutoAssign (plain)" in text and "FeatureAlign, 2 runs: " in text


def test_other_data(runs, tmp_path):
    (tmp_path / "b").mkdir()
    data = json.loads(make_set(tmp_path / "a", images=1, classes=("cone",)).read_text())
    for name in ("0.png", "1.png"):
        shutil.copy(tmp_path / "a" / "0.png", tmp_path / "b" / name)
    data["images"].append({**data["images"][0], "id": 5, "file_name": "1.png"})  # an image without a box
    (tmp_path / "a" / "set.json").write_text(json.dumps(data))
    target = tmp_path / "f.json"
    words = ("--run", runs.aligned, "--data", tmp_path / "a" / "set.json", "--images", tmp_path / "b")
    assert command(*words, "--output", tmp_path / "out", "--json", target) == 0
    (only,) = json.loads(target.read_text())["runs"]
    assert [image["boxes"] for image in only["images"]] == [1, 0]
    assert only["images"][1]["misalignment"] is None
    assert str(tmp_path / "b") in only["images"][0]["file"]


def test_bad_input(runs, tmp_path, capsys):
    without_weights, renamed, empty = tmp_path / "run", tmp_path / "renamed", tmp_path / "empty.json"
    without_weights.mkdir()
    shutil.copy(runs.aligned / "config.yaml", without_weights)
    shutil.copytree(runs.aligned, renamed)
    config = (renamed / "config.yaml").read_text()
    (renamed / "config.yaml").write_text(config.replace("- block", "- brick"))
    larger = shutil.copytree(runs.aligned, tmp_path / "larger")
    (larger / "config.yaml").write_text(config.replace("MIN_SIZE_TEST: 64", "MIN_SIZE_TEST: 128"))
    data = json.loads(runs.data.read_text())
    empty.write_text(json.dumps({**data, "annotations": []}))
    unknown = make_set(tmp_path / "unknown", classes=("tree",))
    out = tmp_path / "out"
    for words, message in (
        (("--run", runs.plain), "nothing to do"),
        (("--run", without_weights, "--output", out), "no weights in it"),
        (("--run", runs.plain, "--run", renamed, "--output", out), "cannot be compared: classes block, cone"),
        (("--run", runs.plain, "--output", out, "--image", "nobody.jpg"), "--image nobody.jpg: no image"),
        (("--run", runs.plain, "--output", out, "--data", empty, "--images", runs.data.parent), "no image has a box"),
        (("--run", runs.plain, "--output", out, "--data", unknown), "'tree'"),
        (("--run", runs.plain, "--run", larger, "--average"), "INPUT.MIN_SIZE_TEST 64 there, 128 here"),
        (("--run", runs.plain, "--output", out, "--data", tmp_path / "gone.json"), "gone.json"),
        (("--run", runs.plain, "--output", out, "--images", tmp_path), "--images goes with --data"),
        (
            ("--run", runs.plain, "--output", out, "DATASETS.VAL_PATH", "", "DATASETS.TEST", "()"),
            "no test set",
        ),
        (("--run", runs.plain, "--output", empty), "empty.json exists and is not a folder"),
        (("--run", runs.plain, "--average", "--json", tmp_path), "is a folder"),
    ):
        assert command(*words) == 2, words
        error = capsys.readouterr().err
        assert error.startswith("error: ") and message in error, error
    assert not out.exists()


def test_images_are_selected_by_any_of_their_names():
    records = [
        {"file_name": f"/data/{name}", "image_id": i + 1} for i, name in enumerate(("a/x.jpg", "b/x.jpg", "2.png"))
    ]
    assert select_images(records, [], 2) == [0, 1] and select_images(records, [], 9) == [0, 1, 2]
    assert select_images(records, ["/data/b/x.jpg", "3", "2.png", "1"], 1) == [1, 2, 2, 0]
    for name in ("x", "x.jpg", "2"):  # 2: the id of one, the name of another
        with pytest.raises(UserError, match=f"--image {name}: several images"):
            select_images(records, [name], 1)


def test_methods_are_named_by_their_parts():
    def name(*parts: str) -> str:
        words = [word for part in parts for word in (f"MODEL.FEATURE_ALIGN.{part}", "True")]
        return method_name(load_config(str(BASE), words))

    assert name() == "AutoAssign" and name("FEATURE_FILTER", "MDQ") == "FeatureAlign"
    assert name("FEATURE_FILTER", "MDQ", "DE_SUBNET", "GLOBAL_ATTENTION.ENABLED") == "FeatureAlign†"
    assert name("FEATURE_FILTER", "DE_SUBNET") == "AutoAssign + De-Subnet + FF"


def test_what_cannot_be_measured_is_null(runs):
    loaded = load_run(runs.plain, device="cpu")
    nothing, some = Alignment(3, 0, 3, math.nan, math.nan), Alignment(3, 3, 0, 0.25, 0.5)
    table = method_table([loaded, loaded], [nothing, some])
    assert table["AutoAssign"]["misalignment"] == {"mean": None, "std": None}
    assert method_table([loaded, loaded], [some, some])["AutoAssign"]["rank_agreement"] == {"mean": 0.5, "std": 0.0}
