"""Evaluators: Pascal VOC's categories, sets without annotations, broken images."""

import json
import math

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances, register_pascal_voc
from detectron2.evaluation import PascalVOCDetectionEvaluator
from detectron2.structures import Boxes, Instances

from fa_detectron.data.images.pixels import ImageReader
from fa_detectron.data.training.mapper import DetectionMapper
from fa_detectron.engine import evaluators as evaluation
from fa_detectron.engine import load_config
from fa_detectron.engine.evaluators import CategoryCOCOEvaluator, CategoryVOCEvaluator, build_evaluator
from fa_detectron.errors import UserError
from tests.engine.conftest import run
from tests.engine.oracle import instances_of
from tests.engine.tiny import make_set

OBJECT = "<object><name>{}</name><pose>x</pose><truncated>0</truncated><difficult>0</difficult>{}</object>"
BOX = "<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox>"


@pytest.fixture
def registered():
    """Names that the test registers; forgotten afterwards."""
    names = []
    yield names
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def detections(boxes, classes, scores):
    instances = Instances((100, 100))
    instances.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.pred_classes, instances.scores = torch.tensor(classes), torch.tensor(scores)
    return {"instances": instances}


@pytest.fixture
def voc(tmp_path, registered):
    """Three images, a cat and a dog in each."""
    for folder in ("Annotations", "ImageSets/Main"):
        (tmp_path / folder).mkdir(parents=True)
    for index in range(3):
        objects = [OBJECT.format("cat", BOX.format(11, 11, 50, 50)), OBJECT.format("dog", BOX.format(51, 51, 90, 90))]
        text = f"<annotation><size><width>100</width><height>100</height></size>{''.join(objects)}</annotation>"
        (tmp_path / "Annotations" / f"{index}.xml").write_text(text)
    (tmp_path / "ImageSets" / "Main" / "test.txt").write_text("0\n1\n2\n")
    register_pascal_voc("voc_test_tiny", str(tmp_path), "test", 2012, class_names=("cat", "dog", "emu"))
    MetadataCatalog.get("voc_test_tiny").evaluator_type = "pascal_voc"
    registered.append("voc_test_tiny")
    return "voc_test_tiny"


def test_voc_has_the_ap_of_every_category(voc):
    ours, theirs = CategoryVOCEvaluator(voc), PascalVOCDetectionEvaluator(voc)
    for evaluator in (ours, theirs):
        evaluator.reset()
        for index in range(3):  # every cat is found, a third of the dogs, and not quite in their place
            found = [[10, 10, 50, 50]] + ([[50, 52, 90, 92]] if index == 0 else [])
            evaluator.process(
                [{"image_id": str(index)}], [detections(found, [0, 1][: len(found)], [0.9, 0.8][: len(found)])]
            )
    results, expected = ours.evaluate()["bbox"], theirs.evaluate()["bbox"]
    for key in ("AP", "AP50", "AP75"):  # theirs counts the absent emu as 0
        assert results[key] == pytest.approx(float(expected[key]) * 3 / 2)
    assert math.isnan(results["AP-emu"])
    assert results["AP-cat"] == pytest.approx(100.0)
    assert 0 < results["AP-dog"] < 40


def test_a_set_without_annotations_gets_its_detections_written(tiny, trained, tmp_path, registered, capsys):
    path = make_set(tmp_path / "dev")
    content = json.loads(path.read_text())
    del content["annotations"]
    path.write_text(json.dumps(content))
    register_coco_instances("tiny_test_dev", {}, str(path), str(path.parent))
    registered.append("tiny_test_dev")
    out = tmp_path / "out"
    words = ["DATASETS.VAL_PATH", "", "DATASETS.TEST", "('tiny_test_dev',)", "OUTPUT_DIR", out]
    weights = ["MODEL.WEIGHTS", trained.folder / "model_final.pth", "MODEL.FEATURE_ALIGN.SCORE_THRESH_TEST", 0.0]
    run("--config-file", trained.folder / "config.yaml", "--eval-only", *words, *weights)
    folder = out / "eval" / "tiny_test_dev"
    found = json.loads((folder / "inference" / "detections_tiny_test_dev_out_results.json").read_text())
    assert found and {"image_id", "category_id", "bbox", "score"} == set(found[0])
    assert "no annotations to compare with" in capsys.readouterr().out


def test_several_sets_have_their_own_rows_and_folders(tiny, trained, tmp_path, registered, capsys):
    for name in ("tiny_one", "tiny_two"):
        register_coco_instances(name, {}, str(tiny.data), str(tiny.data.parent))
        registered.append(name)
    out = tmp_path / "out"
    sets = ["DATASETS.VAL_PATH", "", "DATASETS.TEST", "('tiny_one', 'tiny_two')"]
    words = ["OUTPUT_DIR", out, "MODEL.WEIGHTS", trained.folder / "model_final.pth"]
    done = run("--config-file", trained.folder / "config.yaml", "--eval-only", *sets, *words)
    assert done.results["tiny_one"]["bbox"] == pytest.approx(done.results["tiny_two"]["bbox"], nan_ok=True)
    shown = capsys.readouterr().out
    for name in ("tiny_one", "tiny_two"):
        assert f"Results on {name}" in shown
        assert (out / "eval" / name / "inference" / "coco_instances_results.json").exists()
        assert len(list((out / "eval" / name / "samples").glob("*.png"))) == 2


