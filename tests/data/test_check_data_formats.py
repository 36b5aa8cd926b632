"""Every kind of defect in every format: said in the same words, whichever the set is."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("detectron2")

from fa_detectron.data import check_data, register_from_config, resolve_data_arguments
from fa_detectron.errors import UserError
from tests.data.conftest import voc_object

SIZE = (64, 48)  # of each of the four images, a to d
GOOD = (10, 8, 40, 36)  # xyxy pixels
BOXES = {  # the box of image b, and what is said of it
    "empty": ((10, 8, 10, 36), "1 bad boxes (1 empty)"),
    "inverted": ((40, 8, 10, 36), "1 bad boxes (1 inverted)"),
    "leaves the image": ((50, 8, 90, 36), "1 bad boxes (1 leaves the image)"),
    "no numbers": ((float("nan"), 8, 40, 36), "1 bad boxes (1 not finite)"),
    "tiny": ((10, 8, 11, 36), "1 boxes with a side of a pixel or less"),
    "clipped": ((10, 8, 64.5, 36), "1 boxes leave their image by a pixel or less"),
}


def write_pixels(path: Path, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 255, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def write_coco(root: Path, boxes: dict[str, list[tuple]]) -> tuple[str, Path]:
    names = sorted({label for items in boxes.values() for label, _ in items} | {"ant", "cat"} - {"fox"})
    images = [{"id": i, "file_name": f"{stem}.png", "width": 64, "height": 48} for i, stem in enumerate(boxes)]
    annotations = [
        {"image_id": i, "category_id": names.index(label), "bbox": [x1, y1, x2 - x1, y2 - y1]}
        for i, items in enumerate(boxes.values())
        for label, (x1, y1, x2, y2) in items
    ]
    annotations = [{"id": i, **annotation} for i, annotation in enumerate(annotations)]
    categories = [{"id": i, "name": name} for i, name in enumerate(names) if name != "fox"]
    path = root / "set.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return str(path), root / "images"


def write_voc(root: Path, boxes: dict[str, list[tuple]]) -> tuple[str, Path]:
    for folder in ("ImageSets/Main", "Annotations"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for stem, items in boxes.items():
        corners = [(label, (x1 + 1, y1 + 1, x2, y2)) for label, (x1, y1, x2, y2) in items]  # VOC counts from 1
        objects = "".join(voc_object(label, box) for label, box in corners)
        text = f"<annotation><size><width>64</width><height>48</height></size>{objects}</annotation>"
        (root / "Annotations" / f"{stem}.xml").write_text(text)
    (root / "ImageSets" / "Main" / "train.txt").write_text("\n".join(boxes))
    return str(root), root / "JPEGImages"


def write_yolo(root: Path, boxes: dict[str, list[tuple]]) -> tuple[str, Path]:
    (root / "labels").mkdir(parents=True, exist_ok=True)
    numbers = {"ant": 0, "cat": 1, "fox": 2}
    for stem, items in boxes.items():
        lines = [
            f"{numbers[label]} {(x1 + x2) / 128} {(y1 + y2) / 96} {(x2 - x1) / 64} {(y2 - y1) / 48}"
            for label, (x1, y1, x2, y2) in items
        ]
        (root / "labels" / f"{stem}.txt").write_text("\n".join(lines))
    (root / "data.yaml").write_text("train: images\nnames: [ant, cat]\n")
    return str(root / "data.yaml"), root / "images"


WRITERS = {"coco": write_coco, "voc": write_voc, "yolo": write_yolo}


@pytest.fixture(params=list(WRITERS))
def write(request, tmp_path):
    """write(folder, boxes of each image) -> path: what --train takes, images: their folder."""

    def writer(folder: str = "set", **changed: list[tuple]) -> SimpleNamespace:
        root = tmp_path / folder
        root.mkdir()
        boxes = {"a": [("ant", GOOD)], "b": [("cat", GOOD)], "c": [("cat", GOOD)], "d": [], **changed}
        path, images = WRITERS[request.param](root, boxes)
        images.mkdir()
        for number, stem in enumerate(boxes):
            write_pixels(images / f"{stem}.png", number + 10 * len(folder))
        return SimpleNamespace(path=path, images=images, format=request.param)

    return writer


@pytest.fixture
def refused(config):
    """A function that trains on a set as far as its checks: what it is refused with, "" where it is not."""

    def run(path: str) -> str:
        cfg = config()
        try:
            resolve_data_arguments(cfg, path)
            register_from_config(cfg)
            check_data(cfg, training=True)
        except UserError as error:
            return str(error)
        return ""

    return run


def test_a_good_set(write, check):
    status, text, found = check(write().path)
    assert status == 0 and found["sets"]["training"]["boxes"] == 3, text
    assert "1 of 4 images have no box" in text


@pytest.mark.parametrize("kind", list(BOXES))
def test_boxes(write, check, refused, kind):
    box, words = BOXES[kind]
    data = write(b=[("cat", box)])
    status, text, _ = check(data.path)
    assert words in text, text
    assert status == (0 if kind == "clipped" else 1)
    assert (words in refused(data.path)) == ("Training refuses: 1" in text) == words.startswith("1 bad")


def test_a_box_twice(write, check):
    status, text, _ = check(write(b=[("cat", GOOD), ("cat", GOOD)]).path)
    assert status == 1 and "1 boxes that an image has twice" in text and "Training refuses: nothing" in text


def test_a_class_without_a_box_or_that_is_not_listed(write, check, refused):
    data = write(a=[("fox", GOOD)])
    status, text, _ = check(data.path)
    unlisted = {"coco": "of a class that 'categories' does not list", "yolo": "of a class that 'names' does not list"}
    if data.format == "voc":  # has no list: a class is what a box says
        assert status == 0 and "fox" in text
        return
    assert status == 1 and unlisted[data.format] in text.partition("Likely mistakes")[0], text
    assert unlisted[data.format] in refused(data.path)
    assert "1 classes without a box to learn from:\n  ant" in text


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: path.write_bytes(b""), "1 images that cannot be read"),
        (lambda path: path.write_bytes(path.read_bytes()[:600]), "1 images that cannot be read"),
        (lambda path: path.unlink(), "1 images that do not exist"),
        (lambda path: Image.new("RGB", (48, 64)).save(path), "1 images of another size than annotated"),
    ],
    ids=["no byte", "cut", "gone", "other size"],
)
def test_images(write, check, refused, spoil, words, request):
    data = write()
    spoil(data.images / "b.png")
    status, text, _ = check(data.path)
    kind = request.node.callspec.id
    if data.format == "yolo" and ("gone" in kind or "other size" in kind):  # it lists what is there, and its own sizes
        assert "3 images" in text or "4 images" in text
        return
    assert status == 1 and words in text.partition("Likely mistakes")[0], text
    assert words in refused(data.path) and str(data.images / "b") in text


def test_images_twice_and_in_both_sets(write, check):
    train, val = write("set"), write("other")
    (train.images / "b.png").write_bytes((train.images / "a.png").read_bytes())
    with Image.open(train.images / "c.png") as image:
        image.save(val.images / "d.png", compress_level=0)  # the same pixels in other bytes
    path = f"{val.path}:train" if train.format != "coco" else val.path
    status, text, _ = check(train.path, "--val", path)
    assert status == 1 and "Training refuses: nothing" in text, text
    assert "1 groups of images with the same pixels:\n" in text
    assert "1 images that the training set has, too (same pixels)" in text
    assert f"{val.images / 'd.png'} = {train.images / 'c.png'}" in text
