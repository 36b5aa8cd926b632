"""check_data --write: a clean COCO set of any set."""

import errno
import json
import os

import pytest

pytest.importorskip("detectron2")

from PIL import Image

from tests.data.exports import boxes, cvat_xml, image, write
from tests.data.reading import clean, read


def coco(root, split="train", **edits):
    """A Roboflow export with every kind of defect that can be left out or repaired."""
    for number, name in enumerate(("a", "b", "c", "copy", "tall")):
        shade = 10 * len(split)  # other photographs in another split
        image(root / split / f"{name}.png", shade=shade + (number if name != "copy" else 0))
    write(root / split / "broken.png", "no image")
    names = ["a.png", "b.png", "c.png", "copy.png", "tall.png", "broken.png", "absent.png"]
    images = [{"id": 10 + i, "file_name": name, "width": 64, "height": 48} for i, name in enumerate(names)]
    images[4]["height"] = 99
    rows = [
        (10, 1, [4, 4, 20, 10]), (10, 1, [4, 4, 20, 10]),  # twice
        (11, 2, [50, 8, 30, 16]),  # leaves the image
        (11, 2, [8, 8, 0, 16]),  # empty
        (11, 1, [8, 8, 0.5, 16]),  # half a pixel wide
        (13, 1, [4, 4, 20, 10]),  # the copy's, as in the original
        (14, 1, [4, 4, 20, 60]), (15, 1, [4, 4, 20, 10]), (16, 1, [4, 4, 20, 10]),
    ]  # fmt: skip
    content = {
        "images": images,
        "annotations": [
            {"id": i, "image_id": image_id, "category_id": category, "bbox": box}
            for i, (image_id, category, box) in enumerate(rows)
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}, {"id": 3, "name": "fox"}],
    }
    write(root / split / "_annotations.coco.json", content)
    return root


def test_what_is_written_passes_the_check_and_the_changes_are_listed(tmp_path, check):
    coco(tmp_path / "set")
    coco(tmp_path / "set", "validation")
    status, text, _ = check(tmp_path / "set", "--write", tmp_path / "clean")
    assert status == 1 and "train: 3 images, 2 boxes, 2 classes" in text and "val: 3 images" in text
    assert sorted(os.listdir(tmp_path / "clean")) == ["changes.txt", "train", "val"]
    status, text, _ = check(tmp_path / "clean", "--config-file", _large(tmp_path))
    assert status == 0, text
    data = read(str(tmp_path / "clean"))
    clean(data)
    assert boxes(data) == {"a.png": [("cat", (4, 4, 24, 14))], "b.png": [("dog", (50, 8, 64, 24))], "c.png": []}
    assert data.classes == ("cat", "dog") and [i.image_id for i in data.images] == [10, 11, 12]
    changes = (tmp_path / "clean" / "changes.txt").read_text()
    for part in (
        "absent.png", "broken.png", "annotated as 64x99", "1 boxes that an image has twice", "1 boxes clipped",
        "1 images with the pixels and the boxes of another one left out", "copy.png", "1 empty", "'fox'"[1:-1],
        "with a side of a pixel or less",
    ):  # fmt: skip
        assert part in changes, part


