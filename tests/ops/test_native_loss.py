"""The native loss against the plain-PyTorch reference: values and gradients."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fa_detectron.ops import native, quality_weighted_loss, reference
from tests.ops.loss_cases import METHODS, WEIGHTS, assert_agrees, evaluate, make_case

pytestmark = pytest.mark.skipif(not native.loaded(), reason="the native operators are not built")


@given(
    heights=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 40)), min_size=1, max_size=3),
    counts=st.lists(st.integers(0, 6), min_size=1, max_size=3),
    classes=st.integers(1, 5),
    mdq=st.booleans(),
    method=st.sampled_from(sorted(METHODS)),
    iou_type=st.sampled_from(["giou", "linear_iou", "iou"]),
    offset=st.sampled_from([0.0, 0.5]),
    gamma=st.sampled_from([2.0, 1.5, 0.0]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_agrees_with_the_reference(heights, counts, classes, mdq, method, iou_type, offset, gamma, seed):
    arguments = make_case(heights, [8 * 2**i for i in range(len(heights))], counts, classes, mdq, seed=seed)
    options = {"iou_type": iou_type, "location_offset": offset, "focal_gamma": gamma, **METHODS[method]}
    assert_agrees(arguments, 1e-9, **options)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("iou_type", ["giou", "linear_iou", "iou"])
def test_float32_is_as_close_to_the_exact_values_as_promised(method, iou_type):
    arguments = make_case(((40, 53), (20, 27)), counts=(12, 0, 30), classes=7, dtype=torch.float32)
    assert_agrees(arguments, 1e-4, torch.float64, iou_type=iou_type, **METHODS[method])


def test_many_boxes_over_several_chunks():
    assert_agrees(make_case(((60, 70), (30, 35)), counts=(150,), classes=3), 1e-9)


def test_more_locations_and_classes_than_a_block_has_threads():
    assert_agrees(make_case(((100, 130),), (8,), counts=(1, 2), classes=1), 1e-9)  # 204 blocks of 128 locations
    assert_agrees(make_case(((2, 3), (1, 2)), counts=(4, 2), classes=150), 1e-9)


def test_boxes_of_one_location():
    """Their prior weight is 1 whatever the rounding: the value is its own extreme."""
    arguments = make_case(counts=(6,), classes=1, dtype=torch.float32)
    corner = torch.tensor([[8.0, 8], [16, 24], [40, 8], [24, 32], [32, 40], [56, 16]])
    arguments[3] = [torch.cat([corner - 3, corner + 4], dim=1)]
    assert_agrees(arguments, 1e-4, torch.float64)


def test_saturated_logits_agree():
    arguments = make_case(dtype=torch.float32, spread=60.0)
    assert_agrees(arguments, 1e-4)
    for level in (*arguments[0], *arguments[2]):
        level.copy_(torch.where(level > 0, 100.0, -100.0))
    assert_agrees(arguments, 1e-4)


def test_the_last_steps_below_a_probability_of_1():
    """The sigmoid rounds as PyTorch's: of 1 and the number before it, -log(1 - p) is 100 and 16."""
    logits = torch.linspace(13, 18, 400).view(1, 1, 1, -1)
    box, objectness = torch.zeros(1, 4, 1, 400), torch.full((1, 1, 1, 400), 20.0)
    nothing = [torch.zeros(0, 4)], [torch.zeros(0, dtype=torch.long)]
    arguments = [[logits], [box], [objectness], *nothing, torch.zeros(1, 2), torch.ones(1, 2), [8]]
    assert_agrees(arguments, 1e-4)


@pytest.mark.parametrize("iou_type", ["giou", "linear_iou"])
def test_equal_sides_share_the_gradient(iou_type):
    """Predictions that touch sides of their box exactly: min and max tie."""
    arguments = make_case(counts=(1, 1))
    arguments[3] = [torch.tensor([[4.0, 4.0, 44.0, 36.0]], dtype=torch.float64)] * 2
    for level, stride in zip(arguments[1], arguments[7]):
        _, _, height, width = level.shape
        x, y = torch.arange(width) * float(stride), torch.arange(height).unsqueeze(1) * float(stride)
        for index, side in enumerate((x - 4 + 0 * y, y - 4 + 0 * x, 44 - x + 0 * y, 36 - y + 0 * x)):
            level[0, index] = side.clamp(min=0) + (1 if index == 2 else 0)
            level[1, index] = side.clamp(min=0)
    assert_agrees(arguments, 1e-9, iou_type=iou_type)


def test_boxes_of_no_extent():
    arguments = make_case()
    for level in arguments[1]:
        level.zero_()
    assert_agrees(arguments, 1e-9)
    arguments[3][0][0] = torch.tensor([20.0, 20.0, 10.0, 10.0])  # inverted: holds no location
    assert_agrees(arguments, 1e-9)


def test_a_small_sigma_has_no_gradient():
    arguments = make_case()
    arguments[6][0, :, 0] = torch.tensor([0.0, 1e-4, -1e-3, -1.0])
    assert_agrees(arguments, 1e-9)


