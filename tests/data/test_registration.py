"""From --train, --val and config keys to registered sets, and the checks before a run."""

import json
import logging
from pathlib import Path

import pytest

pytest.importorskip("detectron2")

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances

from fa_detectron.data import check_data, register_from_config, resolve_data_arguments
from fa_detectron.data.registration import TRAIN_NAME, VAL_NAME
from fa_detectron.errors import UserError
from tests.data.conftest import voc_object

CAT, ANT = voc_object("cat", (5, 5, 24, 14)), voc_object("ant", (31, 9, 46, 24))


def test_coco_paths_settle_the_whole_config(coco, config):
    cfg = config()
    resolve_data_arguments(cfg, coco(), coco(name="val"))
    assert list(cfg.DATASETS.TRAIN) == [TRAIN_NAME] and list(cfg.DATASETS.TEST) == [VAL_NAME]
    assert list(cfg.DATASETS.CLASS_NAMES) == ["ant", "cat"] and cfg.MODEL.FEATURE_ALIGN.NUM_CLASSES == 2
    register_from_config(cfg)
    record = DatasetCatalog.get(TRAIN_NAME)[0]
    assert [(a["bbox"], a["category_id"]) for a in record["annotations"]] == [([4, 4, 24, 14], 1), ([30, 8, 46, 24], 0)]
    assert MetadataCatalog.get(VAL_NAME).thing_classes == ["ant", "cat"]


def test_a_folder_named_twice_means_its_train_and_val_splits(voc, config):
    folder = voc({"a": CAT + ANT, "b": CAT}, {"train": ["a"], "val": ["b"], "test": ["a", "b"]})
    cfg = config()
    resolve_data_arguments(cfg, folder, folder)
    assert (cfg.DATASETS.TRAIN_PATH, cfg.DATASETS.VAL_PATH) == (f"{folder}:train", f"{folder}:val")
    resolve_data_arguments(cfg, val=f"{folder}:test")
    register_from_config(cfg)
    assert [r["image_id"] for r in DatasetCatalog.get(VAL_NAME)] == ["a", "b"]


def test_the_saved_config_alone_serves_evaluation(voc, config, tmp_path, monkeypatch):
    folder = voc({"a": CAT + ANT, "b": CAT}, {"train": ["a"], "val": ["b"]})
    cfg = config()
    monkeypatch.chdir(tmp_path)  # the paths must not depend on where the next command runs
    resolve_data_arguments(cfg, "voc", "voc")
    saved = CfgNode.load_cfg(cfg.dump())
    monkeypatch.chdir("/")
    (Path(folder) / "ImageSets" / "Main" / "train.txt").unlink()  # the training data need not be there any more
    again = config()
    again.merge_from_other_cfg(saved)
    resolve_data_arguments(again)
    register_from_config(again)
    check_data(again, training=False)
    assert again.DATASETS == cfg.DATASETS and again.MODEL.FEATURE_ALIGN.NUM_CLASSES == 2
    record = DatasetCatalog.get(VAL_NAME)[0]
    assert record["annotations"][0]["category_id"] == 1  # "cat", though "b" alone would make it 0


def _perfect_ap(records: list, output_dir: str) -> float:
    """AP of a detector that gives the truth of custom_val, crowd boxes left out."""
    evaluator = COCOEvaluator(VAL_NAME, ("bbox",), distributed=False, output_dir=output_dir)
    evaluator.reset()
    for record in records:
        items = [a for a in record["annotations"] if not a["iscrowd"]]
        found = Instances((record["height"], record["width"]))
        found.pred_boxes = Boxes([a["bbox"] for a in items])
        found.scores = found.pred_boxes.tensor.new_ones(len(items))
        found.pred_classes = found.scores.new_tensor([a["category_id"] for a in items]).long()
        evaluator.process([record], [{"instances": found}])
    return evaluator.evaluate()["bbox"]["AP"]


def test_evaluation_uses_the_models_class_numbers(coco, config, tmp_path):
    """A validation file that numbers its classes otherwise is matched by name; a perfect detector gets AP 100."""

    def renumber(content):
        content["categories"] = [{"id": 1, "name": "cat"}, {"id": 9, "name": "ant"}, {"id": 10, "name": "unused"}]
        for annotation in content["annotations"]:
            annotation["category_id"] = {5: 1, 2: 9}[annotation["category_id"]]

    cfg = config()
    resolve_data_arguments(cfg, coco(), coco(renumber, name="val"))
    register_from_config(cfg)
    assert _perfect_ap(DatasetCatalog.get(VAL_NAME), cfg.OUTPUT_DIR) == pytest.approx(100.0)
    assert not list((tmp_path / "run").glob(".*.tmp"))


