"""Result files carry the ids of the user's own annotations: pycocotools gives them the AP that is printed."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from fa_detectron.apps.predict import detect
from fa_detectron.apps.predict.ids import result_ids
from fa_detectron.data import evaluation_config
from fa_detectron.data.conversion import category_ids
from fa_detectron.data.records import AnnotatedSet
from fa_detectron.engine import Trainer, load_config
from fa_detectron.errors import UserError
from fa_detectron.inference import ImageReader, Run
from tests.engine.oracle import Oracle, plain_coco
from tests.engine.tiny import make_config

TRAIN = {7: "ant", 3: "cat"}  # the model's classes, by id: cat, ant
VAL = {20: "cat", 4: "ant", 30: "dog"}  # of the validation file: the other order, and more


def write_set(folder: Path, categories: dict[int, str], image_ids: tuple) -> Path:
    """Images with a cat and, in every second one, an ant, a crowd of ants beside it, of 40 x 40 pixels each."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    number = {name: key for key, name in categories.items()}
    content = {"images": [], "annotations": [], "categories": [{"id": i, "name": n} for i, n in categories.items()]}
    for index, image_id in enumerate(image_ids):
        name = f"images/photo{index}.png"
        Image.fromarray(np.full((100, 200, 3), index * 9, np.uint8)).save(folder / name)
        content["images"].append({"id": image_id, "file_name": f"photo{index}.png", "width": 200, "height": 100})
        boxes = [("cat", [10, 10, 40, 40], 0)]
        if index % 2:
            boxes += [("ant", [60, 10, 40, 40], 0), ("ant", [120, 10, 40, 40], 1)]
        for label, box, crowd in boxes:
            item = {"bbox": box, "area": 900, "iscrowd": crowd, "image_id": image_id, "category_id": number[label]}
            content["annotations"].append({"id": len(content["annotations"]) + 1, **item})
    path = folder / "set.json"
    path.write_text(json.dumps(content))
    return path


def make_run(folder: Path, val: Path | str, train: Path | str = "") -> Run:
    """A run whose model finds every cat exactly and every ant 5 pixels beside its place: AP 100 and 30."""
    words = ["OUTPUT_DIR", str(folder / "run"), "DATASETS.VAL_PATH", str(val), "DATASETS.TRAIN_PATH", str(train)]
    cfg = load_config(str(make_config(folder)), words)
    cfg = evaluation_config(cfg, cfg.OUTPUT_DIR)
    names = tuple(cfg.DATASETS.CLASS_NAMES)
    ant = names.index("ant")
    oracle = Oracle(DatasetCatalog.get("custom_val"), shift=lambda label: 5.0 * (label == ant))
    return Run(cfg.OUTPUT_DIR, cfg, oracle, names, tuple(cfg.DATASETS.CATEGORY_IDS) or tuple(range(1, len(names) + 1)))


class FakePredictor:
    """What the run's model finds in image files."""

    def __init__(self, run: Run) -> None:
        self.run, self.class_names, self.category_ids = run, run.class_names, run.category_ids
        self.reader = ImageReader()
        records = DatasetCatalog.get("custom_val")
        self.found = {self.reader.to_rgb(r["file_name"]).tobytes(): run.model.found[r["image_id"]] for r in records}

    def __call__(self, images):
        return [self.found[np.asarray(image).tobytes()] for image in images]


def demo(run: Run, paths: list[Path], target: Path, data: str = "") -> SimpleNamespace:
    wanted = detect.Outputs("", str(target), 0.5, 2, data)
    summary = detect.predict_images(FakePredictor(run), [str(path) for path in paths], wanted)
    return SimpleNamespace(ids=summary.ids, results=json.loads(target.read_text()))


@pytest.mark.parametrize("image_ids", [(11, 5, 900, 2), ("a/1", "b", "10", "9")], ids=["integers", "strings"])
def test_pycocotools_agrees_on_the_users_own_file(tmp_path, image_ids):
    train, val = write_set(tmp_path / "train", TRAIN, (1, 2)), write_set(tmp_path / "val", VAL, image_ids)
    run = make_run(tmp_path, val, train)
    assert run.class_names == ("cat", "ant") and run.category_ids == (3, 7)
    assert json.loads(val.read_text())["annotations"][0]["area"] == 900  # of the object, small where its box is not
    printed = Trainer.test(run.cfg, run.model)["bbox"]
    assert printed["AP-cat"] == pytest.approx(100) and printed["AP-ant"] == pytest.approx(30)
    inference = Path(run.cfg.OUTPUT_DIR, "inference", "coco_instances_results.json")
    found = demo(run, sorted((tmp_path / "val" / "images").iterdir()), tmp_path / "demo.json")
    assert found.ids == f"those of {val}"
    assert {r["image_id"] for r in found.results} == set(image_ids)
    assert {r["category_id"] for r in found.results} == {20, 4}
    for file in (inference, tmp_path / "demo.json"):
        stats = plain_coco(val, file).stats
        for name, index in {"AP": 0, "AP50": 1, "AP75": 2, "APs": 3, "AR": 8}.items():
            assert stats[index] * 100 == pytest.approx(printed[name]), (file, name)
        # The evaluation's own file has the same ids.
        assert plain_coco(Path(run.cfg.OUTPUT_DIR, "custom_val.json"), file).stats[0] * 100 == printed["AP"]


