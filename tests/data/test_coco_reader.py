"""COCO JSON: what is read, and that each defect is refused with its place in words."""

import os
from pathlib import Path

import pytest

from fa_detectron.errors import UserError
from tests.data.reading import clean, read


def test_classes_are_numbered_by_category_id_and_boxes_become_corners(coco):
    data = read(coco())
    assert data.classes == ("ant", "cat") and data.category_ids == (2, 5)
    first, second, third = data.images
    assert [(a.label, a.box, a.area, a.iscrowd) for a in first.annotations] == [
        ("cat", (4, 4, 24, 14), 120.0, 0),
        ("ant", (30, 8, 46, 24), 0.0, 0),
    ]
    assert second.annotations[0].iscrowd == 1 and third.annotations == []
    assert (first.image_id, first.width, first.height) == (1, 64, 48)


@pytest.mark.parametrize("where", [".", "images", "../images", "../train2017", "train2017"])
def test_images_are_found_around_the_json_file(coco, tmp_path, where):
    source = Path(coco())
    folder = tmp_path / "set" / "annotations"
    folder.mkdir(parents=True)
    path = folder / "instances_train2017.json"
    path.write_text(source.read_text())
    target = folder / where
    target.mkdir(exist_ok=True)
    for image in (tmp_path / "images").iterdir():
        image.rename(target / image.name)
    assert all(os.path.isfile(image.file_name) for image in read(str(path)).images)


def test_images_elsewhere_are_named_by_their_root(coco, tmp_path):
    path = Path(coco())
    (tmp_path / "set").mkdir()
    path = path.rename(tmp_path / "set" / "train.json")
    (tmp_path / "far").mkdir()
    (tmp_path / "images").rename(tmp_path / "far" / "images")
    with pytest.raises(UserError, match=rf"such as '1.png'.*looked in {tmp_path}/set.*--images"):
        read(str(path))
    assert os.path.isfile(read(str(path), images_root=str(tmp_path / "far")).images[0].file_name)
    with pytest.raises(UserError, match="no such folder"):
        read(str(path), images_root=str(tmp_path / "nowhere"))


def test_links_within_the_set_are_read(coco, tmp_path):
    path = coco()
    (tmp_path / "images" / "1.png").rename(tmp_path / "images" / "stored.png")
    (tmp_path / "images" / "1.png").symlink_to("stored.png")
    (tmp_path / "images" / "2.png").rename(tmp_path / "stored.png")
    (tmp_path / "images" / "2.png").symlink_to(tmp_path / "stored.png")  # beside the JSON file, so in the set
    (tmp_path / "images").rename(tmp_path / "elsewhere")
    (tmp_path / "images").symlink_to("elsewhere")  # the folder itself may be a link
    assert [Path(image.file_name).name for image in read(path).images] == ["1.png", "2.png", "3.png"]


def test_links_out_of_the_set_are_refused(coco, tmp_path, tmp_path_factory):
    path, far = coco(), tmp_path_factory.mktemp("far")
    (tmp_path / "images" / "1.png").rename(far / "1.png")
    (tmp_path / "images" / "1.png").symlink_to(far / "1.png")
    with pytest.raises(UserError, match=rf"1 images that a link takes out of {tmp_path}:\n  1\.png"):
        read(path)
    assert len(read(path, follow_links=True).images) == 3
    (tmp_path / "images" / "1.png").unlink()
    (tmp_path / "images" / "1.png").symlink_to("1.png")  # a loop
    with pytest.raises(UserError, match=r"1 images that do not exist:\n.*1\.png"):
        read(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"images": [', r"not valid JSON.*line 1, column"),
        ("[]", "no annotations in a format that is known"),
        ("[" * 100_000, "not valid JSON"),
        ('{"images": [], "annotations": []}', "neither categories nor annotations"),
        ('{"images": [], "categories": []}', "has no key 'annotations'"),
        ('{"images": [], "annotations": [], "categories": {"1": "cat"}}', "no list under key 'categories'"),
        ('{"images": {}, "annotations": [], "categories": []}', "no list under key 'images'"),
        ('{"images": [3], "annotations": [], "categories": []}', r"images\[0\] is 3"),
    ],
)
def test_broken_files_are_refused(tmp_path, text, message):
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        read(str(path))
    assert str(path) in str(caught.value)