def test_voc_data_is_evaluated_and_difficult_objects_neither_help_nor_hurt(voc, config):
    difficult = voc_object("ant", (1, 1, 60, 40), difficult=1)
    folder = voc({"a": CAT + ANT, "b": CAT + difficult}, {"train": ["a"], "val": ["a", "b"]})
    cfg = config()
    resolve_data_arguments(cfg, folder, folder)
    register_from_config(cfg)
    records = DatasetCatalog.get(VAL_NAME)
    assert _perfect_ap(records, cfg.OUTPUT_DIR) == pytest.approx(100.0)
    for record in records:
        for annotation in record["annotations"]:
            annotation["iscrowd"] = 0  # the detector now finds the difficult one, too
    assert _perfect_ap(records, cfg.OUTPUT_DIR) == pytest.approx(100.0)


def test_classes_that_training_lacks_are_refused(voc, config):
    folder = voc({"a": CAT, "b": CAT + ANT}, {"train": ["a"], "val": ["b"]})
    cfg = config()
    resolve_data_arguments(cfg, folder, folder)
    register_from_config(cfg)
    with pytest.raises(UserError, match=r"not among the 1 classes.*\(cat\):\n  'ant': 1 boxes"):
        check_data(cfg, training=True)


def test_training_without_any_box_is_refused_and_an_image_without_one_is_not(coco, config):
    cfg = config()
    resolve_data_arguments(cfg, coco())
    register_from_config(cfg)
    check_data(cfg, training=True)  # image 3 has no box
    cfg = config()
    resolve_data_arguments(cfg, coco(lambda c: c["annotations"].clear()))
    register_from_config(cfg)
    with pytest.raises(UserError, match="none of its 3 images has a box"):
        check_data(cfg, training=True)


def test_bad_boxes_are_skipped_on_request_and_the_evaluation_file_skips_them_too(coco, config, caplog):
    path = coco(lambda c: c["annotations"][0].update(bbox=[10, 10, 0, 5]))
    for bad_boxes in ("stop", "skip"):
        cfg = config()
        cfg.DATASETS.BAD_BOXES = bad_boxes
        resolve_data_arguments(cfg, path, path)
        register_from_config(cfg)
        if bad_boxes == "stop":
            with pytest.raises(UserError, match="1 bad boxes"):
                check_data(cfg, training=True)
            continue
        with caplog.at_level(logging.INFO, logger="fa_detectron"):
            check_data(cfg, training=True)
        assert "1 bad boxes left out" in caplog.text
        DatasetCatalog.get(VAL_NAME)
        written = json.loads(Path(MetadataCatalog.get(VAL_NAME).json_file).read_text())
        assert [a["bbox"] for a in written["annotations"]] == [[30, 8, 16, 16], [0, 0, 64, 48]]
        assert all(a["area"] > 0 for a in written["annotations"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train": "/nowhere/set.json"}, "no such file or folder"),
        ({"train": "/nowhere:train"}, "no such file or folder"),
        ({"val": "{folder}/images/1.png"}, "no annotations in a format that is known"),
        ({"train": "{folder}/images"}, "images alone"),
        ({"images": "{folder}"}, "goes with --train or --val"),
    ],
)
def test_bad_arguments_are_refused(coco, config, tmp_path, arguments, message):
    coco()
    with pytest.raises(UserError, match=message):
        resolve_data_arguments(config(), **{k: v.format(folder=tmp_path) for k, v in arguments.items()})


def test_named_sets_must_fit_the_configured_classes(config):
    cfg = config()
    cfg.DATASETS.TEST = ("fa_shapes_val_",)
    with pytest.raises(UserError, match="did you mean fa_shapes_val"):
        check_data(cfg, training=False)


