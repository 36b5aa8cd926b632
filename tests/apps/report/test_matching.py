"""What detections are, on scenes small enough to count by hand."""

import pytest

pytest.importorskip("detectron2")

import torch
from detectron2.structures import Boxes, BoxMode, Instances

from fa_detectron.apps.report.findings import Findings, truth_of
from fa_detectron.apps.report.matching import confusion_matrix, match, outcome, threshold_curve


def truth(*boxes, classes, crowd=()):
    """Annotations of a record, boxes in xyxy."""
    return {
        "file_name": "image.png",
        "annotations": [
            {"bbox": list(box), "bbox_mode": BoxMode.XYXY_ABS, "category_id": c, "iscrowd": int(i in crowd)}
            for i, (box, c) in enumerate(zip(boxes, classes))
        ],
    }


def found(*rows):
    """Detections (x1, y1, x2, y2, score, class)."""
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    return Instances(
        (100, 100), pred_boxes=Boxes(table[:, :4]), scores=table[:, 4], pred_classes=table[:, 5].to(torch.int64)
    )


A, B, C = (0, 0, 20, 20), (40, 0, 60, 20), (0, 40, 20, 60)
SCENE = truth(A, B, C, classes=(0, 0, 1))
# A twice, B as the other class, something where nothing is; C is missed. Out of order on purpose.
FOUND = found((*A, 0.6, 0), (*A, 0.9, 0), (*B, 0.8, 1), (70, 70, 90, 90, 0.7, 0))


def test_right_double_confused_false_and_missed():
    result = outcome(match(truth_of(SCENE), FOUND), 0.5)
    assert result.hits == [0] and result.confused == [(1, 1)] and result.false == [2, 3] and result.missed == [2]
    assert result.errors == 2 + 2 + 1
    assert result.f1 == pytest.approx(2 / (2 + 5))


def test_a_higher_threshold_leaves_the_rest_as_it_was():
    matched = match(truth_of(SCENE), FOUND)
    result = outcome(matched, 0.75)
    assert result.hits == [0] and result.confused == [(1, 1)] and result.false == [] and result.missed == [2]
    assert outcome(matched, 0.95).missed == [0, 1, 2]


def test_the_confusion_matrix_counts_every_object_and_every_detection():
    matched = match(truth_of(SCENE), FOUND)
    counts = confusion_matrix([matched], [outcome(matched, 0.5)], 2)
    assert counts.tolist() == [[1, 1, 0], [0, 0, 1], [2, 0, 0]]  # rows: class 0, class 1, nothing there


def test_the_overlap_must_be_half_and_the_best_box_is_taken():
    near = truth((0, 0, 20, 20), (8, 0, 28, 20), classes=(0, 0))
    matched = match(truth_of(near), found((6, 0, 26, 20, 0.9, 0), (30, 0, 50, 20, 0.8, 0)))
    assert matched.found.tolist() == [1, -1]


def test_crowds_are_neither_found_nor_missed():
    scene = truth((0, 0, 50, 50), (60, 60, 80, 80), classes=(0, 0), crowd=(0,))
    matched = match(truth_of(scene), found((10, 10, 20, 20, 0.9, 0), (10, 10, 20, 20, 0.8, 1)))
    assert matched.ignored.tolist() == [True, False]  # the other class has no crowd there
    result = outcome(matched, 0.5)
    assert (result.hits, result.false, result.missed) == ([], [1], [1])


def test_nothing_there_and_nothing_found():
    empty = match(truth_of(truth(classes=())), found())
    result = outcome(empty, 0.5)
    assert result.errors == 0 and result.f1 == 1
    assert threshold_curve([empty]).best == 0.5


def test_the_curve_agrees_with_counting_at_every_threshold():
    generator = torch.Generator().manual_seed(0)
    images = []
    for _ in range(5):
        corners = torch.rand(6, 2, generator=generator) * 60
        boxes = torch.cat([corners, corners + 20], 1)
        classes = torch.randint(2, (6,), generator=generator)
        shifted = boxes + torch.randn(6, 4, generator=generator) * 3
        scores = (torch.rand(6, 1, generator=generator) * 10).round() / 10  # with equal ones
        rows = torch.cat([shifted, scores, torch.randint(2, (6, 1), generator=generator)], 1)
        images.append(match(truth_of(truth(*boxes.tolist(), classes=classes.tolist())), found(*rows.tolist())))
    curve = threshold_curve(images)
    assert list(curve.f1) == sorted(curve.f1)
    for threshold in curve.f1:
        hits = sum(len(outcome(image, threshold).hits) for image in images)
        kept = sum(int((image.scores >= threshold).sum()) for image in images)
        assert curve.precision[threshold] == pytest.approx(hits / kept)
        assert curve.recall[threshold] == pytest.approx(hits / 30)
        assert curve.f1[threshold] == pytest.approx(2 * hits / (kept + 30))
    assert curve.f1[max(t for t in curve.f1 if t <= curve.best + 0.01)] == max(curve.f1.values())


@pytest.fixture
def findings():
    records = [SCENE, truth(A, classes=(0,)), truth(A, B, classes=(0, 0)), truth(classes=())]
    instances = [FOUND, found((*A, 0.9, 0)), found(), found((*A, 0.9, 1))]
    return Findings("set", ("cat", "dog"), records, instances, {"AP": 1.0, "AP-cat": 2.0, "AP-dog": float("nan")}, 0.5)


def test_categories(findings):
    cat, dog = findings.categories()
    assert (cat.images, cat.boxes, cat.ap, cat.hits, cat.confused, cat.missed, cat.false) == (3, 5, 2.0, 2, 1, 2, 2)
    assert (dog.images, dog.boxes, dog.ap, dog.hits, dog.confused, dog.missed, dog.false) == (1, 1, None, 0, 0, 1, 2)
    assert cat.precision == pytest.approx(2 / 4) and cat.recall == pytest.approx(2 / 5)


def test_the_hardest_images_have_the_lowest_f1(findings):
    # The third finds nothing of two, the last one is wrong about an empty image; the second is all right.
    assert findings.hardest(9) == [2, 3, 0]
    assert findings.hardest(1) == [2]


def test_samples_are_spread_evenly(findings):
    assert findings.samples(2) == [0, 2] and findings.samples(9) == [0, 1, 2, 3] and findings.samples(0) == []
