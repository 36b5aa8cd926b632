"""What train_net.py's flags make of a data set: validation images, classes, input size, and what it warns of."""

import json
import logging
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from fa_detectron.apps.train import argument_parser
from fa_detectron.engine import load_config, setup
from fa_detectron.engine.config_file import set_input_size
from fa_detectron.errors import UserError
from tests.engine.tiny import make_config

HASH = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def prepare(tmp_path):
    """A function that returns the config of train_net.py with these words."""
    config = make_config(tmp_path)

    def run(*words):
        args = ["--config-file", str(config), *map(str, words), "OUTPUT_DIR", str(tmp_path / "run")]
        return setup(argument_parser().parse_args(args))

    return run


def write_set(folder: Path, images: int = 10, classes=("cat", "dog"), side: int = 16, name: str = "{}.png") -> str:
    """A COCO set whose image i shows one box of class i modulo their number."""
    folder.mkdir()
    for i in range(images):
        Image.new("RGB", (96, 64), (i, 2 * i, 99)).save(folder / name.format(i))
    content = {
        "images": [{"id": i, "file_name": name.format(i), "width": 96, "height": 64} for i in range(images)],
        "annotations": [
            {"id": i, "image_id": i, "category_id": i % len(classes), "bbox": [8, 8, side, side]} for i in range(images)
        ],
        "categories": [{"id": i, "name": name} for i, name in enumerate(classes)],
    }
    (folder / "set.json").write_text(json.dumps(content))
    return str(folder / "set.json")


def files(name: str) -> set[str]:
    return {Path(record["file_name"]).name for record in DatasetCatalog.get(name)}


def test_a_run_without_validation_set_holds_images_out(tmp_path, prepare, caplog):
    data = write_set(tmp_path / "set", 20)
    with caplog.at_level(logging.INFO, logger="fa_detectron"):
        cfg = prepare("--train", data)
    assert "no validation set: 4 of 20 images are held out" in caplog.text
    assert cfg.DATASETS.TEST == ("custom_val",) and len(cfg.DATASETS.VAL_IMAGES) == 4
    assert files("custom_val") == set(cfg.DATASETS.VAL_IMAGES)
    assert files("custom_train") == {f"{i}.png" for i in range(20)} - set(cfg.DATASETS.VAL_IMAGES)
    written = json.loads(Path(MetadataCatalog.get("custom_val").json_file).read_text())
    assert len(written["images"]) == 4
    assert prepare("--train", data).DATASETS.VAL_IMAGES == cfg.DATASETS.VAL_IMAGES


def test_a_resumed_run_keeps_its_validation_images_when_the_set_grows(tmp_path, prepare):
    data = write_set(tmp_path / "set", 20)
    before = prepare("--train", data)
    (tmp_path / "run").mkdir(exist_ok=True)
    (tmp_path / "run" / "config.yaml").write_text(before.dump())
    (tmp_path / "run" / "last_checkpoint").write_text("model_0000001.pth")
    (tmp_path / "set").rename(tmp_path / "old")
    data = write_set(tmp_path / "set", 40)
    assert prepare("--resume", "--train", data).DATASETS.VAL_IMAGES == before.DATASETS.VAL_IMAGES
    assert len(files("custom_train")) == 36
    assert prepare("--train", data).DATASETS.VAL_IMAGES != before.DATASETS.VAL_IMAGES


def test_a_run_without_evaluation(tmp_path, prepare):
    cfg = prepare("--train", write_set(tmp_path / "set"), "--val-fraction", 0)
    assert cfg.DATASETS.TEST == () and len(files("custom_train")) == 10


@pytest.mark.parametrize("fraction", [-0.1, 1, "nan"])
def test_a_fraction_that_is_none(tmp_path, prepare, fraction):
    with pytest.raises(UserError, match="VAL_FRACTION"):
        prepare("--train", write_set(tmp_path / "set"), "--val-fraction", fraction)


def test_a_fraction_beside_a_validation_set(tmp_path, prepare):
    data = write_set(tmp_path / "set")
    with pytest.raises(UserError, match="--val-fraction goes without --val"):
        prepare("--train", data, "--val", data, "--val-fraction", 0.2)


def test_the_own_validation_split_of_a_set_is_taken(tmp_path, prepare):
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (tmp_path / "yolo" / kind / split).mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (96, 64), (i, 9, 9)).save(tmp_path / "yolo" / "images" / split / f"{split}{i}.png")
            (tmp_path / "yolo" / "labels" / split / f"{split}{i}.txt").write_text("0 .5 .5 .4 .4\n")
    cfg = prepare("--train", tmp_path / "yolo")
    assert cfg.DATASETS.VAL_PATH == f"{tmp_path / 'yolo'}:val" and cfg.DATASETS.VAL_IMAGES == ()
    assert files("custom_val") == {"val0.png", "val1.png", "val2.png"}