def test_no_detection_is_an_ap_of_zero(tiny, tmp_path, registered):
    """Nothing found of what is there is 0; what is not there is NaN, as with detections."""
    content = json.loads(tiny.data.read_text())
    content["categories"].append({"id": 2, "name": "absent"})
    path = tmp_path / "set.json"
    path.write_text(json.dumps(content))
    register_coco_instances("tiny_none", {}, str(path), str(tiny.data.parent))
    registered.append("tiny_none")
    DatasetCatalog.get("tiny_none")
    for found in (detections([], [], []), detections([[90, 90, 99, 99]], [1], [0.9])):
        evaluator = CategoryCOCOEvaluator("tiny_none", "run", 100, tasks=("bbox",), output_dir=str(tmp_path))
        evaluator.reset()
        evaluator.process([{"image_id": 0}], [found])
        results = evaluator.evaluate()["bbox"]
        zero = {"AP", "AP50", "AP75", "APs", "AR", "AP-block"}  # the boxes have 28 x 24 pixels
        assert {name for name, value in results.items() if value == 0} == zero
        assert {name for name, value in results.items() if math.isnan(value)} == {"APm", "APl", "AP-absent"}


def test_an_annotation_with_the_id_0_can_be_found(tiny, tmp_path, registered, caplog):
    """Roboflow's exports have one; pycocotools alone never counts it as found."""
    content = json.loads(tiny.data.read_text())
    content["images"], content["annotations"] = content["images"][:1], [{**content["annotations"][0], "id": 0}]
    path = tmp_path / "zero.json"
    path.write_text(json.dumps(content))
    register_coco_instances("tiny_zero", {}, str(path), str(tiny.data.parent))
    registered.append("tiny_zero")
    (record,) = DatasetCatalog.get("tiny_zero")
    caplog.set_level("INFO")
    evaluator = CategoryCOCOEvaluator("tiny_zero", "run", 100, tasks=("bbox",), output_dir=str(tmp_path))
    evaluator.reset()
    evaluator.process([record], [{"instances": instances_of(record)}])
    assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100)
    assert f"{path}: an annotation has the id 0" in caplog.text


def test_a_stale_conversion_of_a_changed_set_is_not_believed(tiny, tmp_path, registered):
    """Detectron2 keeps the COCO file that it makes of a set, whatever becomes of the set."""
    boxes = [[0, 0, 10, 10]]

    def load():
        annotations = [{"bbox": box, "bbox_mode": 0, "category_id": 0} for box in boxes]
        image = str(tiny.data.parent / "0.png")
        return [{"file_name": image, "image_id": 0, "height": 64, "width": 64, "annotations": annotations}]

    DatasetCatalog.register("tiny_changing", load)
    registered.append("tiny_changing")
    MetadataCatalog.get("tiny_changing").thing_classes = ["block"]
    cfg = load_config(str(tiny.config), ["OUTPUT_DIR", str(tmp_path)])
    counts = []
    for _ in range(2):
        build_evaluator(cfg, "tiny_changing")
        file = MetadataCatalog.get("tiny_changing").json_file
        counts.append(len(json.loads(open(file).read())["annotations"]))
        MetadataCatalog.pop("tiny_changing")  # a new process
        MetadataCatalog.get("tiny_changing").thing_classes = ["block"]
        boxes.append([20, 20, 30, 30])
    assert counts == [1, 2]


def test_a_file_that_stands_in_a_set_twice_is_drawn_with_its_own_boxes(tiny, registered, monkeypatch):
    content = json.loads(tiny.data.read_text())
    first, box = content["images"][0], content["annotations"][0]
    content["images"] = [first, {**first, "id": 70}]
    content["annotations"] = [box, {**box, "id": 70, "image_id": 70, "bbox": [1, 1, 5, 5]}]
    path = tiny.data.parent / "twice.json"
    path.write_text(json.dumps(content))
    register_coco_instances("tiny_twice", {}, str(path), str(tiny.data.parent))
    registered.append("tiny_twice")
    drawn = []
    monkeypatch.setattr(evaluation, "save_detection_samples", lambda records, *_, **__: drawn.extend(records))
    pictures = evaluation.SamplePictures("tiny_twice", "folder", 2, ImageReader())
    pictures.reset()
    pictures.process(DatasetCatalog.get("tiny_twice"), [detections([], [], [])] * 2)
    pictures.evaluate()
    assert [record["annotations"][0]["bbox"] for record in drawn] == [box["bbox"], [1, 1, 5, 5]]


def test_a_broken_image_is_named(tiny, tmp_path):
    data = (tiny.data.parent / "0.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    record = {"file_name": str(tmp_path / "cut.png"), "height": 64, "width": 64, "image_id": 0, "annotations": []}
    cfg = load_config(str(tiny.config))
    with pytest.raises(UserError, match=r"cut\.png"):
        DetectionMapper(cfg, is_train=True)(record)
    record["file_name"] = str(tmp_path / "gone.png")
    with pytest.raises(UserError, match=r"gone\.png"):
        DetectionMapper(cfg, is_train=False)(record)
