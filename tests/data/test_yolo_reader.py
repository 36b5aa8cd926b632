"""YOLO sets: layouts, label lines, and refusal of what is broken or leads outside."""

import os
from pathlib import Path

import pytest
from PIL import Image

from fa_detectron.data.readers.yolo.labels import label_files
from fa_detectron.data.sources.find import parse_source
from fa_detectron.errors import UserError
from tests.data.reading import read

LABELS = {"train": {"a": "1 0.5 0.5 0.25 0.5\n0 0.25 0.25 0.5 0.5\n", "b": None, "c": ""}, "val": {"d": "0 .5 .5 1 1"}}

# A few lines of aliases to aliases: 10 to the power of 20 values.
BOMB = (
    "a0: &a0 x\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 21)) + "names: [a]\n"
)


def _check(data):
    assert data.classes == ("ant", "cat")
    assert [Path(image.file_name).stem for image in data.images] == ["a", "b", "c"]
    assert [(image.width, image.height) for image in data.images] == [(64, 48)] * 3
    first = data.images[0].annotations
    assert [(a.label, a.box) for a in first] == [("cat", (24, 12, 40, 36)), ("ant", (0, 0, 32, 24))]
    assert not data.images[1].annotations and not data.images[2].annotations


def test_a_data_yaml_and_its_folder_are_read(yolo):
    path = yolo(LABELS)
    for text in (path, f"{path}:train", os.path.dirname(path), f"{os.path.dirname(path)}:train"):
        _check(read(text))
    assert [image.image_id for image in read(f"{path}:val").images] == ["images/val/d.png"]
    assert str(parse_source(path, "train")) == f"{path}:train"


def test_names_may_be_a_map(yolo):
    _check(read(yolo(LABELS, names="{1: cat, 0: ant}", more="nc: 2\npath: .\n")))


def test_lists_of_images_and_lists_of_folders(yolo):
    path = Path(yolo(LABELS, names="[ant, cat]"))
    (path.parent / "lists").mkdir()
    (path.parent / "lists" / "some.txt").write_text("./images/train/a.png\nimages/train/b.png\n")
    path.write_text("some: lists/some.txt\nall: [images/train, images/val]\nnames: [ant, cat]\n")
    assert [Path(i.file_name).stem for i in read(f"{path}:some").images] == ["a", "b"]
    assert [Path(i.file_name).stem for i in read(f"{path}:all").images] == ["a", "b", "c", "d"]


def test_roboflows_exports_are_read(yolo):
    """They say ../train/images for the folder train/images beside data.yaml."""
    path = Path(yolo(LABELS))
    for split in ("train", "val"):
        (path.parent / split).mkdir()
        for kind in ("images", "labels"):
            (path.parent / kind / split).rename(path.parent / split / kind)
    path.write_text(
        "train: ../train/images\nval: ../valid/images\nnc: 2\nnames: ['ant', 'cat']\nroboflow: {version: 1}\n"
    )
    _check(read(str(path)))
    path.unlink()
    (path.parent / "classes.txt").write_text("ant\ncat\n")
    _check(read(str(path.parent)))


def test_folders_without_a_description(yolo):
    root = Path(yolo({"": LABELS["train"]})).parent
    (root / "data.yaml").unlink()
    source = parse_source(str(root), "train")
    assert (source.split, str(source)) == ("", str(root))
    assert read(str(root)).classes == ("0", "1")
    (root / "labels" / "classes.txt").write_text("ant\ncat\n")
    _check(read(str(root)))


def test_polygons_count_with_the_box_around_them(yolo):
    path = yolo({"train": {"a": "0 0.25 0.25 0.5 0.25 0.5 0.75 0.25 0.5"}})
    assert read(path).images[0].annotations[0].box == (16, 12, 32, 36)


