"""COCO files as other tools than COCO's write them: read by value, and said where something was guessed."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask

from fa_detectron.data.findings import NOTE, PROBLEM, Findings
from fa_detectron.errors import UserError
from tests.data.reading import clean, read


def said(path, kind: str, **options) -> list[str]:
    read(path, findings=(findings := Findings()), **options)
    return [str(finding) for finding in findings.of(kind)]


def _each(key: str, **values):
    return lambda content: [item.update(values) for item in content[key]]


@pytest.mark.parametrize("key", ["iscrowd", "ignore"])
@pytest.mark.parametrize(
    ("value", "crowd"), [("0", 0), ("false", 0), (0.0, 0), ("no", 0), (None, 0), ("1", 1), (1.0, 1)]
)
def test_crowd_words_mean_what_they_say(coco, key, value, crowd):
    data = read(coco(_each("annotations", **{"iscrowd": 0, key: value})))
    assert [a.iscrowd for image in data.images for a in image.annotations] == [crowd] * 3


def test_other_crowd_words_are_refused(coco):
    path = coco(lambda c: c["annotations"][1].update(ignore="perhaps"))
    with pytest.raises(
        UserError, match=r"1 crowd marks .*\n.*annotations\[1\] \(id 12, image 1\): ignore is 'perhaps'"
    ):
        read(path)
    assert [len(image.annotations) for image in read(path, findings=Findings()).images] == [1, 1, 0]


@pytest.mark.parametrize("images", [str, float, int])
@pytest.mark.parametrize("rest", [str, float, int])
def test_ids_agree_by_value(coco, images, rest):
    def edit(content):
        for item in content["images"]:
            item["id"] = images(item["id"]) if images is not str else str(item["id"])
        for item in content["annotations"]:
            item["image_id"], item["category_id"] = rest(item["image_id"]), rest(item["category_id"])
            item["category_id"] = str(int(float(item["category_id"]))) if rest is str else item["category_id"]

    data = read(coco(edit))
    assert [[a.label for a in image.annotations] for image in data.images] == [["cat", "ant"], ["cat"], []]
    own = ["1", "2", "3"] if images is str else [1, 2, 3]  # what pycocotools finds in the user's own file
    assert [image.image_id for image in data.images] == own
    assert [type(image.image_id) for image in data.images] == [type(i) for i in own]


def test_category_ids_are_the_files_own(coco):
    assert read(coco()).category_ids == (2, 5)
    text = coco(lambda c: [item.update(id=str(item["id"])) for item in c["categories"]])
    assert read(text).category_ids == ("2", "5") and read(text).classes == ("ant", "cat")


def test_names_may_be_numbers_and_are_in_one_normal_form(coco):
    assert read(coco(lambda c: c["categories"][0].update(name=7))).classes == ("ant", "7")
    decomposed = coco(lambda c: c["categories"][0].update(name="\ufeffcafe\u0301 "))
    assert read(decomposed).classes == ("ant", "caf\u00e9")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_other_encodings_of_json(coco, encoding):
    path = Path(coco(lambda c: c["categories"][0].update(name="caf\u00e9")))
    path.write_bytes(json.dumps(json.loads(path.read_text()), ensure_ascii=False).encode(encoding))
    assert read(str(path)).classes == ("ant", "caf\u00e9")


@pytest.mark.parametrize("width", [-1, 0, None, "", "64", 64.0, "64.0", "absent"])
def test_a_size_that_is_open_comes_from_the_file(coco, width):
    def edit(content):
        content["images"][1]["width"] = width
        if width == "absent":
            del content["images"][1]["width"]

    image = read(coco(edit)).images[1]
    assert (image.width, image.height) == (64, 48) and type(image.width) is int


def test_a_size_from_the_file_is_turned_as_its_exif_says(coco):
    path = coco(lambda c: c["images"][0].update(file_name="1.jpg", width=None, height=None))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (48, 64)).save(Path(path).parent / "images" / "1.jpg", exif=exif)
    image = read(path).images[0]
    assert (image.width, image.height) == (64, 48)


def test_an_unreadable_image_without_a_size_is_refused(coco):
    path = coco(lambda c: c["images"][0].update(width=-1))
    (Path(path).parent / "images" / "1.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"1 images that cannot be read:\n.*1\.png: not an image"):
        read(path)


def test_missing_images_stop_the_run_or_are_left_out(coco, check):
    path = coco(lambda c: c["images"][1].update(width=None))
    (Path(path).parent / "images" / "2.png").unlink()
    with pytest.raises(UserError, match=r"1 images that do not exist:\n.*2\.png\n.*--skip-missing-images"):
        read(path)
    data = read(path, skip_missing_images=True)
    assert [image.image_id for image in data.images] == [1, 3]
    (left_out,) = said(path, PROBLEM, skip_missing_images=True)
    assert "1 of 3 images left out, since they do not exist:" in left_out and "2.png" in left_out
    assert check(path)[0] == 1
    status, text, found = check(path, "--skip-missing-images")
    assert status == 1 and "Training refuses: nothing" in text and found["sets"]["training"]["images"] == 2
    for name in ("1.png", "3.png"):
        (Path(path).parent / "images" / name).unlink()
    with pytest.raises(UserError, match=r"its images \(such as '1.png'\) were not found"):
        read(path, skip_missing_images=True)


def test_boxes_may_be_texts(coco):
    data = read(coco(lambda c: c["annotations"][0].update(bbox=["4", "4.5", "20", "10"], area="120")))
    annotation = data.images[0].annotations[0]
    assert annotation.box == (4, 4.5, 24, 14.5) and annotation.area == 120


def rle(compressed: bool) -> dict:
    """Of the rectangle x 10 to 30, y 8 to 20 in an image of 64x48."""
    pixels = np.zeros((48, 64), dtype=np.uint8, order="F")
    pixels[8:20, 10:30] = 1
    if compressed:
        encoded = mask.encode(pixels)
        return {"size": [48, 64], "counts": encoded["counts"].decode()}
    flat = pixels.ravel(order="F")
    edges = [0, *(np.flatnonzero(np.diff(flat)) + 1).tolist(), flat.size]
    return {"size": [48, 64], "counts": np.diff(edges).tolist()}


POLYGON = [10, 8, 30, 8, 30, 20, 10.0, 20]
SEGMENTATIONS = {
    "polygon": [POLYGON],
    "bare polygon": POLYGON,
    "two polygons": [[10, 8, 12, 8, 12, 10], [20, 12, 30, 20, 25, 20]],
    "rle": rle(compressed=False),
    "compressed rle": rle(compressed=True),
}


@pytest.mark.parametrize("kind", list(SEGMENTATIONS))
@pytest.mark.parametrize("bbox", [None, [], [0, 0, 0, 0], "absent"])
def test_a_segmentation_serves_where_there_is_no_box(coco, kind, bbox):
    def edit(content):
        content["annotations"][0].update(bbox=bbox, segmentation=SEGMENTATIONS[kind])
        if bbox == "absent":
            del content["annotations"][0]["bbox"]

    data = read(coco(edit))
    assert data.images[0].annotations[0].box == (10, 8, 30, 20)
    clean(data)


@pytest.mark.parametrize(
    "segmentation",
    [
        None, [], [[]], [[1, 2, 3, 4]], [[1, 2, 3, 4, 5]], [["a"] * 6], [None], {}, "x",
        {"size": [48, 64], "counts": [3]}, {"size": [48, 64], "counts": [-1, 3073]}, {"size": [0, 0], "counts": []},
        {"size": [64, 48], "counts": "0"}, {"size": [48, 64], "counts": "o"}, {"size": [48, 64], "counts": "\u00e9"},
        {"size": [48, 64], "counts": "o" * 99 + "0"}, {"size": [48, 64], "counts": ""}, {"size": 3, "counts": [1]},
        {"size": [48, 64], "counts": [3072]}, {"size": [48, 64], "counts": [10**30]}, [[10**400, 1, 2, 3, 4, 5]],
    ],
)  # fmt: skip
def test_without_box_and_usable_segmentation_the_box_check_refuses(coco, segmentation):
    data = read(coco(lambda c: c["annotations"][0].update(bbox=None, segmentation=segmentation)))
    with pytest.raises(UserError, match="not four numbers"):
        clean(data)


def test_a_box_far_from_its_segmentation_is_a_likely_mistake(coco):
    far = coco(lambda c: c["annotations"][0].update(segmentation=[[40, 30, 60, 30, 60, 40]]))
    (found,) = said(far, PROBLEM)
    assert "1 boxes far from their own segmentation" in found and "annotation 0" in found
    near = coco(lambda c: c["annotations"][0].update(segmentation=[[5, 5, 22, 5, 22, 13]]))
    assert said(near, PROBLEM) == []


def test_repeated_annotation_ids_are_read_and_said(coco):
    path = coco(_each("annotations", id=1))
    assert sum(len(image.annotations) for image in read(path).images) == 3
    assert "1 annotation ids that stand for several annotations (all are read):\n  id 1: 3" in said(path, NOTE)[0]


def test_an_image_entry_twice_is_one_image(coco):
    path = coco(lambda c: c["images"].append(dict(c["images"][0])))
    assert len(read(path).images) == 3 and "1 images listed twice" in said(path, PROBLEM)[0]


def test_images_of_one_file_are_put_together(coco):
    """A converter that writes an image entry for each box: each would have the others' objects as background."""

    def edit(content):
        content["images"][1]["file_name"] = "1.png"
        content["annotations"].append(dict(content["annotations"][0], image_id=2))  # the same box once more

    path = coco(edit)
    first, second = read(path).images
    assert [(a.label, a.iscrowd) for a in first.annotations] == [("cat", 0), ("ant", 0), ("cat", 1)]
    assert (first.image_id, second.image_id) == (1, 3)
    (found,) = said(path, PROBLEM)
    assert "1 images listed twice: their boxes are merged:\n" in found and "image 1 and 2" in found
