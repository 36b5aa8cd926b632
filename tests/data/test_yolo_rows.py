"""What the rows of YOLO label files are: each form by its rule, and nothing read as what it is not."""

import math
import os
import random

import pytest
from PIL import Image

from fa_detectron.data.findings import Findings
from fa_detectron.errors import UserError
from tests.data.reading import clean, read

BOX = "0 0.5 0.5 0.25 0.5"  # of an image of 64x48 pixels
PIXELS = (24, 12, 40, 36)
MORE = {"triangles": "0 0.1 0.1 0.3 0.15 0.2 0.4\n0 0.9 0.9 0.8 0.7 0.95 0.75\n"}


@pytest.fixture
def rows(yolo):
    """rows(text) -> boxes of the one image whose label file has this text; ``yaml`` is added to data.yaml."""

    def boxes(text: str | bytes, yaml: str = "", names: str = "[ant, cat]", findings: Findings | None = None):
        path = yolo({"train": {"a": ""}}, names, yaml)
        label = path.replace("data.yaml", "labels/train/a.txt")
        with open(label, "wb") as stream:
            stream.write(text if isinstance(text, bytes) else text.encode())
        return [(a.label, pytest.approx(a.box)) for a in read(path, findings=findings).images[0].annotations]

    return boxes


def keypoint_rows(count: int, size: int, visible: float | None = None, number: int = 12) -> str:
    """Boxes with keypoints in them, as Ultralytics writes them; the first box is BOX."""
    chance, lines = random.Random(7), []
    for i in range(number):
        x, y, w, h = (0.5, 0.5, 0.25, 0.5) if not i else (chance.uniform(0.3, 0.7), 0.5, chance.uniform(0.1, 0.4), 0.3)
        words = [x, y, w, h]
        for _ in range(count):
            words += [x + chance.uniform(-0.5, 0.5) * w, y + chance.uniform(-0.5, 0.5) * h]
            words += [chance.choice((0, 1, 2)) if visible is None else visible] if size == 3 else []
        lines.append(" ".join(f"{word:.6g}" for word in [0, *words]))
    return "\n".join(lines)


@pytest.mark.parametrize(
    "row",
    [
        BOX,
        f"{BOX}   \t",
        f"\n\n   {BOX}\r\n\r\n",
        BOX.replace(" ", "\t"),
        BOX.replace(" ", ","),
        BOX.replace(" ", ", "),
        BOX.replace(" ", ";"),
        BOX.replace(" ", ",") + ",",
        "0.0 5e-1 5.0E-01 +.25 00.5",
        "0. 0.5 0.5 0.25 0.5",
        "ant 0.5 0.5 0.25 0.5",
        f"\ufeff{BOX}",
        f"{BOX} 0.93",
        f"{BOX} 1",
        f"{BOX}\r{BOX}".split("\r")[0],
        "0 0.375 0.25 0.625 0.25 0.625 0.75 0.375 0.75",  # an oriented box
        "0 0.5 0.25 0.625 0.5 0.5 0.75 0.375 0.5",
        "0 0.375 0.25 0.625 0.25 0.625 0.75 0.5 0.6 0.375 0.75",
        "24 12 40 12 40 36 24 36 ant 0",
        "imagesource:GoogleEarth\ngsd:0.146\n24.0 12.0 40.0 12.0 40.0 36.0 24.0 36.0 ant",
    ],
)
def test_one_box_in_many_forms(rows, row):
    assert rows(row) == [("ant", PIXELS)]


def test_other_encodings(rows):
    for encoding in ("utf-16", "utf-8-sig"):
        assert rows(BOX.encode(encoding)) == [("ant", PIXELS)]


