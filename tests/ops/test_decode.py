"""Decoding against plain loops and at its corners; needs nothing but the project."""

import math

import pytest
import torch
import torchvision

from fa_detectron.ops import decode_detections

STRIDES = (8, 16)


def make_maps(n=2, k=3, sizes=((6, 8), (3, 4)), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (
        [torch.randn((n, k, *size), generator=generator) for size in sizes],
        [torch.rand((n, 4, *size), generator=generator) * 20 for size in sizes],
        [torch.randn((n, 1, *size), generator=generator) for size in sizes],
    )


def overlap(a, b):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    inter = width * height
    return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter)


def decode_by_loops(cls_logits, box_ltrb, obj_logits, strides, image, offset, threshold, topk, nms, limit):
    def sigmoid(value):
        return 1 / (1 + math.exp(-value))

    kept = []
    for cls, box, obj, s in zip(cls_logits, box_ltrb, obj_logits, strides):
        _, k, height, width = cls.shape
        level = []
        for i in range(height):
            for j in range(width):
                x, y = (j + offset) * s, (i + offset) * s
                left, top, right, bottom = box[image, :, i, j].tolist()
                for c in range(k):
                    score = sigmoid(cls[image, c, i, j].item()) * sigmoid(obj[image, 0, i, j].item())
                    level.append((score, (x - left, y - top, x + right, y + bottom), c))
        level.sort(key=lambda candidate: -candidate[0])
        kept += [candidate for candidate in level[: min(topk, height * width)] if candidate[0] > threshold]
    kept.sort(key=lambda candidate: -candidate[0])
    result = []
    for candidate in kept:
        if all(other[2] != candidate[2] or overlap(other[1], candidate[1]) <= nms for other in result):
            result.append(candidate)
    return result[:limit]


@pytest.mark.parametrize("offset, threshold, topk, nms, limit", [(0.0, 0.05, 1000, 0.6, 100), (0.5, 0.3, 20, 0.3, 7)])
def test_agrees_with_plain_loops(offset, threshold, topk, nms, limit):
    maps = make_maps()
    found = decode_detections(
        *maps, STRIDES, location_offset=offset, score_threshold=threshold, topk=topk, nms_threshold=nms,
        max_detections=limit,
    )  # fmt: skip
    for image, (boxes, scores, classes) in enumerate(found):
        expected = decode_by_loops(*maps, STRIDES, image, offset, threshold, topk, nms, limit)
        assert 0 < len(expected) <= limit
        assert classes.tolist() == [candidate[2] for candidate in expected]
        torch.testing.assert_close(scores, torch.tensor([candidate[0] for candidate in expected]))
        torch.testing.assert_close(boxes, torch.tensor([candidate[1] for candidate in expected]))


def test_a_location_may_give_several_classes():
    cls = [torch.full((1, 3, 1, 1), 4.0)]
    # min(topk, H*W) pairs a level: one cell passes on one pair, two cells two.
    one = decode_detections(cls, [torch.ones(1, 4, 1, 1)], [torch.full((1, 1, 1, 1), 4.0)], (8,))[0]
    assert one[2].tolist() == [0]
    cls = [torch.tensor([[4.0, -9.0], [3.0, -9.0]]).view(1, 2, 1, 2)]
    two = decode_detections(cls, [torch.ones(1, 4, 1, 2)], [torch.full((1, 1, 1, 2), 4.0)], (8,))[0]
    assert two[2].tolist() == [0, 1] and torch.equal(two[0][0], two[0][1])


def test_equal_scores_keep_the_order_of_levels_and_cells():
    maps = ([torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 1, 1)], [torch.ones(1, 4, 2, 2), torch.ones(1, 4, 1, 1)],
            [torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 1, 1)])  # fmt: skip
    boxes, _, classes = decode_detections(*maps, (8, 32), nms_threshold=1.0)[0]
    assert classes.tolist() == [0, 1, 0, 1, 0]
    assert boxes[:, 0].tolist() == [-1, -1, 7, 7, -1]


def test_a_score_at_the_threshold_is_none_above_it():
    maps = ([torch.tensor([[[[0.0, 0.1]]]])], [torch.zeros(1, 4, 1, 2)], [torch.zeros(1, 1, 1, 2)])
    ((boxes, scores, _),) = decode_detections(*maps, (8,), score_threshold=0.25)
    assert boxes[:, 0].tolist() == [8] and scores.item() > 0.25


