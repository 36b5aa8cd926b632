"""python -m fa_detectron.check_data: every defect is found, in the words with which training refuses it."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("detectron2")

from fa_detectron.data import check_data, register_from_config, resolve_data_arguments
from fa_detectron.data.checks.statistics import InputSize, locations_inside
from fa_detectron.errors import UserError
from tests.data.conftest import voc_object

SMALL = {"images": 3, "boxes": 2, "crowd_boxes": 1, "images_without_box": 1}


def _distinct(folder: Path) -> None:
    """Give the images of the fixture boxes that are not too small, and pixels of their own."""
    rng = np.random.default_rng(len(str(folder)))
    for path in sorted(folder.glob("*.png")):
        Image.fromarray(rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)).save(path)


def test_a_good_set(coco, check, tmp_path):
    path = coco()
    status, text, found = check(path)
    assert status == 0, text
    assert found["exit_status"] == 0 and found["sets"]["training"].items() >= SMALL.items()
    assert found["sets"]["training"]["classes"]["cat"] == {"boxes": 1, "images": 1}
    assert (
        "read as COCO JSON, 3 images, 2 classes, 2 boxes and 1 crowd boxes" in text
        and "Likely mistakes: nothing" in text
    )
    with Image.open(tmp_path / "out" / "sheet.jpg") as sheet:
        assert sheet.width > 600 and sheet.height > 200


def _bad_box(content, **_):
    content["annotations"][0]["bbox"] = [10, 10, -4, 5]
    content["annotations"][1]["bbox"] = [10, 10, 0, 5]
    content["annotations"][2]["bbox"] = [60, 40, 90, 90]


def _unlisted(content, **_):
    content["annotations"][0]["category_id"] = 77


def _no_image(content, folder):
    (folder / "images" / "2.png").unlink()


def _not_an_image(content, folder):
    (folder / "images" / "2.png").write_text("text")


def _damaged(content, folder):
    whole = (folder / "images" / "2.png").read_bytes()
    (folder / "images" / "2.png").write_bytes(whole[: len(whole) // 2])


def _other_size(content, **_):
    content["images"][1]["width"] = 65


def _ambiguous(content, folder):
    content["images"][1]["file_name"] = "/far/2.png"
    (folder / "more").mkdir()
    shutil.copy(folder / "images" / "2.png", folder / "more" / "2.png")


def _absolute(content, **_):
    content["images"][1]["file_name"] = "/etc/passwd"


def _linked(content, folder):
    (folder / "images" / "2.png").rename(folder.with_suffix(".png"))  # beside the set's folder
    (folder / "images" / "2.png").symlink_to(folder.with_suffix(".png"))


def _nothing(content, **_):
    content["annotations"] = [{**content["annotations"][2]}]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_bad_box, r"3 bad boxes \(1 inverted, 1 empty, 1 leaves the image\)"),
        (_unlisted, r"1 annotations of a class that 'categories' does not list"),
        (_no_image, "1 images that do not exist"),
        (_not_an_image, "1 images that cannot be read"),
        (_damaged, "1 images that cannot be read"),
        (_other_size, "1 images of another size than annotated"),
        (_ambiguous, "1 images whose path does not exist, with several files of that name below"),
        (_absolute, "1 images that do not exist"),
        (_linked, "1 images that a link takes out of "),
        (_nothing, "none of its 3 images has a box to learn from"),
    ],
)
def test_what_training_refuses_is_found_in_the_same_words(coco, config, check, tmp_path, spoil, words):
    (tmp_path / "images").mkdir()
    content = {}
    path = coco(content.update)
    _distinct(tmp_path / "images")
    spoil(content, folder=tmp_path)
    Path(path).write_text(json.dumps(content))
    cfg = config()
    with pytest.raises(UserError, match=words) as refusal:
        resolve_data_arguments(cfg, path)
        register_from_config(cfg)
        check_data(cfg, training=True)
    status, text, found = check(path)
    assert status == 1
    said = re.search(words, str(refusal.value))[0]
    assert said in text.partition("Likely mistakes")[0], text
    assert any(finding["kind"] == "refused" for finding in found["findings"])
    items = [line for line in str(refusal.value).splitlines() if line.startswith("  ")]
    assert all(line in text for line in items)


def test_all_defects_are_found_at_once(coco, check, tmp_path):
    def spoil(content):
        _bad_box(content)
        content["annotations"].append({"id": 14, "image_id": 3, "category_id": 9, "bbox": [1, 1, 9, 9]})
        content["annotations"] += [{"id": i, "image_id": 3, "category_id": 5, "bbox": [1, 1, 20, 20]} for i in (15, 16)]
        content["annotations"].append({"id": 17, "image_id": 3, "category_id": 5, "bbox": [2, 2, 1, 20]})
        content["images"].append({"id": 4, "file_name": "../4.png", "width": 6, "height": 4})
        content["images"].append({"id": 5, "file_name": "copy.png", "width": 64, "height": 48})

    path = coco(spoil)
    _distinct(tmp_path / "images")
    shutil.copy(tmp_path / "images" / "1.png", tmp_path / "images" / "copy.png")
    status, text, found = check(path)
    assert status == 1
    for words in (
        "3 bad boxes", "does not list", "do not exist", "boxes that an image has twice", "same pixels",
        "with a side of a pixel or less", "1 classes without a box to learn from:\n  ant",
    ):  # fmt: skip
        assert words in text
    assert {finding["kind"] for finding in found["findings"]} == {"refused", "problem", "note"}


def test_images_of_the_training_set_in_the_validation_set(coco, check, tmp_path):
    path = coco()
    (tmp_path / "other" / "images").mkdir(parents=True)
    for name in ("1.png", "2.png", "3.png"):
        Image.new("RGB", (64, 48), (3, 3, int(name[0]))).save(tmp_path / "other" / "images" / name)
    # The same pixels as image 1, stored otherwise: only the content tells.
    with Image.open(tmp_path / "images" / "1.png") as image:
        image.save(tmp_path / "other" / "images" / "2.png", compress_level=0, pnginfo=None)
    val = shutil.copy(path, tmp_path / "other" / "val.json")
    status, text, _ = check(path, "--val", val)
    assert status == 1 and "1 images that the training set has, too" in text
    assert "other/images/2.png = " in text and re.search("training +validation", text)
    assert "Training refuses: nothing" in text


def test_classes_that_only_the_validation_set_has(voc, check):
    cat, dog = voc_object("cat", (5, 5, 40, 40)), voc_object("dog", (5, 5, 40, 40))
    folder = voc({"a": cat, "b": dog}, {"train": ["a"], "val": ["b"]})
    status, text, _ = check(folder, "--val", folder)
    assert status == 1 and "'dog': 1 boxes" in text


def test_yolo_sets(yolo, check):
    path = yolo({"train": {"a": "0 0.5 0.5 0.9 0.9\n1 0.5 0.5 0.5 0.5\n", "b": "0 0.5 0.5 0.9"}, "val": {"c": ""}})
    status, text, _ = check(path, "--val", path)
    assert status == 1 and "1 label rows that are neither a class and box" in text
    assert "read as YOLO, 2 images, 2 classes, 2 boxes" in text


def test_the_own_validation_split_is_looked_through_as_training_does(yolo, check):
    good = "0 0.5 0.5 0.9 0.9\n1 0.5 0.5 0.5 0.5\n"
    path = Path(yolo({"train": {"a": good}, "val": {"c": "0 0.5 0.5 1.4 0.5\n1 0.5 0.5 0.5 0.5\n"}})).parent
    status, text, found = check(path)
    assert status == 1 and "1 bad boxes" in text and "validation" in found["sets"]


def test_the_set_is_looked_through_as_the_flags_of_training_read_it(coco, check):
    path = coco(lambda content: content["annotations"][0].update(bbox=[4, 4, 90, 10]))
    assert "Training refuses: 1" in check(path)[1]
    _, text, found = check(path, "--bad-boxes", "clip", "--classes", "cat")
    assert "Training refuses: nothing" in text and "boxes clipped that leave their image" in text
    assert list(found["sets"]["training"]["classes"]) == ["cat"] and "classes left out" in text
    assert "did you mean cat" in check(path, "--classes", "cats")[1]


def test_boxes_between_the_locations(coco, check, tmp_path):
    def tiny(content):
        content["annotations"][0]["bbox"] = [1, 1, 5, 5]

    config = tmp_path / "config.yaml"
    config.write_text("INPUT: {MIN_SIZE_TEST: 48, MAX_SIZE_TEST: 64}\n")
    status, text, found = check(coco(tiny), "--config-file", config)
    assert (
        status == 1 and "contain no location at the input size" in text and "--size 128 would leave at most 1%" in text
    )
    training = found["sets"]["training"]
    assert training["boxes_without_location"] == 1
    # The other box is [30, 8, 46, 24]: at stride 8 the locations (32, 40) x (16), at stride 16 (32) x (16).
    assert [(level["stride"], level["boxes"], level["coarsest"]) for level in training["levels"]] == [
        (8, 1, 0), (16, 1, 1), (32, 0, 0), (64, 0, 0), (128, 0, 0),
    ]  # fmt: skip


@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_locations_are_counted_as_the_loss_counts_them(offset):
    rng = np.random.default_rng(0)
    corner = rng.integers(0, 40, (200, 2)) / 2
    boxes = np.concatenate([corner, corner + rng.integers(1, 80, (200, 2)) / 2], axis=1)
    counts = locations_inside(boxes, InputSize(0, 0, (4, 8), offset))
    for stride, row in zip((4, 8), counts):
        grid = (np.arange(40) + offset) * stride
        for (x1, y1, x2, y2), count in zip(boxes, row):
            assert count == ((grid > x1) & (grid < x2)).sum() * ((grid > y1) & (grid < y2)).sum()


def test_wrong_use_and_broken_files(coco, check, tmp_path):
    assert check("/nowhere.json")[0] == 2
    assert check(coco(), "--val", "/nowhere.json")[0] == 2
    assert check(coco(), "--images", "/nowhere")[0] == 2
    (tmp_path / "broken.json").write_text("{")
    status, text, found = check(tmp_path / "broken.json")
    assert status == 1 and "not valid JSON" in text and found["sets"] == {}
    assert not (tmp_path / "out").exists()