def test_a_triangle_or_a_confidence_and_a_track(rows):
    """Six numbers after the class: the whole set decides."""
    tracked = f"{BOX} 0.9 3\n1 0.5 0.5 0.25 0.5 0.35 12\n1 0.5 0.5 0.25 0.5 1 1"
    assert rows(tracked) == [("ant", PIXELS), ("cat", PIXELS), ("cat", PIXELS)]
    triangles = MORE["triangles"] + "0 0.375 0.25 0.625 0.75 0.5 0.3\n0 0.25 0.5 0.5 1 0.5 1"
    assert rows(triangles)[2:] == [("ant", PIXELS), ("ant", (16, 24, 32, 48))]
    with pytest.raises(
        UserError, match=r"1 label rows that could be polygons, or boxes and more:\n  line 1 .*0\.9 1'\nSay"
    ):
        rows(f"{BOX} 0.9 1")
    assert rows("0 0.5 0.5 0.25 0.5 0.9 1", "kpt_shape: [0, 2]\n") == [("ant", (16, 24, 57.6, 48))]
    polygon = "0 0.1 0.1 0.3 0.1 0.35 0.4 0.3 0.5 0.1 0.4\n" * 2
    assert rows(polygon + "0 0.5 0.5 0.25 0.5 0.9 1")[2] == ("ant", (16, 24, 57.6, 48)), "polygons in the set"
    with pytest.raises(UserError, match=r"1 label rows that could be .*:\n  line 3"):
        rows(f"{BOX} 0.9 3\n{BOX} 0.8 4\n0 0.1 0.1 0.3 0.15 0.2 0.45")


@pytest.mark.parametrize("shape", [(17, 2), (17, 3), (2, 2), (4, 3), (1, 2), (1, 3)])
def test_keypoints(rows, shape):
    text, (count, size) = keypoint_rows(*shape), shape
    first = ("ant", PIXELS)
    found = rows(text, f"kpt_shape: [{count}, {size}]\n")
    assert found[0] == first and len(found) == 12
    found = rows(f"{text.splitlines()[0]} 0.9\n{BOX}\n{BOX} 0.5", f"kpt_shape: [{count}, {size}]\n")
    assert found == [first] * 3, "with a confidence, or without keypoints"
    with pytest.raises(
        UserError, match=r"label rows that (could be polygons, or boxes and more|are neither a class and box)"
    ):
        rows(text)  # nothing says that these are keypoints
    with pytest.raises(UserError, match=rf"numbers after the class; kpt_shape \[{count + 1}, {size}\] makes them"):
        rows(text, f"kpt_shape: [{count + 1}, {size}]\n")


def test_keypoints_all_visible_or_a_little_outside(rows):
    for text in (keypoint_rows(4, 3, visible=1), keypoint_rows(4, 3, visible=2)):
        with pytest.raises(UserError, match="12 label rows that could be polygons"):
            rows(text)
    outside = keypoint_rows(17, 2).splitlines()
    outside[3] = " ".join([*outside[3].split()[:-2], "0.01", "0.01"])
    with pytest.raises(UserError, match="12 label rows that could be polygons"):
        rows("\n".join(outside))