def pairs_of_boxes(low, high, label=0, classes=1):
    """Two boxes an image, of one class: the cell at x = 0 has the better one; (P, 4) xyxy pixels each."""
    n = len(low)
    cls = torch.full((n, classes, 1, 2), -20.0)
    cls[:, label] = torch.tensor([4.0, 3.0])
    place = torch.tensor([8.0, 0.0, 8.0, 0.0])
    box = torch.stack([low, high - place], dim=2) * torch.tensor([-1.0, -1, 1, 1])[:, None]  # (P, 4, 2) ltrb
    return [cls], [box.unsqueeze(2)], [torch.full((n, 1, 1, 2), 4.0)]


@pytest.mark.parametrize(
    "threshold, shift, kept", [(0.6, 1.0, 1), (0.5, 4 / 3, 2), (1 / 3, 2.0, 1), (1.0, 0.0, 2), (0.0, 4.0, 2)]
)
def test_an_overlap_at_the_threshold_is_decided_as_torchvision_does(threshold, shift, kept):
    """The float32 of 12 / 20 is above 0.6, that of 8 / 24 above 1 / 3; what is no more than the threshold stays."""
    low = torch.tensor([[0.0, 0.0, 4.0, 4.0]])
    high = low + torch.tensor([0.0, shift, 0.0, shift])
    (found,) = decode_detections(*pairs_of_boxes(low, high), (8,), nms_threshold=threshold)
    assert len(torchvision.ops.nms(torch.cat([low, high]), torch.tensor([2.0, 1.0]), threshold)) == kept
    assert len(found[1]) == kept


def test_suppression_does_not_depend_on_the_class():
    """Boxes moved apart class by class, for one call of NMS, would round the IoU of the last class."""
    generator = torch.Generator().manual_seed(0)
    low = torch.rand(500, 4, generator=generator) * 8 + torch.tensor([0.0, 0.0, 90.0, 90.0])
    # Down by a quarter of the height is an IoU of 3 / 5; a thousandth of a pixel more or less decides.
    by = (low[:, 3] - low[:, 1]) / 4 + (torch.rand(500, generator=generator) - 0.5) * 2e-3
    high = low + torch.stack([torch.zeros(500), by, torch.zeros(500), by], dim=1)
    first = decode_detections(*pairs_of_boxes(low, high, 0, 80), (8,))
    last = decode_detections(*pairs_of_boxes(low, high, 79, 80), (8,))
    counts = [len(scores) for _, scores, _ in first]
    assert counts == [len(scores) for _, scores, _ in last] and {*counts} == {1, 2}


@pytest.mark.parametrize("n, level", [(0, -9.0), (2, -9.0)], ids=["no image", "nothing found"])
def test_empty_results(n, level):
    cls, box, obj = make_maps(n)
    found = decode_detections([x + level for x in cls], box, obj, STRIDES)
    assert len(found) == n
    for boxes, scores, classes in found:
        assert (tuple(boxes.shape), len(scores), len(classes)) == ((0, 4), 0, 0)
        assert classes.dtype == torch.int64


def test_half_precision_gives_float32():
    maps = ([x.bfloat16() for x in group] for group in make_maps())
    (boxes, scores, _), _ = decode_detections(*maps, STRIDES)
    assert boxes.dtype == scores.dtype == torch.float32


@pytest.mark.parametrize("threshold", [0.05, 0.0, -1.0])
@pytest.mark.parametrize("place", [0, 2], ids=["cls", "obj"])
def test_a_nan_score_is_no_detection(place, threshold):
    maps = make_maps(n=1)
    maps[place][0][:, :, 1:3] = float("nan")
    ((_, scores, _),) = decode_detections(*maps, STRIDES, score_threshold=threshold, nms_threshold=1.0)
    assert len(scores) > 20 and not scores.isnan().any()


def test_bad_arguments_are_named():
    cls, box, obj = make_maps()
    with pytest.raises(ValueError, match=r"obj_logits\[1\] must be \(2, 1, 3, 4\)"):
        decode_detections(cls, box, [obj[0], obj[1][:1]], STRIDES)
    with pytest.raises(ValueError, match="must not be negative"):
        decode_detections(cls, box, obj, STRIDES, topk=-1)
    with pytest.raises(ValueError, match="must not be negative"):
        decode_detections(cls, box, obj, STRIDES, max_detections=-1)
    with pytest.raises(ValueError, match=r"box_ltrb\[0\] is on meta, cls_logits\[0\] on cpu"):
        decode_detections(cls, [box[0].to("meta"), box[1]], obj, STRIDES)
    with pytest.raises(ValueError, match=r"cls_logits\[1\] must be a float tensor"):
        decode_detections([cls[0], cls[1].long()], box, obj, STRIDES)
