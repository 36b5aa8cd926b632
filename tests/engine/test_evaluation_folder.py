"""--eval-only writes below OUTPUT_DIR/eval, a folder for each set, and leaves the run's own records alone."""

import json
import math
import shutil

import pytest
from detectron2.utils import comm

from fa_detectron.apps.predict.ids import result_ids
from fa_detectron.apps.report.summary import config_in_short
from fa_detectron.data.set_names import data_name, folder_name
from fa_detectron.inference import load_run
from tests.engine.conftest import run
from tests.engine.tiny import make_set


@pytest.fixture
def copy(trained, tmp_path):
    """The finished run at a place of its own."""
    folder = tmp_path / "run"
    shutil.copytree(trained.folder, folder)
    return folder


def records(folder):
    """The run's files and their content, those of evaluations left out."""
    return {
        path.relative_to(folder): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file() and "eval" not in path.relative_to(folder).parts
    }


def strict_json(path):
    def refuse(word):
        raise ValueError(f"{path}: {word}")

    return json.loads(path.read_text(), parse_constant=refuse)


def evaluate(folder, *words):
    weights = ("MODEL.WEIGHTS", folder / "model_final.pth")
    return run("--config-file", folder / "config.yaml", "--eval-only", *words, *weights)


def test_another_set_has_a_folder_of_its_own(copy, tmp_path, capsys):
    other = make_set(tmp_path / "other" / "test", images=3)
    before = records(copy)
    results = evaluate(copy, "--val", other).results["bbox"]
    assert records(copy) == before
    folder = copy / "eval" / "test-set"
    assert "Results on test/set.json" in capsys.readouterr().out
    assert "Evaluation results" in (folder / "log.txt").read_text()
    assert len(list((folder / "samples").glob("*.png"))) == 2
    assert {r["image_id"] for r in strict_json(folder / "inference" / "coco_instances_results.json")} <= {0, 1, 2}
    found = strict_json(folder / "results.json")
    assert found["data"] == str(other) and found["weights"] == str(copy / "model_final.pth")
    assert found["detections_per_image"] == 100
    assert set(found["bbox"]) == set(results) and found["bbox"]["APl"] is None
    for name, value in results.items():
        assert found["bbox"][name] == (value if math.isfinite(value) else None)


def test_the_runs_own_set_is_evaluated_by_the_same_rule(copy):
    before = records(copy)
    own = evaluate(copy).results["bbox"]
    assert records(copy) == before
    assert strict_json(copy / "eval" / "data-set" / "results.json")["bbox"]["AP"] == own["AP"]
    (copy / "eval" / "data-set" / "results.json").unlink()
    evaluate(copy)  # again: in place of the former
    assert [path.name for path in (copy / "eval").iterdir()] == ["data-set"]
    assert (copy / "eval" / "data-set" / "results.json").exists()


def test_sets_that_are_called_alike_do_not_share_a_folder(copy, tmp_path):
    sets = [make_set(tmp_path / place / "test", images=2) for place in ("a", "b")]
    for path in (*sets, sets[0]):
        evaluate(copy, "--val", path)
    found = {p.parent.name: strict_json(p)["data"] for p in (copy / "eval").glob("test-set*/results.json")}
    assert found == {"test-set": str(sets[0]), "test-set-2": str(sets[1])}


def test_another_set_has_its_own_images(copy, tiny, tmp_path):
    """The run's --images would show it other pictures, whose files are called the same."""
    config = (copy / "config.yaml").read_text()
    root = tiny.data.parent
    (copy / "config.yaml").write_text(config.replace("IMAGES_ROOT: ''", f"IMAGES_ROOT: {root}"))
    other = make_set(tmp_path / "other", images=2)
    evaluate(copy, "--val", other)
    truth = strict_json(copy / "eval" / "other-set" / "custom_val.json")
    assert [image["file_name"] for image in truth["images"]] == [str(other.parent / f"{i}.png") for i in range(2)]
    assert evaluate(copy, "--val", tiny.data).cfg.DATASETS.IMAGES_ROOT == str(root)  # the run's own set
    assert evaluate(copy, "--val", other, "--images", other.parent).cfg.DATASETS.IMAGES_ROOT == str(other.parent)


def test_a_set_that_is_held_out_says_so(tiny, tmp_path, capsys):
    """Its ids are those of the training file, like its path."""
    out = tmp_path / "out"
    run("--config-file", tiny.config, "--train", tiny.data, "SOLVER.MAX_ITER", 1, "OUTPUT_DIR", out)
    evaluate(out)
    assert "Results on data/set.json (held out)" in capsys.readouterr().out
    folder = out / "eval" / "data-set-held-out"
    assert strict_json(folder / "results.json")["data"] == f"{tiny.data} (held out)"
    loaded = load_run(out, device="cpu")
    assert result_ids(loaded, [str(tiny.data.parent / "3.png")]).origin == f"those of {tiny.data}"
    assert config_in_short(loaded)[4] == ("Evaluation data", "data/set.json (held out)")


def test_names_tell_train_valid_and_test_apart():
    assert data_name("/data/pets/valid/_annotations.coco.json") == "valid/_annotations.coco.json"
    assert data_name("/data/VOC2012:test") == "data/VOC2012:test"
    assert data_name("/data/pets/data.yaml:val") == "pets/data.yaml:val"
    train, val = "/data/train/labels/set.json", "/data/val/labels/set.json"
    assert data_name(val, train, val) == "val/labels/set.json"
    assert data_name(train, train, val) == "train/labels/set.json"
    assert data_name("") == "" and data_name("set.json") == "set.json"
    assert folder_name("valid/_annotations.coco.json") == "valid-_annotations.coco"
    assert folder_name("pets/data.yaml:val") == "pets-data-val"
    assert folder_name("pets/train.json (held out)") == "pets-train-held-out"
    assert folder_name("../..") == folder_name("..") == "set"
    assert len(folder_name("x" * 300 + ".json")) == 80


def test_all_processes_use_the_folder_that_the_main_process_has_chosen(copy, tmp_path, monkeypatch):
    monkeypatch.setattr(comm, "all_gather", lambda value: [[str(tmp_path / "chosen")]])
    before = set(copy.rglob("*"))
    evaluate(copy)
    assert (tmp_path / "chosen" / "results.json").is_file() and set(copy.rglob("*")) == before
