"""The page of a run with many classes, one of which the evaluation set lacks, and the names of its sets."""

import json
import re
import shutil

import pytest

pytest.importorskip("detectron2")

from fa_detectron.apps.report import ReportOptions, page
from fa_detectron.inference import load_run
from tests.engine.conftest import run
from tests.engine.tiny import make_config, make_set

CLASSES = tuple(f"class {i}" for i in range(14))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of an iteration; train/set.json has all classes, valid/set.json no box of the last."""
    base = tmp_path_factory.mktemp("classes")
    train, val = (make_set(base / name, images=14, classes=CLASSES) for name in ("train", "valid"))
    content = json.loads(val.read_text())
    content["annotations"] = [a for a in content["annotations"] if a["category_id"] != 14]
    val.write_text(json.dumps(content))
    words = ("--config-file", make_config(base), "--train", train, "--val", val, "OUTPUT_DIR", base / "run")
    run(*words, "SOLVER.MAX_ITER", 1, "MODEL.FEATURE_ALIGN.SCORE_THRESH_TEST", "0.0", "TEST.SAMPLE_PICTURES", 0)
    return base / "run"


def make_page(folder, target):
    page.write_report(load_run(folder, device="cpu"), str(target), ReportOptions(pictures=1))
    return re.sub(r"data:image/jpeg;base64,[A-Za-z0-9+/=]+", "", target.read_text())


def cells(text, start):
    """The texts of the table row that begins with ``start``, tags left out."""
    row = next(row for row in re.findall(r"<tr.*?</tr>", text, re.S) if re.search(start, row))
    return [re.sub(r"<[^>]+>", "", cell).strip() for cell in re.findall(r"<t[hd].*?</t[hd]>", row, re.S)]


def test_an_absent_class_is_a_dash_and_sets_have_names_of_their_own(folder, tmp_path):
    text = make_page(folder, tmp_path / "report.html")
    assert cells(text, r'<th scope="row" title="class 13">')[:4] == ["class 13", "-", "0", "0"]
    assert cells(text, r'<th scope="row" title="class 12">')[1] == "0.0"
    assert "evaluated on 14 images of valid/set.json" in text
    assert cells(text, "Training data") == ["Training data", "train/set.json"]
    assert cells(text, "Evaluation data") == ["Evaluation data", "valid/set.json"]
    assert "custom_val" not in text and "nan" not in re.sub(r"<style>.*?</style>", "", text, flags=re.S).lower()


def test_the_confusion_matrix_of_many_classes_is_narrow_and_whole(folder, tmp_path):
    text = make_page(folder, tmp_path / "report.html")
    matrix = re.search(r'<table class="matrix dense">.*?</table>', text, re.S)[0]
    header, *rows = re.findall(r"<tr.*?</tr>", matrix, re.S)
    assert len(rows) == 15 and re.findall(r"<span>(.*?)</span>", header) == [*CLASSES, "missed"]
    assert all(len(re.findall(r"<td", row)) == 15 for row in rows)
    assert cells(matrix, 'title="class 13">class 13')[1:] == ["-"] * 15  # of nothing there is no share
    style = re.search(r"<style>(.*?)</style>", text, re.S)[1]
    assert ".scroll { overflow-x: auto; }" in style and "writing-mode: vertical-rl" in style


def test_the_runs_own_figures_list_the_absent_class_too(folder, tmp_path):
    """Without the data, from metrics.json, which leaves out what is no number."""
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    config = (moved / "config.yaml").read_text()
    (moved / "config.yaml").write_text(config.replace(str(folder.parent / "valid"), "/gone/valid"))
    text = make_page(moved, tmp_path / "report.html")
    assert cells(text, r'<th scope="row">class 13<') == ["class 13", "-"]
    assert cells(text, r'<th scope="row">class 12<') == ["class 12", "0.0"]