def test_an_annotation_id_that_pycocotools_never_matches_is_told_once(tmp_path, caplog):
    path = write_set(tmp_path, VAL, (1, 2))
    content = json.loads(path.read_text())
    caplog.set_level("INFO")
    for first, times in ((1, 0), (0, 1)):
        for index, item in enumerate(content["annotations"], first):
            item["id"] = index
        path.write_text(json.dumps(content))
        caplog.clear()
        make_run(tmp_path, path)
        make_run(tmp_path, path)
        assert caplog.text.count("an annotation has the id 0") == times


def test_the_ids_of_another_set_are_those_of_data(tmp_path):
    train, test = write_set(tmp_path / "train", TRAIN, (1, 2)), write_set(tmp_path / "test", VAL, (8, 6))
    run = make_run(tmp_path, train, train)
    photos = sorted((tmp_path / "test" / "images").iterdir())
    counted = result_ids(run, list(map(str, photos)))  # unknown to the run
    assert counted.images == [(0,), (1,)] and counted.categories == (3, 7)
    found = result_ids(run, list(map(str, photos)), str(test))
    assert found.images == [(8,), (6,)] and found.categories == (20, 4)
    with pytest.raises(UserError, match=r"1 images that it does not list:\n.*train/images/photo0.png"):
        result_ids(run, [str(photos[0]), str(tmp_path / "train" / "images" / "photo0.png")], str(test))
    (tmp_path / "train" / "set.json").unlink()  # the run's data need not be there
    assert result_ids(run, list(map(str, photos))).images == [(0,), (1,)]


def test_a_file_that_is_listed_twice_is_one_image_with_the_first_id(tmp_path):
    path = write_set(tmp_path / "val", TRAIN, (1, 2))
    content = json.loads(path.read_text())
    content["images"].append({**content["images"][0], "id": 70})
    content["annotations"].append({**content["annotations"][0], "id": 70, "image_id": 70})
    path.write_text(json.dumps(content))
    run = make_run(tmp_path, path)
    printed = Trainer.test(run.cfg, run.model)["bbox"]["AP"]
    found = demo(run, sorted((tmp_path / "val" / "images").iterdir()), tmp_path / "demo.json")
    assert 70 not in {r["image_id"] for r in found.results}
    truth = Path(run.cfg.OUTPUT_DIR, "custom_val.json")
    assert plain_coco(truth, tmp_path / "demo.json").stats[0] * 100 == pytest.approx(printed)


def test_voc_and_yolo_sets_have_ids_that_their_evaluation_file_has(tmp_path):
    """Categories count from 1 in the order of the classes; images are called as the set calls them."""
    root = tmp_path / "yolo"
    for index in range(4):
        for folder in ("images/val", "labels/val"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((100, 200, 3), index * 9, np.uint8)).save(root / f"images/val/p{index}.png")
        (root / f"labels/val/p{index}.txt").write_text(f"{index % 2} 0.5 0.5 0.2 0.4\n")
    (root / "data.yaml").write_text("train: images/val\nval: images/val\nnames: [cat, ant]\n")
    run = make_run(tmp_path, root / "data.yaml")
    printed = Trainer.test(run.cfg, run.model)["bbox"]["AP"]
    truth = Path(run.cfg.OUTPUT_DIR, "custom_val.json")
    found = demo(run, sorted((root / "images" / "val").iterdir()), tmp_path / "demo.json")
    assert {(r["image_id"], r["category_id"]) for r in found.results} == {
        (f"images/val/p{i}.png", 1 + i % 2) for i in range(4)
    }
    for file in (truth.parent / "inference" / "coco_instances_results.json", tmp_path / "demo.json"):
        assert plain_coco(truth, file).stats[0] * 100 == pytest.approx(printed)


def test_classes_that_the_file_does_not_list_collide_with_none():
    data = AnnotatedSet("set", ("cat", "ant"), [], (1, 5))
    assert category_ids(data, ("ant", "bee", "cat", "dog"), (5, 1, 3, 9)) == {"ant": 5, "bee": 2, "cat": 1, "dog": 9}
    assert category_ids(AnnotatedSet("set", ("cat",), []), ("ant", "cat")) == {"ant": 1, "cat": 2}
    assert category_ids(AnnotatedSet("set", ("cat",), []), ("ant", "cat"), (40, 2)) == {"ant": 40, "cat": 2}


def test_ids_must_fit_the_names(tmp_path):
    path = write_set(tmp_path, TRAIN, (1,))
    words = ["DATASETS.VAL_PATH", str(path), "DATASETS.CLASS_NAMES", "('cat', 'ant')", "DATASETS.CATEGORY_IDS", "(3,)"]
    with pytest.raises(UserError, match=r"DATASETS.CATEGORY_IDS has 1 ids for 2"):
        evaluation_config(load_config(str(make_config(tmp_path)), words), str(tmp_path / "run"))


def test_a_set_registered_by_name_tells_its_ids_once_it_is_loaded(trained, tmp_path):
    from detectron2.data.datasets import register_coco_instances

    from fa_detectron.inference.run import load_run

    content = json.loads(trained.data.read_text())
    for item in (*content["categories"], *content["annotations"]):
        key = "id" if "name" in item else "category_id"
        item[key] *= 6
    path = tmp_path / "own.json"
    path.write_text(json.dumps(content))
    register_coco_instances("users_named", {}, str(path), str(trained.images))
    try:
        words = ["DATASETS.TEST", "('users_named',)", "DATASETS.TRAIN", "()", "DATASETS.CATEGORY_IDS", "()"]
        words += ["DATASETS.CLASS_NAMES", "()"]
        run = load_run(trained.folder, device="cpu", overrides=words)
        assert run.category_ids == (6, 12) and run.class_names == ("block", "cone")
    finally:
        DatasetCatalog.remove("users_named")
        MetadataCatalog.remove("users_named")