def test_a_users_own_registration_is_checked_and_left_alone(coco, config, caplog):
    from detectron2.data.datasets import register_coco_instances

    path = coco(lambda c: c["annotations"][0].update(bbox=[10, 10, 0, 5]))
    register_coco_instances("users_own", {}, path, str(Path(path).parent / "images"))
    try:
        cfg = config()
        cfg.DATASETS.TRAIN = ("users_own",)
        resolve_data_arguments(cfg)
        assert list(cfg.DATASETS.TRAIN) == ["users_own"]
        with pytest.raises(UserError, match=r"NUM_CLASSES is 80, but data set users_own has 2 classes: ant, cat"):
            check_data(cfg, training=True)
        cfg.MODEL.FEATURE_ALIGN.NUM_CLASSES = 2
        with caplog.at_level(logging.WARNING, logger="fa_detectron"):
            check_data(cfg, training=True)
        assert "users_own: 1 bad boxes" in caplog.text  # Detectron2 drops empty ones by itself
        cfg.DATASETS.CLASS_NAMES = ["cat", "ant"]
        with pytest.raises(UserError, match="in this order"):
            check_data(cfg, training=True)
        (Path(path).parent / "images" / "2.png").unlink()
        with pytest.raises(UserError, match=r"1 images that do not exist:\n.*2\.png"):
            check_data(cfg, training=True)
        Path(path).write_text("{")
        with pytest.raises(UserError, match="users_own: cannot be loaded: JSONDecodeError"):
            check_data(cfg, training=True)
    finally:
        DatasetCatalog.remove("users_own")
        MetadataCatalog.remove("users_own")


def test_registering_again_replaces_the_set(coco, voc, config):
    cfg = config()
    resolve_data_arguments(cfg, coco())
    register_from_config(cfg)
    cfg = config()
    resolve_data_arguments(cfg, voc({"a": CAT}, {"train": ["a"]}))
    register_from_config(cfg)
    assert len(DatasetCatalog.get(TRAIN_NAME)) == 1 and MetadataCatalog.get(TRAIN_NAME).thing_classes == ["cat"]
    register_from_config(config())
    assert TRAIN_NAME not in DatasetCatalog.list()


def test_the_table_counts_boxes_and_images_of_each_class(coco, config, caplog):
    cfg = config()
    resolve_data_arguments(cfg, coco(), coco())
    register_from_config(cfg)
    with caplog.at_level(logging.INFO, logger="fa_detectron"):
        check_data(cfg, training=True)
    table = [line.split() for line in caplog.text.splitlines()]
    assert ["ant", "1", "(1)", "1", "(1)"] in table and ["cat", "1", "(1)", "1", "(1)"] in table
    assert ["all", "2", "2"] in table


@pytest.fixture
def parsed(monkeypatch) -> list[str]:
    """The formats that have been parsed, one entry a time."""
    from fa_detectron.data import readers

    times: list[str] = []
    for name, read in readers._READERS.items():
        monkeypatch.setitem(
            readers._READERS, name, lambda *args, name=name, read=read: times.append(name) or read(*args)
        )
    return times


def test_a_set_is_parsed_once_at_the_start_and_anew_for_the_next_run(voc, config, parsed):
    folder = voc({"a": CAT, "b": CAT}, {"train": ["a"], "val": ["b"]})

    def start() -> tuple[list, list]:
        cfg = config()
        resolve_data_arguments(cfg, folder, folder)
        register_from_config(cfg)
        check_data(cfg, training=True)
        register_from_config(cfg)  # as each worker of a run does
        return DatasetCatalog.get(TRAIN_NAME), DatasetCatalog.get(VAL_NAME)

    train, _ = start()
    assert parsed == ["voc", "voc"] and len(train[0]["annotations"]) == 1  # the two splits
    train[0]["annotations"].clear()  # a copy's
    assert len(DatasetCatalog.get(TRAIN_NAME)[0]["annotations"]) == 1
    voc({"a": CAT + CAT}, {"train": ["a"]})
    train, _ = start()
    assert parsed == ["voc"] * 4 and len(train[0]["annotations"]) == 2


def test_findings_are_told_though_the_set_is_parsed_once(coco, config, parsed):
    from fa_detectron.data.findings import Findings
    from fa_detectron.data.read_once import forget_sets, read_once, source_of
    from fa_detectron.data.records import ReadOptions

    path = coco(lambda c: c["categories"].append({"id": 9, "name": "cat "}))
    found = []
    forget_sets()
    for _ in range(2):
        findings = Findings(strict=True)
        read_once(source_of(path, "train"), ReadOptions(), findings)
        found.append(findings.all)
    assert found[0] == found[1] and parsed == ["coco"]


@pytest.mark.parametrize("main", [True, False])
def test_the_main_process_alone_writes_the_evaluations_file(coco, config, monkeypatch, main):
    from detectron2.utils import comm

    monkeypatch.setattr(comm, "is_main_process", lambda: main)
    cfg = config()
    resolve_data_arguments(cfg, coco(), coco(name="val"))
    register_from_config(cfg)
    assert len(DatasetCatalog.get(VAL_NAME)) == 3
    assert Path(MetadataCatalog.get(VAL_NAME).json_file).exists() == main