@pytest.mark.parametrize("corners", [3, 4, 5, 8, 40])
def test_random_polygons_are_polygons(rows, corners):
    chance, lines, wanted = random.Random(corners), [], []
    for _ in range(30):
        x, y, r = chance.uniform(0.2, 0.8), chance.uniform(0.2, 0.8), chance.uniform(0.02, 0.2)
        turn = chance.uniform(0, 7)
        points = [
            (x + r * math.cos(turn + i * math.tau / corners), y + r * math.sin(turn + i * math.tau / corners))
            for i in range(corners)
        ]
        lines.append("0 " + " ".join(f"{v:.9f}" for point in points for v in point))
        xs, ys = zip(*points)
        wanted.append((64 * min(xs), 48 * min(ys), 64 * max(xs), 48 * max(ys)))
    assert rows("\n".join(lines)) == [("ant", box) for box in wanted]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("0 0.5 0.5 0.5", "line 1 of .*a.txt: '0 0.5 0.5 0.5': 3 numbers after the class"),
        ("0 0.5 0.5 0.5 0.5 45", "the sixth column, 45, is not a confidence"),
        ("0 0.5 0.5 0.5 0.5 -0.3", "the sixth column, -0.3, is not a confidence"),
        ("0 0.5 0.5 0.5 0.5 2.9 2.5", "neither a triangle nor a box, a confidence"),
        ("0 .1 .1 .2 .2 .3 .1 0.9", "7 numbers after the class; boxes with keypoints need kpt_shape"),
        ("0 .1 .1 .2 .2 .3 .1 .2 .3 0.9", "9 numbers after the class"),
        ("-1 0.5 0.5 0.5 0.5", "the class -1 is no whole number"),
        ("0.5 0.5 0.5 0.25 0.5", "the class 0.5 is no whole number"),
        ("nan 0.5 0.5 0.5 0.5", "does not list"),
        ("1e999 0.5 0.5 0.5 0.5", "the class 1e999 is no whole number"),
        ("0 0.5 0.5 0.5 wide", "'wide' is not a number"),
        ("0 0.5 0.5 0.5 1_0", "'1_0' is not a number"),
        ("0 0.5 0.5 0.5 0x1", "'0x1' is not a number"),
        ("0 .1 .1 nan .2 .3 .1", "not finite"),
        ("0 0,5 0,5 0,25 0,5", "decimal commas, or"),
        ("0;0,5;0,5;0,25;0,5", "decimal commas, or"),
        ("0 0,0 1,0 1,1 0,1", "decimal commas, or"),
        ("0,0.5 0.5 0.25 0.5", "decimal commas, or"),
        ("1 2 3 4 5 6 7 8 ant 3", "the difficulty 3 is none of"),
        ("7 0.5 0.5 0.5 0.5", r"'names' does not list \(it lists 2 classes\):\n  line 1 of .*a.txt: class 7"),
        ("fox 0.5 0.5 0.5 0.5", r"'names' does not list \(it lists 2 classes\):\n  line 1 of .*a.txt: class fox"),
        ("1 2 3 4 5 6 7 8 fox 0", r"'names' does not list .*:\n  line 1 of .*a.txt: class fox"),
        ("٣ 0.5 0.5 0.5 0.5", "class ٣"),
        (b"\xff0 0.5 0.5 0.5 0.5", "the encoding is neither UTF-8 nor UTF-16"),
        (BOX.encode("utf-16-le"), "not a text file"),
    ],
)
def test_bad_rows_are_named(rows, row, message):
    with pytest.raises(UserError, match=message):
        rows(row)


@pytest.mark.parametrize(
    "row", ["0 32 24 16 24", "0 32 24 16 24 0.5", "0 24 12 40 12 40 36", "0 24 12 40 12 40 36 24 36"]
)
def test_pixels_are_recognized(rows, row):
    with pytest.raises(
        UserError, match=r"1 label rows whose numbers look like pixels \(all rows\):\n  line 1 .*\nYOLO has frac"
    ):
        rows(row)
    with pytest.raises(UserError, match=r"1 label rows whose numbers look like pixels \(the other 2 rows do not\)"):
        rows(f"{BOX}\n{row}\n{BOX}")
    found = Findings()
    assert rows(f"{BOX}\n{row}", findings=found) == [("ant", PIXELS)]
    with pytest.raises(UserError, match="look like pixels"):
        rows("0 32 24 16 24 1 2 3 4 5 6", "kpt_shape: [3, 2]\n")


def test_a_little_outside_is_clipped_and_more_refused(yolo):
    data = read(yolo({"train": {"a": "0 0.5 0.5 1.02 1.01\n1 -0.01 0.1 0.5 -0.005 0.5 0.5"}}))
    assert "2 boxes leave their image" in clean(data)[0]
    assert [a.box for a in data.images[0].annotations] == [(0, 0, 64, 48), (0, 0, 32, 24)]
    for row in ("0 0.9 0.5 0.5 0.5", "0 -0.2 0.1 0.5 0.1 0.5 0.5"):
        with pytest.raises(UserError, match="leaves the image"):
            clean(read(yolo({"train": {"a": row}})))


