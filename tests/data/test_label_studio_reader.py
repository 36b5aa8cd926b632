"""Label Studio: JSON, JSON-MIN, and its COCO and YOLO exports."""

import math

import pytest

pytest.importorskip("detectron2")

from fa_detectron.data.findings import Findings
from fa_detectron.errors import UserError
from tests.data.exports import boxes, image, label_studio_region, label_studio_task, write
from tests.data.reading import read

REGION = label_studio_region((25, 50, 50, 25), ["cat"])
BOX = (16, 24, 48, 36)


def test_regions_are_in_percent_and_rotated_ones_count_with_their_hull(tmp_path):
    image(tmp_path / "a.png")
    polygon = label_studio_region((), ["dog"], "polygonlabels")
    polygon["value"]["points"] = [[0, 0], [50, 0], [25, 100]]
    ellipse = label_studio_region((), ["dog"], "ellipselabels")
    ellipse["value"].update(x=50, y=50, radiusX=25, radiusY=25, rotation=90)
    turned = label_studio_region((50, 50, 25, 25), ["cat"], rotation=30)  # clockwise, about the upper left corner
    task = label_studio_task(1, "a.png", REGION, polygon, ellipse, turned)
    data = read(write(tmp_path / "project-1.json", [task]))
    cos, sin = math.cos(math.pi / 6), math.sin(math.pi / 6)
    hull = (32 - 12 * sin, 24, 32 + 16 * cos, 24 + 16 * sin + 12 * cos)
    assert boxes(data)["a.png"] == [
        ("cat", BOX),
        ("dog", (0, 0, 32, 48)),
        ("dog", (20, 8, 44, 40)),
        ("cat", tuple(round(v, 2) for v in hull)),
    ]
    assert data.summary == "read as Label Studio JSON, 1 images, 2 classes"


@pytest.mark.parametrize(
    "name",
    [
        "/data/upload/3/1a2b3c4d-photo.png",
        "/data/local-files/?d=set/images/photo.png",
        "s3://bucket/set/photo.png",
        "https://example.com/photo.png?X-Amz=1",
        "images/photo.png",
    ],
)
def test_image_urls(tmp_path, name):
    image(tmp_path / "images" / "photo.png")
    path = write(tmp_path / "export.json", [label_studio_task(1, name, REGION)])
    data = read(path)
    assert data.images[0].file_name == str(tmp_path / "images" / "photo.png") and boxes(data)["photo.png"] == [
        ("cat", BOX)
    ]


def test_an_upload_that_still_has_its_prefix(tmp_path):
    for name in ("1a2b3c4d-photo.png", "photo.png"):
        image(tmp_path / name)
    path = write(tmp_path / "export.json", [label_studio_task(1, "/data/upload/3/1a2b3c4d-photo.png", REGION)])
    assert read(path).images[0].file_name == str(tmp_path / "1a2b3c4d-photo.png")


def test_which_annotation_of_a_task_counts(tmp_path):
    for name in "abcde":
        image(tmp_path / f"{name}.png")

    def annotation(label, time, **more):
        return {"result": [label_studio_region((25, 50, 50, 25), [label])], "updated_at": time, **more}

    tasks = [
        {
            **label_studio_task(1, "a.png"),
            "annotations": [annotation("old", "2024-01-01"), annotation("new", "2024-03-01")],
        },
        {
            **label_studio_task(2, "b.png"),
            "annotations": [annotation("truth", "2024-01-01", ground_truth=True), annotation("new", "2024-03-01")],
        },
        {
            **label_studio_task(3, "c.png"),
            "annotations": [annotation("kept", "2024-01-01"), annotation("gone", "2024-03-01", was_cancelled=True)],
        },
        {**label_studio_task(4, "d.png"), "annotations": [], "predictions": [annotation("guess", "2024-01-01")]},
        label_studio_task(5, "e.png"),  # looked at: nothing there
    ]
    data = read(write(tmp_path / "export.json", tasks), findings=(findings := Findings()))
    assert {name: [label for label, _ in found] for name, found in boxes(data).items()} == {
        "a.png": ["new"], "b.png": ["truth"], "c.png": ["kept"], "e.png": [],
    }  # fmt: skip
    text = "\n".join(map(str, findings.all))
    assert (
        "1 tasks without an annotation are not part of the set" in text and "2 tasks with several annotations" in text
    )


def test_labels_beside_shapes_and_what_has_no_box(tmp_path):
    image(tmp_path / "a.png")
    labels = label_studio_region((25, 50, 50, 25), ["cat"], "labels")
    shape = {**labels, "type": "rectangle", "value": {k: v for k, v in labels["value"].items() if k != "labels"}}
    point = label_studio_region((10, 10, 0.5, 0.5), ["eye"], "keypointlabels", id="r2")
    choice = {"id": "r3", "type": "choices", "value": {"choices": ["good"]}}
    task = label_studio_task(1, "a.png", shape, labels, point, choice)
    data = read(write(tmp_path / "export.json", [task]), findings=(findings := Findings()))
    assert boxes(data)["a.png"] == [("cat", BOX)]
    assert "1 choices, 1 keypointlabels" in str(findings.all[0])