def test_some_classes(tmp_path, prepare, caplog):
    data = write_set(tmp_path / "set", 12, ("ant", "cat", "dog"))
    with caplog.at_level(logging.INFO, logger="fa_detectron"):
        cfg = prepare("--train", data, "--val", data, "--classes", "dog, cat")
    assert cfg.DATASETS.CLASS_NAMES == ("cat", "dog") and cfg.MODEL.FEATURE_ALIGN.NUM_CLASSES == 2
    assert "1 classes left out" in caplog.text and "ant: 4 boxes" in caplog.text
    records = DatasetCatalog.get("custom_train")
    assert len(records) == 12 and sum(len(record["annotations"]) for record in records) == 8
    with pytest.raises(UserError, match=r"names 'doog'.*did you mean dog"):
        prepare("--train", data, "--val", data, "--classes", "doog")


def test_one_class(tmp_path, prepare):
    data = write_set(tmp_path / "set", 12, ("ant", "cat", "dog"))
    cfg = prepare("--train", data, "--val", data, "--single-class")
    assert cfg.DATASETS.CLASS_NAMES == ("object",)
    assert all(a["category_id"] == 0 for r in DatasetCatalog.get("custom_train") for a in r["annotations"])
    cfg = prepare("--train", data, "--classes", "cat,dog", "--single-class")
    assert sum(len(r["annotations"]) for name in ("custom_train", "custom_val") for r in DatasetCatalog.get(name)) == 8


def test_roboflows_copies_in_both_sets_are_warned_about(tmp_path, prepare, caplog):
    train = write_set(tmp_path / "train", name=f"photo{{}}_jpg.rf.{HASH}.png")
    val = write_set(tmp_path / "val", 2, name=f"photo{{}}_jpg.rf.{HASH[::-1]}.png")
    prepare("--train", train, "--val", val)
    assert "2 images that are copies of a photograph of the training set" in caplog.text


def test_boxes_too_small_for_the_input_are_warned_about(tmp_path, prepare, caplog):
    data = write_set(tmp_path / "set", side=4)
    prepare("--train", data, "--val", data, "--size", 64)
    assert "10 boxes (100.00%) that contain no location at the input size (short side 64)" in caplog.text
    (size,) = {int(word) for line in caplog.messages for word in line.split("--size ")[1:] for word in word.split()[:1]}
    caplog.clear()
    prepare("--train", data, "--val", data, "--size", size)
    assert "contain no location" not in caplog.text


def test_the_size_scales_all_input_sizes():
    cfg = load_config("configs/small_data.yaml")
    set_input_size(cfg, 512)
    sizes = cfg.INPUT
    assert (sizes.MIN_SIZE_TRAIN, sizes.MAX_SIZE_TRAIN, sizes.MIN_SIZE_TEST, sizes.MAX_SIZE_TEST) == (
        (512,),
        896,
        512,
        896,
    )
    assert cfg.TEST.AUG.MIN_SIZES == (448, 512, 576) and cfg.TEST.AUG.MAX_SIZE == 1008
    with pytest.raises(UserError, match="--size 0"):
        set_input_size(cfg, 0)


def test_a_bare_number_is_a_list_of_one(tmp_path):
    cfg = load_config("configs/small_data.yaml", ["INPUT.MIN_SIZE_TRAIN", "512", "DATASETS.TRAIN", "my_set"])
    assert cfg.INPUT.MIN_SIZE_TRAIN == (512,) and cfg.DATASETS.TRAIN == ("my_set",)
    file = tmp_path / "config.yaml"
    file.write_text("INPUT: {MIN_SIZE_TRAIN: 320}\nSOLVER: {STEPS: [10, 20]}\n")
    cfg = load_config(str(file))
    assert cfg.INPUT.MIN_SIZE_TRAIN == (320,) and cfg.SOLVER.STEPS == (10, 20)


def test_values_are_read_as_their_key_wants_them():
    words = ["SOLVER.MAX_ITER", "1e3", "SOLVER.BASE_LR", "1", "DATALOADER.FILTER_EMPTY_ANNOTATIONS", "false"]
    cfg = load_config("configs/small_data.yaml", words)
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.BASE_LR, cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS) == (1000, 1.0, False)
    with pytest.raises(UserError, match="MAX_ITER"):
        load_config("configs/small_data.yaml", ["SOLVER.MAX_ITER", "1.5"])


def test_missing_images_are_left_out_on_request(tmp_path, prepare, caplog):
    data = write_set(tmp_path / "set", 6)
    (tmp_path / "set" / "4.png").unlink()
    with pytest.raises(UserError, match=r"1 images that do not exist:\n.*4\.png\n.*--skip-missing-images"):
        prepare("--train", data, "--val", data)
    with caplog.at_level(logging.WARNING, logger="fa_detectron"):
        cfg = prepare("--train", data, "--val", data, "--skip-missing-images")
    assert "1 of 6 images left out, since they do not exist" in caplog.text
    assert cfg.DATASETS.SKIP_MISSING_IMAGES and len(files("custom_train")) == 5
    assert len(files("custom_val")) == 5
    assert len(json.loads(Path(MetadataCatalog.get("custom_val").json_file).read_text())["images"]) == 5
