"""A set without annotations, such as COCO's test-dev: the server's file name and format."""

import contextlib
import io
import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from pycocotools.coco import COCO

from fa_detectron.engine.results import server_file
from tests.engine.conftest import run


@pytest.fixture
def test_set(trained, tmp_path):
    """A registered set without annotations, whose categories have COCO-like gaps in their ids."""
    content = json.loads(trained.data.read_text())
    del content["annotations"]
    content["categories"] = [{"id": 3, "name": "block"}, {"id": 8, "name": "cone"}]
    path = tmp_path / "image_info.json"
    path.write_text(json.dumps(content))
    register_coco_instances("coco_2031_test-dev", {}, str(path), str(trained.images))
    yield path
    DatasetCatalog.remove("coco_2031_test-dev")
    MetadataCatalog.remove("coco_2031_test-dev")


def test_detections_are_written_as_the_server_wants_them(trained, test_set, tmp_path, capsys):
    out = tmp_path / "my run"
    done = run(
        *("--config-file", trained.folder / "config.yaml", "--eval-only"),
        *("MODEL.WEIGHTS", trained.folder / "model_final.pth", "OUTPUT_DIR", out),
        *("DATASETS.TEST", "('coco_2031_test-dev',)", "DATASETS.TRAIN_PATH", "", "DATASETS.VAL_PATH", ""),
    )
    assert done.results == {}
    path = out / "eval" / "coco_2031_test-dev" / "inference" / "detections_test-dev2031_my-run_results.json"
    assert f"the detections are in {path}" in capsys.readouterr().out
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name, "instances_predictions.pth"]
    with contextlib.redirect_stdout(io.StringIO()):
        loaded = COCO(str(test_set)).loadRes(str(path))
    found = loaded.loadAnns(loaded.getAnnIds())
    assert {a["image_id"] for a in found} == {0, 1, 2}
    assert {a["category_id"] for a in found} == {3, 8}
    for result in json.loads(path.read_text()):
        assert set(result) == {"image_id", "category_id", "bbox", "score"}
        x, y, w, h = result["bbox"]
        assert 0 <= x and 0 <= y and w > 0 and h > 0 and x + w <= 64.01 and y + h <= 64.01


@pytest.mark.parametrize(
    ("name", "folder", "expected"),
    [
        ("coco_2017_test-dev", "output/fa_r50", "detections_test-dev2017_fa-r50_results.json"),
        ("coco_2017_test", "./output/", "detections_test2017_output_results.json"),
        ("my_set", "/a/b", "detections_my_set_b_results.json"),
        ("my_set", "/a/b/eval/my_set", "detections_my_set_b_results.json"),
        ("my_set", "/a/eval/b", "detections_my_set_b_results.json"),
    ],
)
def test_names(name, folder, expected):
    assert server_file(name, folder) == expected
