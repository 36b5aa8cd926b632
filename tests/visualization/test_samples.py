"""Sample pictures: written whole, one a picture, with boxes where they belong."""

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("detectron2")

import torch
from detectron2.data import Metadata
from detectron2.structures import Boxes, BoxMode, Instances

from fa_detectron.data.images.pixels import ImageReader
from fa_detectron.visualization import class_colour, draw_boxes, save_detection_samples
from fa_detectron.visualization.drawing import _label_place


def _record(tmp_path, name="a.png", **fields):
    Image.new("RGB", (64, 48), (200, 200, 200)).save(tmp_path / name)
    return {"file_name": str(tmp_path / name), "image_id": 1, "height": 48, "width": 64, **fields}


def _output(boxes, scores, classes):
    found = Instances((48, 64))
    found.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    found.scores, found.pred_classes = torch.tensor(scores), torch.tensor(classes, dtype=torch.int64)
    return {"instances": found}


def test_pictures_are_written_for_the_first_n(tmp_path):
    truth = [{"bbox": [8, 8, 20, 20], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0, "iscrowd": 0}]
    records = [_record(tmp_path, f"{c}.png", annotations=truth) for c in "abc"]
    outputs = [_output([[8, 8, 28, 28]], [0.9], [0]), _output([], [], []), _output([], [], [])]
    metadata = Metadata(name="samples", thing_classes=["cat"])
    paths = save_detection_samples(records, outputs, metadata, str(tmp_path / "out"), 2, ImageReader())
    assert paths == [str(tmp_path / "out" / "000_a.png"), str(tmp_path / "out" / "001_b.png")]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["000_a.png", "001_b.png"]
    both = np.asarray(Image.open(paths[0]))
    found = (both == np.array(class_colour(0))).all(axis=-1).any(axis=0)  # columns that show the class's colour
    middle = both.shape[1] // 2
    assert found[:middle].any() and found[middle:].any()  # ground truth left, detection right
    empty = np.asarray(Image.open(paths[1]))
    found = (empty == np.array(class_colour(0))).all(axis=-1).any(axis=0)
    assert found[:middle].any() and not found[middle:].any()


def test_without_truth_the_detections_stand_alone_and_low_scores_are_left_out(tmp_path):
    metadata = Metadata(name="alone")  # a set without class names shows the numbers
    output = _output([[8, 8, 28, 28], [30, 8, 40, 28]], [0.9, 0.1], [12, 3])
    (path,) = save_detection_samples([_record(tmp_path)], [output], metadata, str(tmp_path / "out"), 5, ImageReader())
    picture = np.asarray(Image.open(path))
    assert (picture == np.array(class_colour(12))).all(axis=-1).any()
    assert not (picture == np.array(class_colour(3))).all(axis=-1).any()


def test_a_box_is_drawn_on_its_outermost_pixels():
    image = Image.new("RGB", (40, 40), (255, 255, 255))
    drawn = np.asarray(draw_boxes(image, np.array([[10.0, 12.0, 20.0, 30.0]]), [""], [(255, 0, 0)]))
    red = (drawn == [255, 0, 0]).all(axis=-1)[14:28]  # rows free of the label
    assert list(np.flatnonzero(red.all(axis=0))) == [10, 11, 18, 19]
    assert (np.asarray(image) == 255).all()  # the caller's image stays as it was


def test_labels_make_way_for_each_other_and_stay_inside():
    taken = []
    for _ in range(4):
        place = _label_place((0.0, 0.0, 50.0, 50.0), (30.0, 12.0), (200, 100), taken)
        assert place[0] >= 0 and place[1] >= 0 and place[2] <= 200 and place[3] <= 100
        assert all(place[2] <= o[0] or o[2] <= place[0] or place[3] <= o[1] or o[3] <= place[1] for o in taken)
        taken.append(place)


def test_classes_have_colours_of_their_own():
    colours = [class_colour(i) for i in range(80)]
    assert len(set(colours)) == 80 and colours == [class_colour(i) for i in range(80)]
