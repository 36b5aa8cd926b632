"""The making of the built-in set: once, whole, by any number of processes."""

import json
import multiprocessing
import os

import numpy as np
import pytest

pytest.importorskip("detectron2")

from detectron2.data import DatasetCatalog, MetadataCatalog
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from fa_detectron.data.builtin import dataset as builtin
from fa_detectron.errors import UserError


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(builtin, "SPLITS", {"train": (1, 9), "val": (2, 5)})


def test_processes_that_start_together_make_it_once(few, tmp_path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=builtin.ensure_builtin_dataset, args=(str(tmp_path),)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    folder = builtin.ensure_builtin_dataset(str(tmp_path))
    assert sorted(p.name for p in folder.iterdir()) == ["train", "train.json", "val", "val.json"]
    assert sorted(p.name for p in folder.parent.iterdir()) == [".lock", folder.name]
    content = json.loads((folder / "train.json").read_text())
    assert len(content["images"]) == len(list((folder / "train").iterdir())) == 9


def test_an_interruption_leaves_nothing_and_remains_are_cleared(few, tmp_path, monkeypatch):
    render = builtin.render_scene

    def interrupted(seed, height, width):
        if seed[1] == 3:
            raise KeyboardInterrupt
        return render(seed, height, width)

    monkeypatch.setattr(builtin, "render_scene", interrupted)
    with pytest.raises(KeyboardInterrupt):
        builtin.ensure_builtin_dataset(str(tmp_path))
    assert [p.name for p in (tmp_path / "fa_shapes").iterdir()] == [".lock"]
    (tmp_path / "fa_shapes" / ".making-killed").mkdir()  # what a killed process leaves
    monkeypatch.setattr(builtin, "render_scene", render)
    folder = builtin.ensure_builtin_dataset(str(tmp_path))
    assert sorted(p.name for p in folder.parent.iterdir()) == [".lock", folder.name]


def test_two_makers_without_locks_end_with_one_set(few, tmp_path, monkeypatch):
    """Where the file system has no locks, the slower process finds the folder there, and uses it."""
    split = builtin._make_split

    def overtaken(folder, name):
        split(folder, name)
        if name == "val" and not (tmp_path / "fa_shapes" / f"v{builtin.VERSION}").exists():
            monkeypatch.setattr(builtin, "_make_split", split)
            builtin._make(folder.parent, folder.parent / f"v{builtin.VERSION}")

    (tmp_path / "fa_shapes").mkdir()
    monkeypatch.setattr(builtin, "_make_split", overtaken)
    builtin._make(tmp_path / "fa_shapes", tmp_path / "fa_shapes" / f"v{builtin.VERSION}")
    assert [p.name for p in (tmp_path / "fa_shapes").iterdir()] == [f"v{builtin.VERSION}"]


def test_a_changed_generator_makes_a_new_set_beside_the_old(few, tmp_path, monkeypatch):
    old = builtin.ensure_builtin_dataset(str(tmp_path))
    monkeypatch.setattr(builtin, "VERSION", builtin.VERSION + 1)
    new = builtin.ensure_builtin_dataset(str(tmp_path))
    assert old != new and old.is_dir() and new.is_dir()


def test_a_root_that_cannot_be_written_to_is_refused(few, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="DETECTRON2_DATASETS"):
        builtin.ensure_builtin_dataset(str(tmp_path / "file"))


def test_it_is_registered_under_its_names(few, tmp_path):
    names = ("fa_shapes_train", "fa_shapes_val")
    saved = {name: (DatasetCatalog.pop(name), MetadataCatalog.pop(name)) for name in names}
    try:
        builtin.register_builtin_datasets(str(tmp_path))
        assert not os.listdir(tmp_path)  # nothing happens before the first use
        records = DatasetCatalog.get("fa_shapes_val")
        assert len(records) == 5 and all(os.path.isfile(r["file_name"]) for r in records)
        assert os.path.isfile(MetadataCatalog.get("fa_shapes_val").json_file)
    finally:
        for name, (loader, metadata) in saved.items():
            DatasetCatalog.pop(name)
            MetadataCatalog.pop(name)
            DatasetCatalog[name], MetadataCatalog[name] = loader, metadata


def test_a_fixed_mean_box_scores_below_5(tmp_path, monkeypatch):
    monkeypatch.setattr(builtin, "SPLITS", {"train": (1, 150), "val": (2, 150)})
    folder = builtin.ensure_builtin_dataset(str(tmp_path))
    train = json.loads((folder / "train.json").read_text())["annotations"]
    truth = COCO(str(folder / "val.json"))
    results = []
    for category in truth.getCatIds():
        boxes = np.array([a["bbox"] for a in train if a["category_id"] == category])
        for image_id in truth.getImgIds():
            box = boxes.mean(axis=0).tolist()
            results.append({"image_id": image_id, "category_id": category, "bbox": box, "score": 1.0})
    evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert 0.0 <= 100 * evaluation.stats[0] < 5.0
