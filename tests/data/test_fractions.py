"""Boxes in fractions of the image, in formats whose boxes are in pixels."""

import pytest

pytest.importorskip("detectron2")

from fa_detectron.errors import UserError
from tests.data.exports import boxes, cvat_xml, image, labelme_file, write
from tests.data.reading import read

COCO_PARTS = {
    "images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 48}],
    "categories": [{"id": 1, "name": "cat"}],
}


def coco(*rows):
    items = [{"id": i, "image_id": 1, "category_id": 1, "bbox": list(row)} for i, row in enumerate(rows)]
    return {**COCO_PARTS, "annotations": items}


def createml(x, y, width, height):
    coordinates = {"x": x, "y": y, "width": width, "height": height}
    return [{"image": "a.png", "annotations": [{"label": "cat", "coordinates": coordinates}]}]


@pytest.mark.parametrize(
    "content",
    [
        coco((0.2, 0.3, 0.4, 0.5), (0.5, 0.5, 0.6, 0.5)),
        createml(0.5, 0.5, 0.2, 0.3),
        createml(0.95, 0.1, 0.2, 0.3),
        labelme_file("a.png", ("cat", "rectangle", [[0.1, 0.2], [0.5, 1.02]])),
        cvat_xml('<image id="0" name="a.png"><box label="cat" xtl="0.1" ytl="0.1" xbr="0.9" ybr="1"/></image>'),
    ],
)
def test_they_are_refused(tmp_path, content):
    image(tmp_path / "a.png")
    path = write(tmp_path / "set.json", content)
    with pytest.raises(UserError, match=r"look like fractions(?s:.*)Multiply the fractions"):
        read(path)


def test_a_set_with_small_boxes_is_not(tmp_path):
    image(tmp_path / "a.png")
    small, whole = (0.2, 0.3, 0.4, 0.5), (0, 0, 1, 1)
    assert len(boxes(read(write(tmp_path / "a.json", coco(small, (10, 5, 20, 15)))))["a.png"]) == 2
    assert len(boxes(read(write(tmp_path / "b.json", coco(whole))))["a.png"]) == 1
    assert not boxes(read(write(tmp_path / "c.json", coco())))["a.png"]