def test_sizes_are_those_after_the_exif_orientation(yolo):
    path = Path(yolo({"train": {"a": "0 0.5 0.5 1 1"}}))
    exif = Image.Exif()
    exif[0x0112] = 6
    (path.parent / "images/train/a.png").unlink()
    Image.new("RGB", (48, 64)).save(path.parent / "images/train/a.jpg", exif=exif)
    image = read(str(path)).images[0]
    assert (image.width, image.height, image.annotations[0].box) == (64, 48, (0, 0, 64, 48))


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("images/train/a.png", "labels/train/a.txt"),
        ("train/images/a.b.jpg", "train/labels/a.b.txt"),
        ("images/images/a.jpg", "images/labels/a.txt"),
        ("a.jpg", "a.txt"),
        ("images.jpg", "images.txt"),
    ],
)
def test_label_files(image, label):
    assert label_files(f"/set/{image}", ["/set"])[0] == f"/set/{label}"
    assert label_files(f"/images/{image}", ["/images"])[0].startswith("/images/"), "nothing outside the root"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: images/train", "needs the key 'names'"),
        ("[1]", "needs the key 'names'"),
        ("names: [a]\nval: images/val", "has no split 'train'; it has val"),
        ("names: [a]", "has no split 'train'; it has none"),
        ("names: [yes, no]\ntrain: images/train", "class 0: True is not a name"),
        ("names: [a, a]\ntrain: images/train", "class 1 repeats the name 'a'"),
        ("names: {x: a}\ntrain: images/train", "class number 'x' is invalid"),
        ("names: 3\ntrain: images/train", "must be a list, a map"),
        ("names: {'0': a, 0: b}\ntrain: images/train", "class 0 is there twice"),
        ("names: none.txt\ntrain: images/train", "there is no file 'none.txt'"),
        ("names: ../../../etc/hostname\ntrain: images/train", "there is no file"),
        ("nc: some\ntrain: images/train", "'nc' must be the number of classes"),
        ("names: [a]\nkpt_shape: [17, 4]\ntrain: images/train", "'kpt_shape' must be"),
        ("names: [a]\nnc: 2\ntrain: images/train", "'nc' is 2, but there are 1 names"),
        ("names: [a]\ntrain: /etc", "'/etc' leads out of"),
        ("names: [a]\ntrain: ../../etc", "leads out of"),
        ("names: [a]\ntrain: linked", "leads out of"),
        ("names: [a]\ntrain: [3]", "no names of files or folders"),
        ("names: [a]\ntrain: images/none", "No such file"),
        ("names: [a]\ntrain: labels", "no image in"),
        ("names: [a]\ntrain: list.txt", r"images that do not exist:\n  .*/yolo/passwd\n  .*/yolo/x.png"),
        ("names: [a]\npath: [x]\ntrain: images", "'path' must be a folder's name"),
        ("names: !!python/object/apply:os.system [x]", "not plain YAML"),
        ("names: &a [*a]\ntrain: images", "leads back to its own anchor"),
        (BOMB, "stand for more than 100000 values"),
        ("names: 2001-99-99", "not plain YAML"),
        ("[" * 20_000, "nested too deeply"),
    ],
)  # fmt: skip
def test_bad_descriptions_are_refused(yolo, text, message):
    path = Path(yolo({"train": {"a": ""}}))
    (path.parent / "linked").symlink_to("/etc")
    (path.parent / "list.txt").write_text("images/train/a.png\n/etc/passwd\n../../x.png\n")
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read(str(path))


def test_unreadable_images_and_absent_labels_are_named(yolo):
    path = Path(yolo({"train": {"a": ""}}))
    (path.parent / "images/train/a.png").write_text("no image")
    with pytest.raises(UserError, match=r"images that cannot be read:\n  .*a\.png: not an image"):
        read(str(path))
    (path.parent / "labels/train/a.txt").unlink()
    with pytest.raises(UserError, match=r"none of its 1 images has a label file; looked for .*labels/train/a\.txt"):
        read(str(path))


def test_a_yolo_set_trains(yolo, config):
    pytest.importorskip("detectron2")
    from detectron2.data import DatasetCatalog

    from fa_detectron.data import check_data, register_from_config, resolve_data_arguments

    path, cfg = yolo(LABELS), config()
    resolve_data_arguments(cfg, path, path)
    assert (cfg.DATASETS.TRAIN_PATH, cfg.DATASETS.VAL_PATH) == (f"{path}:train", f"{path}:val")
    register_from_config(cfg)
    check_data(cfg, training=True)
    record = DatasetCatalog.get("custom_train")[0]
    assert [(a["bbox"], a["category_id"]) for a in record["annotations"]] == [
        ([24, 12, 40, 36], 1),
        ([0, 0, 32, 24], 0),
    ]