@pytest.mark.parametrize(
    ("region", "message"),
    [
        (
            {**REGION, "type": "brushlabels", "value": {"format": "rle", "rle": [0], "brushlabels": ["cat"]}},
            "brush masks",
        ),
        ({**REGION, "image_rotation": 90}, "rotated in Label Studio"),
        (label_studio_region((25, 50, 50, 25), ["cat", "dog"]), "several classes"),
        (label_studio_region((25, "x", 50, 25), ["cat"]), "coordinates cannot be used"),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path, region, message):
    image(tmp_path / "a.png")
    with pytest.raises(UserError, match=message):
        read(write(tmp_path / "export.json", [label_studio_task(1, "a.png", region)]))


def test_json_min(tmp_path):
    image(tmp_path / "a.png")
    image(tmp_path / "b.png")
    region = {
        "x": 25, "y": 50, "width": 50, "height": 25, "rotation": 0, "rectanglelabels": ["cat"],
        "original_width": 64, "original_height": 48,
    }  # fmt: skip
    items = [
        {"image": "a.png", "id": 1, "label": [region], "annotator": 1, "annotation_id": 5, "updated_at": "2024-01-01"},
        {"image": "a.png", "id": 1, "label": [], "annotator": 2, "annotation_id": 6, "updated_at": "2023-01-01"},
        {"image": "b.png", "id": 2, "annotator": 1, "annotation_id": 7, "created_at": "2024-01-01"},
    ]
    data = read(write(tmp_path / "export.json", items), findings=(findings := Findings()))
    assert boxes(data) == {"a.png": [("cat", BOX)], "b.png": []}
    assert "1 tasks with several annotations" in str(findings.all[0])


def test_its_coco_export(tmp_path):
    image(tmp_path / "images" / "1a2b3c4d-a.png")
    content = {
        "images": [{"width": 64, "height": 48, "id": 0, "file_name": "images/1a2b3c4d-a.png"}],
        "categories": [{"id": 0, "name": "cat"}],
        "annotations": [
            {"id": 0, "image_id": 0, "category_id": 0, "segmentation": [], "bbox": [16, 24, 32, 12], "ignore": 0,
             "iscrowd": 0, "area": 384}
        ],
        "info": {"year": 2024, "version": "1.0", "contributor": "Label Studio"},
    }  # fmt: skip
    write(tmp_path / "result.json", content)
    data = read(str(tmp_path))
    assert boxes(data) == {"1a2b3c4d-a.png": [("cat", BOX)]} and data.format == "COCO JSON"


def test_its_yolo_export(tmp_path):
    image(tmp_path / "images" / "1a2b3c4d-a.png")
    write(tmp_path / "labels" / "1a2b3c4d-a.txt", "1 0.5 0.625 0.5 0.25\n")
    write(tmp_path / "classes.txt", "ant\ncat\n")
    write(tmp_path / "notes.json", {"categories": [{"id": 0, "name": "ant"}, {"id": 1, "name": "cat"}], "info": {}})
    data = read(str(tmp_path))
    assert boxes(data) == {"1a2b3c4d-a.png": [("cat", BOX)]} and data.classes == ("ant", "cat")


def two_images(number, *regions, **data):
    return {**label_studio_task(number, "", *regions), "data": data}


def test_regions_of_a_task_with_two_images_go_to_the_image_that_they_name(tmp_path):
    for name in "abcd":
        image(tmp_path / f"{name}.png")
    tasks = [
        two_images(1, {**REGION, "to_name": "image2"}, image1="a.png", image2="b.png"),
        two_images(2, {**REGION, "to_name": "image1"}, image1="c.png", image2="d.png"),
    ]
    data = read(write(tmp_path / "export.json", tasks))
    assert boxes(data) == {"a.png": [], "b.png": [("cat", BOX)], "c.png": [("cat", BOX)], "d.png": []}


@pytest.mark.parametrize(
    ("keys", "names"),
    [
        (("image1", "image2"), ("img-1", "img-2")),
        (("left", "right"), ("img", "img")),
        (("image", "image2"), ("img-1", "img-2")),
        (("image1", "image2"), (None, None)),
    ],
)
def test_a_task_with_two_images_is_refused_where_its_regions_name_none(tmp_path, keys, names):
    for name in "ab":
        image(tmp_path / f"{name}.png")
    regions = [{**REGION, "id": str(i), "to_name": name} for i, name in enumerate(names)]
    path = write(tmp_path / "export.json", [two_images(7, *regions, **dict(zip(keys, ("a.png", "b.png"))))])
    with pytest.raises(UserError, match=f"(?s)tasks with several images.*task 7: {', '.join(keys)}"):
        read(path)


def test_json_min_does_not_tell_two_images_apart(tmp_path):
    image(tmp_path / "a.png")
    image(tmp_path / "b.png")
    region = {"x": 25, "y": 50, "width": 50, "height": 25, "rotation": 0, "rectanglelabels": ["cat"]}
    item = {"image": "a.png", "image2": "b.png", "id": 3, "label": [region], "annotation_id": 5}
    with pytest.raises(UserError, match=r"(?s)tasks with several images.*export JSON.*task 3: image, image2"):
        read(write(tmp_path / "export.json", [item]))


@pytest.mark.parametrize(
    ("dates", "label"),
    [((None, None, None), "2"), (("2024-01-01", None, None), "0"), ((None, "2024-01-01", "2023-01-01"), "1")],
)
def test_annotations_without_a_date(tmp_path, dates, label):
    image(tmp_path / "a.png")
    made = [
        {"result": [label_studio_region((25, 50, 50, 25), [str(i)])], "updated_at": date}
        for i, date in enumerate(dates)
    ]
    data = read(write(tmp_path / "export.json", [{**label_studio_task(1, "a.png"), "annotations": made}]))
    assert data.classes == (label,)