def test_classes_by_name(yolo):
    rows = {"a": "traffic light 0.5 0.5 0.25 0.5\n", "b": "cat,0.5,0.5,0.25,0.5"}
    path = yolo({"train": rows}, names="[cat, traffic light]")
    assert [a.label for i in read(path).images for a in i.annotations] == ["traffic light", "cat"]
    folder = path.removesuffix("data.yaml")
    os.unlink(path)
    assert read(f"{folder}:train").classes == ("cat", "traffic light")
    with open(f"{folder}/labels/train/b.txt", "a") as stream:
        stream.write("\n3 0.5 0.5 0.5 0.5")
    with pytest.raises(UserError, match=r"some rows call their class by number \(3\), some by name \(cat, traffic"):
        read(f"{folder}:train")


def test_names_in_other_normal_forms_are_one(rows):
    assert rows("Ka\u0308fer 0.5 0.5 0.25 0.5", names="['K\u00e4fer']") == [("K\u00e4fer", PIXELS)]


def test_classes_that_are_numbers_in_dota_rows(rows):
    assert rows("24 12 40 12 40 36 24 36 7 0", names="['7', '8']") == [("7", PIXELS)]


def test_difficult_objects_of_dota_are_crowds(yolo):
    image = read(yolo({"train": {"a": "1 1 9 1 9 9 1 9 ant 1\n1 1 9 1 9 9 1 9 cat 0"}})).images[0]
    assert [(a.label, a.iscrowd, a.box) for a in image.annotations] == [
        ("ant", 1, (1, 1, 9, 9)),
        ("cat", 0, (1, 1, 9, 9)),
    ]


def test_what_the_rows_are_is_told(yolo):
    read(yolo({"train": {"a": f"{BOX}\n{BOX} 0.5\n" + MORE["triangles"]}}), findings=(found := Findings(strict=True)))
    text = "\n".join(str(finding) for finding in found.all)
    assert "the label rows are 2 polygons or oriented boxes" in text and "1 boxes with a confidence (a model's" in text
    read(yolo({"train": {"a": BOX}}), findings=(found := Findings(strict=True)))
    assert not found.all


def test_rows_twice_are_a_likely_mistake(yolo, check):
    status, text, _ = check(yolo({"train": {"a": f"{BOX}\n0 .5 .50 .25 .5\n"}}, names="[ant]"))
    assert status == 1 and "1 boxes that an image has twice" in text and "Training refuses: nothing" in text


def test_oriented_boxes_in_label_txt_folders(tmp_path):
    """Roboflow's export of oriented boxes; data.yaml says ``valid`` where the folder is called ``val``."""
    (tmp_path / "data.yaml").write_text(
        "train: ../train/images\nval: ../valid/images\n\nnc: 2\nnames: ['cell', 'dust']\n"
    )
    for split in ("train", "val"):
        image = tmp_path / split / "images" / "a.jpg"
        image.parent.mkdir(parents=True)
        Image.new("RGB", (10, 5)).save(image)
        (tmp_path / split / "labelTxt").mkdir()
        (tmp_path / split / "labelTxt" / "a.txt").write_text("0 0 0 1 1 1 1 0 cell 0\n1 2 1 5 10 5 10 2 dust 0\n")
    data = read(f"{tmp_path}:valid")
    assert [(a.label, a.box) for a in data.images[0].annotations] == [("cell", (0, 0, 1, 1)), ("dust", (1, 2, 10, 5))]


def test_label_files_beside_their_images_without_names(tmp_path):
    Image.new("RGB", (15, 10)).save(tmp_path / "1.jpg")
    (tmp_path / "1.txt").write_text("2 0.133333 0.400000 0.266667 0.200000\n4 0.266667 0.450000 0.133333 0.300000")
    data = read(str(tmp_path))
    assert set(data.classes) >= {"2", "4"}
    assert data.images[0].annotations[0].box == pytest.approx((0, 3, 4, 5), abs=1e-4)