def _large(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("INPUT: {MIN_SIZE_TEST: 480, MAX_SIZE_TEST: 640}\n")
    return path


def test_names_that_collide_are_told_apart(tmp_path, check):
    body = ""
    for number, name in enumerate(("one/a.png", "two/a.png", "three/A.PNG")):
        image(tmp_path / "set" / "images" / name.lower(), shade=number)
        os.rename(tmp_path / "set" / "images" / name.lower(), tmp_path / "set" / "images" / name)
        box = f'<box label="cat" xtl="{number}" ytl="0" xbr="30" ybr="30"/>'
        body += f'<image id="0" name="{name}" width="64" height="48">{box}</image>'
    write(tmp_path / "set" / "annotations.xml", cvat_xml(body, labels=("cat",)))
    status, text, _ = check(tmp_path / "set", "--write", tmp_path / "clean")
    assert status == 0, text
    found = boxes(read(str(tmp_path / "clean")))
    assert {name: box[0][1][0] for name, box in found.items()} == {"a.png": 0, "two_a.png": 1, "three_A.PNG": 2}
    assert "two_a.png" in (tmp_path / "clean" / "changes.txt").read_text()
    assert check(tmp_path / "clean")[0] == 0


def test_all_splits_number_the_classes_alike(tmp_path, check):
    for split, ids in (("train", (4, 7)), ("val", (7, 4))):
        image(tmp_path / "set" / split / "a.png", shade=ids[0])
        content = {
            "images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 48}],
            "annotations": [{"id": i, "image_id": 1, "category_id": i, "bbox": [4, 4, 10 * i, 20]} for i in ids],
            "categories": [{"id": ids[0], "name": "cat"}, {"id": ids[1], "name": "dog"}],
        }
        write(tmp_path / "set" / split / "a.json", content)
    check(tmp_path / "set", "--write", tmp_path / "clean")
    found = [json.loads((tmp_path / "clean" / s / "_annotations.coco.json").read_text()) for s in ("train", "val")]
    assert found[0]["categories"] == found[1]["categories"] == [{"id": 4, "name": "cat"}, {"id": 7, "name": "dog"}]
    widths = [{a["category_id"]: a["bbox"][2] for a in content["annotations"]} for content in found]
    assert widths == [{4: 40, 7: 60}, {4: 60, 7: 40}]


def test_images_are_copied_or_linked(tmp_path, check):
    coco(tmp_path / "set")
    check(tmp_path / "set", "--write", tmp_path / "copied")
    check(tmp_path / "set", "--write", tmp_path / "linked", "--link")
    original = os.stat(tmp_path / "set" / "train" / "a.png")
    assert os.stat(tmp_path / "copied" / "train" / "a.png").st_ino != original.st_ino
    assert os.stat(tmp_path / "linked" / "train" / "a.png").st_ino == original.st_ino
    with Image.open(tmp_path / "copied" / "train" / "a.png") as picture:
        assert picture.size == (64, 48)


def test_a_validation_set_of_its_own_is_written_as_val(tmp_path, check):
    coco(tmp_path / "set")
    coco(tmp_path / "other", "test")
    status, text, _ = check(tmp_path / "set", "--val", f"{tmp_path / 'other'}:test", "--write", tmp_path / "clean")
    assert status == 1 and len(read(str(tmp_path / "clean"), "val").images) == 3, text


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_nothing_is_overwritten(tmp_path, check, kind):
    coco(tmp_path / "set")
    target = tmp_path / "clean"
    write(target if kind == "file" else target / "a.txt", "mine")
    status, text, _ = check(tmp_path / "set", "--write", target)
    assert status == 2 and "not an empty folder" in text
    assert (target if kind == "file" else target / "a.txt").read_text() == "mine"


def test_the_set_itself_is_no_place_for_its_copy(tmp_path, check):
    coco(tmp_path / "set")
    status, text, _ = check(tmp_path / "set", "--write", tmp_path / "set" / "clean")
    assert status == 2 and "is inside the set" in text


def test_an_empty_folder_is_filled(tmp_path, check):
    coco(tmp_path / "set")
    (tmp_path / "clean").mkdir()
    check(tmp_path / "set", "--write", tmp_path / "clean")
    assert (tmp_path / "clean" / "train" / "a.png").is_file()


def test_a_failure_leaves_nothing_behind(tmp_path, check, monkeypatch):
    coco(tmp_path / "set")
    from fa_detectron.data import clean_copy

    def full(content, path):
        raise OSError(errno.ENOSPC, "No space left on device", path)

    monkeypatch.setattr(clean_copy.shutil, "copyfile", full)
    before = sorted(os.listdir(tmp_path))
    status, text, _ = check(tmp_path / "set", "--write", tmp_path / "clean")
    assert status == 2 and "No space left on device" in text
    assert set(os.listdir(tmp_path)) - set(before) <= {"out", "found.json"}


def test_a_set_without_a_usable_box_is_refused(tmp_path, check):
    image(tmp_path / "a.png")
    write(tmp_path / "a.csv", "filename,xmin,ymin,xmax,ymax,class\na.png,5,5,5,5,cat\n")
    status, text, _ = check(tmp_path / "a.csv", "--write", tmp_path / "clean")
    assert status == 2 and "nothing to write" in text and not (tmp_path / "clean").exists()


def test_what_was_written_gives_the_boxes_of_the_set(tmp_path, check):
    for name, shade in (("a", 1), ("b", 2)):
        image(tmp_path / "set" / "images" / f"{name}.png", shade=shade)
    body = '<image id="0" name="a.png" width="64" height="48"><polygon label="cat" points="1,2;40,4;5,32"/></image>'
    body += '<image id="1" name="b.png" width="64" height="48"/>'
    write(tmp_path / "set" / "annotations.xml", cvat_xml(body))
    check(tmp_path / "set", "--write", tmp_path / "clean")
    content = json.loads((tmp_path / "clean" / "train" / "_annotations.coco.json").read_text())
    assert content["annotations"] == [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 39, 30], "area": 1170, "iscrowd": 0}
    ]
    assert content["images"][1] == {"id": 2, "file_name": "b.png", "width": 64, "height": 48}
    assert content["categories"] == [{"id": 1, "name": "cat"}]