def test_a_missing_and_a_binary_file_are_refused(tmp_path):
    with pytest.raises(UserError, match="no such file or folder"):
        read(str(tmp_path / "absent.json"))
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not valid JSON"):
        read(str(tmp_path / "binary.json"))


def _set(*keys):
    """An edit that sets content[keys[0]][keys[1]][keys[2]] to keys[3]."""

    def edit(content):
        content[keys[0]][keys[1]][keys[2]] = keys[3]

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_set("images", 1, "id", 1), r"1 images with an id that another image has:\n  images\[1\]: id 1"),
        (_set("images", 1, "id", "1"), r"1 images with an id that another image has:\n  images\[1\]: id '1'"),
        (_set("images", 1, "id", None), r"images\[1\]: id must be"),
        (_set("images", 1, "id", "two"), "mixed"),
        (_set("images", 1, "width", "wide"), r"images\[1\] \(id 2\): width and height"),
        (_set("images", 1, "height", 48.5), r"images\[1\] \(id 2\): width and height"),
        (_set("images", 1, "height", True), r"images\[1\] \(id 2\): width and height"),
        (_set("images", 1, "file_name", "../../no.png"), r"1 images that do not exist:\n  .*images/no.png"),
        (_set("images", 1, "file_name", "/etc/passwd"), r"1 images that do not exist:\n  .*images/passwd"),
        (_set("images", 1, "file_name", 7), r"file_name must be a string, is 7"),
        (_set("annotations", 1, "category_id", 9), r"category_id 9"),
        (_set("annotations", 1, "category_id", [2]), r"category_id \[2\]"),
        (_set("annotations", 1, "category_id", None), r"category_id None"),
        (_set("annotations", 1, "image_id", 77), r"annotations\[1\] \(id 12\): image_id 77"),
        (_set("categories", 0, "id", "2"), r"categories\[1\] \('ant'\) has the id 2 of 'cat'"),
        (_set("categories", 0, "name", " "), "needs an id .* and a name"),
        (_set("categories", 0, "id", 0.5), "needs an id .* and a name, has id 0.5"),
        (lambda c: c["images"].clear(), "'images' is empty"),
    ],
)
def test_bad_entries_are_refused_with_their_place(coco, edit, message):
    with pytest.raises(UserError, match=message):
        read(coco(edit))


def test_a_long_list_of_defects_is_counted_and_cut(coco):
    def edit(content):
        content["annotations"] = [dict(content["annotations"][0], image_id=99, id=i) for i in range(500)]

    with pytest.raises(UserError) as caught:
        read(coco(edit))
    assert "500 annotations" in str(caught.value) and "and 490 more" in str(caught.value)
    assert len(str(caught.value).splitlines()) < 15


def test_nan_in_the_file_reaches_the_box_check(coco):
    path = coco(_set("annotations", 0, "bbox", [float("nan"), 1, 2, 3]))
    assert "NaN" in Path(path).read_text()
    with pytest.raises(UserError, match="not finite"):
        clean(read(path))


@pytest.mark.parametrize(
    ("image", "annotation", "message"),
    [
        ({"width": 10**400}, {}, "whole numbers"),
        ({"height": 2**63}, {}, "whole numbers"),
        ({"file_name": "\ud800.png"}, {}, "cannot be a file's name"),
        ({"file_name": "x" * 5000}, {}, "do not exist"),
        ({"file_name": "x\0y"}, {}, "cannot be a file.s name"),
        ({"file_name": "http://[::1"}, {}, "do not exist"),
        ({}, {"bbox": [10**400, 0.5, 1, 1]}, None),
        ({}, {"area": 10**400}, None),
        ({"id": [1]}, {}, "id must be a whole number or a text"),
        ({"file_name": [[["x" * 9999]]]}, {}, "file_name must be a string"),
    ],
)
def test_values_that_fuzzing_found_end_in_words(coco, image, annotation, message):
    """Each of these ended in another exception once."""

    def edit(content):
        content["images"][1].update(image)
        content["annotations"][0].update(annotation)

    path = coco(edit)
    if message is None:
        clean(read(path), "skip")
        return
    with pytest.raises(UserError, match=message) as caught:
        read(path)
    assert len(str(caught.value)) < 6000


def test_nesting_without_end_is_refused(tmp_path):
    path = tmp_path / "deep.json"
    path.write_text('{"images": ' + "[" * 200_000 + "]" * 200_000 + "}")
    with pytest.raises(UserError, match=r"deep\.json: not valid JSON: .*recursion"):
        read(str(path))