@pytest.mark.parametrize("place", [0, 1, 2, 3, 5, 6], ids=["cls", "box", "obj", "gt_boxes", "mu", "sigma"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_bad_numbers_do_not_crash_and_a_nan_shows(place, value):
    arguments = make_case(counts=(4, 2))
    target = arguments[place]
    for tensor in target if isinstance(target, list) else [target]:
        tensor.view(-1)[::3] = value
    losses, gradients = evaluate(quality_weighted_loss, arguments)
    expected, _ = evaluate(reference.quality_weighted_loss, arguments)
    assert all(gradient is not None for gradient in gradients)
    if place == 3:
        return  # such a box holds no location, or all; what its overlaps are is nobody's business
    if value != value:
        assert torch.isnan(sum(losses))
    assert [torch.isnan(x).item() for x in losses] == [torch.isnan(x).item() for x in expected]


def every_second(x):
    """The same values, each followed in memory by what must not be read."""
    return torch.stack([x, torch.full_like(x, 77)], dim=-1)[..., 0]


@pytest.mark.parametrize("layout", ["channels_last", "transposed", "every second"])
def test_any_layout_of_the_maps(layout):
    arguments = make_case(counts=(2, 2))
    expected = evaluate(quality_weighted_loss, arguments)
    change = {
        "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
        "transposed": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
        "every second": every_second,
    }[layout]
    arguments[:3] = [[change(x) for x in group] for group in arguments[:3]]
    found = evaluate(quality_weighted_loss, arguments)
    assert all(torch.equal(f, e) for f, e in zip(itertools.chain(*found), itertools.chain(*expected)))


def test_expanded_maps():
    arguments = make_case(counts=(2, 2))
    arguments[:3] = [[x[:1].expand_as(x) for x in group] for group in arguments[:3]]
    assert_agrees(arguments, 1e-9)


@pytest.mark.parametrize("place", [3, 4, 5, 6], ids=["gt_boxes", "gt_classes", "mu", "sigma"])
def test_any_layout_of_the_boxes_and_priors(place):
    arguments = make_case(counts=(3, 2))
    expected = evaluate(quality_weighted_loss, arguments)
    changed = arguments[place]
    arguments[place] = [every_second(x) for x in changed] if place < 5 else every_second(changed)
    found = evaluate(quality_weighted_loss, arguments)
    assert all(torch.equal(f, e) for f, e in zip(itertools.chain(*found), itertools.chain(*expected)))


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8])
def test_classes_of_any_integer_dtype(dtype):
    arguments = make_case(counts=(3, 2))
    expected = quality_weighted_loss(*arguments)
    arguments[4] = [x.to(dtype) for x in arguments[4]]
    assert quality_weighted_loss(*arguments) == expected


@pytest.mark.parametrize("offset", [0.0, 0.5, 0.3, 1 / 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_location_on_the_edge_is_outside(offset, dtype):
    """Every pair of edges that lie on a location, on its coordinate as it is rounded."""
    arguments = make_case(((5, 40),), (12,), counts=(1,), classes=1, dtype=dtype)
    place = ((torch.arange(40, dtype=dtype) + offset) * 12).tolist()
    spans = [(low, high) for low in place for high in place if low < high]
    arguments[3] = [torch.tensor([[x1, -1.0, x2, 25.0] for x1, x2 in spans], dtype=dtype)]
    arguments[4] = [torch.zeros(len(spans), dtype=torch.int64)]
    statistics, *_ = torch.ops.fa_detectron.quality_statistics(*arguments[:7], [12.0], offset, True, True, 5.0, "giou")
    rows = sum(-1 < (i + offset) * 12 < 25 for i in range(5))
    inside = [place.index(x2) - place.index(x1) - 1 for x1, x2 in spans]
    assert statistics[:, 4].tolist() == [rows * count for count in inside]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("offset", [0.0, 0.5])
@pytest.mark.parametrize("stride", [8, 7, 0.3])
def test_the_number_next_to_a_location_decides(stride, offset, dtype):
    """Which gradients it gets: edges on a location's coordinate and on the numbers to either side."""
    arguments = make_case(((9, 9),), (stride,), counts=(9,), classes=1, dtype=dtype)
    at = (torch.arange(9, dtype=dtype) + offset) * torch.tensor(stride, dtype=dtype)
    edge = torch.stack([at[[1, 2]], at[[6, 7]]])  # low, high; x, y
    away = torch.tensor([[-torch.inf] * 2, [torch.inf] * 2], dtype=dtype)
    choices = [torch.nextafter(edge, away), edge, torch.nextafter(edge, -away)]
    arguments[3] = [torch.stack([torch.stack([low[0], high[1]]).view(4) for low in choices for high in choices])]
    assert_agrees(arguments, 1e-9 if dtype == torch.float64 else 1e-4, location_offset=offset)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("loss", WEIGHTS)
def test_gradcheck(method, loss):
    """Of one loss; the negative loss's M has no gradient by definition, so its inputs are held where M comes from."""
    cls, box, obj, boxes, labels, mu, sigma, strides = make_case(((3, 4), (2, 2)), counts=(2, 1), classes=2)
    free = {"loss_pos": (cls, box, obj, [mu], [sigma]), "loss_neg": (cls, obj), "loss_norm": ([mu], [sigma])}[loss]
    leaves = [x.requires_grad_() for group in free for x in group]
    normalizers = (3.0, 5.0)  # from the batch they would move with mu and sigma, without a gradient

    def value(*_):
        return quality_weighted_loss(
            cls, box, obj, boxes, labels, mu, sigma, strides, normalizers=normalizers, **METHODS[method]
        )[loss]

    # Perturbs the leaves in place: the function reads them from its closure.
    assert torch.autograd.gradcheck(value, leaves, atol=1e-7, rtol=1e-5)
