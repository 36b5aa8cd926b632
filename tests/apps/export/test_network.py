"""The network that is exported gives what the model gives, in its parts and as a whole."""

import pytest

pytest.importorskip("detectron2")

import torch

from fa_detectron.apps.export.deform import GridSampleDeformBlock, StandardDeformBlock
from fa_detectron.apps.export.network import InferenceNetwork
from fa_detectron.apps.export.nms import float32_limit, shifted_nms
from fa_detectron.apps.export.padding import is_same_padding, with_fixed_padding
from fa_detectron.layers import DeformBlock
from tests.apps.export.tiny import make_model, noise


def reference_nms(boxes, scores, classes, threshold, most):
    """One box after the other."""
    kept = []
    for i in scores.sort(descending=True, stable=True).indices.tolist():
        rivals = [k for k in kept if classes[k] == classes[i]]
        if all(iou(boxes[i], boxes[k]) <= threshold for k in rivals):
            kept.append(i)
    return kept[:most]


def iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    inter = max(width, 0) * max(height, 0)
    return float(inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter))


def random_boxes(count, seed=0, scale=300.0):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * scale - scale / 3
    boxes = torch.cat([corner, corner + 5 + torch.rand(count, 2, generator=generator) * scale / 2], dim=1)
    return boxes, torch.rand(count, generator=generator), torch.randint(3, (count,), generator=generator)


@pytest.mark.parametrize("most", [5, 1000])
def test_shifted_nms_is_class_wise(most):
    boxes, scores, classes = random_boxes(150)
    kept = shifted_nms(boxes, scores, classes, 0.5, most).tolist()
    assert kept == reference_nms(boxes, scores, classes, 0.5, most)
    assert most == 5 or kept != reference_nms(boxes, scores, torch.zeros_like(classes), 0.5, most)


def test_shifted_nms_does_not_round_far_from_the_origin():
    boxes, scores, classes = random_boxes(150, scale=8.0)
    boxes = boxes + torch.tensor([5e4, 0, 5e4, 0])
    assert shifted_nms(boxes, scores, classes * 70, 0.5, 1000).tolist() == reference_nms(
        boxes.double(), scores, classes, 0.5, 1000
    )


@pytest.mark.parametrize("count", [0, 1])
def test_shifted_nms_of_almost_nothing(count):
    boxes, scores, classes = random_boxes(count)
    assert shifted_nms(boxes, scores, classes, 0.6, 100).tolist() == list(range(count))


def test_an_iou_of_the_very_threshold_counts_as_torchvision_counts_it():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 6]])  # IoU 0.6; float32's 0.6 is above it
    assert shifted_nms(boxes, torch.tensor([0.9, 0.8]), torch.tensor([0, 0]), 0.6, 9).tolist() == [0]
    assert shifted_nms(boxes, torch.tensor([0.9, 0.8]), torch.tensor([0, 1]), 0.6, 9).tolist() == [0, 1]
    assert float32_limit(0.6) < 0.6 < float(torch.tensor(0.6)) and float32_limit(0.5) == 0.5


@pytest.mark.parametrize("size", [(6, 9), (1, 1), (1, 5)])
@pytest.mark.parametrize("kind", [StandardDeformBlock, GridSampleDeformBlock])
def test_deformable_blocks_agree(kind, size):
    torch.manual_seed(0)
    block = DeformBlock(4)
    torch.nn.init.normal_(block.offset.weight, std=0.5)
    torch.nn.init.normal_(block.offset.bias)  # offsets of several cells, beyond the map, too
    features = [torch.randn(2, 4, *size), torch.randn(2, 4, 3, 2)]
    with torch.no_grad():
        for found, expected in zip(kind.like(block)(features), block(features), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attention", [True, False])
@pytest.mark.parametrize("decompose", [True, False])
@pytest.mark.parametrize("size", [(150, 203), (64, 33), (256, 160)])
def test_the_network_detects_what_the_model_detects(size, decompose, attention):
    model, image = make_model(attention=attention), noise(*size)
    network = InferenceNetwork(model, nms=shifted_nms, decompose=decompose)
    with torch.no_grad():
        expected = model([{"image": image[0]}])[0]["instances"]
        boxes, scores, classes = network(image)
    inside = boxes.clone()
    inside[:, 0::2].clamp_(0, size[1])
    inside[:, 1::2].clamp_(0, size[0])
    filled = (inside[:, 2] > inside[:, 0]) & (inside[:, 3] > inside[:, 1])
    assert len(expected) > 20
    torch.testing.assert_close(inside[filled], expected.pred_boxes.tensor, rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(scores[filled], expected.scores, rtol=1e-4, atol=1e-5)
    assert torch.equal(classes[filled], expected.pred_classes)


def test_candidates_are_the_best_of_every_level():
    model = make_model(topk=50)
    with torch.no_grad():
        boxes, scores, classes = InferenceNetwork(model, nms=None, decompose=False)(noise(150, 203))
    cells = [20 * 28, 10 * 14, 5 * 7, 3 * 4, 2 * 2]  # of the canvas of 160 x 224
    counts = [min(50, count) for count in cells]
    assert boxes.shape == (sum(counts), 4) and scores.shape == classes.shape == (sum(counts),)
    for level in scores.split(counts):
        assert torch.equal(level, level.sort(descending=True).values)


def test_the_model_keeps_its_own_blocks_and_shares_its_parameters():
    model = make_model()
    network = InferenceNetwork(model, nms=None, decompose=True)
    assert type(model.head.cls_subnet[0]) is DeformBlock
    assert type(network.head.cls_subnet[0]) is GridSampleDeformBlock
    own = {id(parameter) for parameter in model.parameters()}
    assert len({id(parameter) for parameter in network.parameters()}) > 20
    assert {id(parameter) for parameter in network.parameters()} <= own


@pytest.mark.parametrize("kernel, stride", [(3, 1), (3, 2), (5, 2), (1, 2), ((3, 5), (1, 2))])
def test_same_padding_as_a_constant(kernel, stride):
    layers = pytest.importorskip("timm.layers")
    conv = layers.Conv2dSame(4, 6, kernel, stride=stride, groups=2)
    assert is_same_padding(conv) and not is_same_padding(torch.nn.Conv2d(4, 6, kernel))
    fixed = with_fixed_padding(conv)
    assert fixed[1].weight is conv.weight
    for size in ((8, 12), (2, 4), (16, 2)):
        maps = torch.randn(2, 4, *size)
        torch.testing.assert_close(fixed(maps), conv(maps))
