"""Operators under any arguments: a value, or an error in words; never a crash, a hang or a read outside.

Worth most with the sanitizers built in.
"""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fa_detectron.ops import decode_detections, deform_conv2d, deform_conv2d_levels, quality_weighted_loss
from tests.fuzz.cases import example, fuzz

DTYPES = [torch.float32] * 8 + [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.complex64]
EXTREMES = [float("nan"), float("inf"), float("-inf"), 1e38, -1e38, 1e-45, 2.0**31, -(2.0**31), 2.0**63, 1e300, 0.0]
INTEGERS = st.one_of(st.integers(0, 4), st.sampled_from([-1, 2**31 - 1, 2**31, 2**40, 2**63 - 1, 2**63, -(2**63)]))
NUMBERS = st.one_of(st.floats(0, 4), st.sampled_from([*EXTREMES, -1.0]))
ERRORS = (ValueError, TypeError, RuntimeError, IndexError, OverflowError)


@st.composite
def tensors(draw, shape: tuple[int, ...], spoil: bool = True) -> torch.Tensor:
    """A tensor of that shape, or now and then of another shape, dtype, layout; some values extreme."""
    shape = list(shape)
    if spoil and draw(st.integers(0, 11)) == 0:
        action = draw(st.integers(0, 2))
        if action == 0 and shape:
            shape[draw(st.integers(0, len(shape) - 1))] = draw(st.integers(0, 5))
        elif action == 1:
            shape.append(draw(st.integers(0, 3)))
        elif shape:
            shape.pop()
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    tensor = torch.randn(shape, generator=generator) * draw(st.sampled_from([1.0, 5.0, 100.0]))
    for _ in range(draw(st.integers(0, 3))):
        if tensor.numel():
            extreme = torch.tensor(draw(st.sampled_from(EXTREMES)), dtype=torch.float64)
            tensor.view(-1)[draw(st.integers(0, tensor.numel() - 1))] = extreme.float()
    dtype = draw(st.sampled_from(DTYPES)) if spoil and draw(st.integers(0, 7)) == 0 else torch.float32
    tensor = tensor.nan_to_num(0, 9, -9).to(dtype) if not dtype.is_floating_point else tensor.to(dtype)
    layout = draw(st.integers(0, 9))
    if layout == 0 and tensor.dim() == 4:
        tensor = tensor.contiguous(memory_format=torch.channels_last)
    elif layout == 1 and tensor.dim() and tensor.shape[0]:
        tensor = tensor[:1].expand(tensor.shape)
    elif layout == 2 and tensor.dim() > 1:
        tensor = tensor.transpose(-1, -2).contiguous().transpose(-1, -2)
    elif layout == 3 and spoil and draw(st.integers(0, 3)) == 0:
        tensor = tensor.to("meta")
    return tensor.requires_grad_(tensor.is_floating_point() and draw(st.booleans()))


def finish(call) -> None:
    """Run it, with a backward pass where there is a gradient."""
    try:
        result = call()
        results = (
            list(result.values()) if isinstance(result, dict) else result if isinstance(result, list) else [result]
        )
        wanted = [x for x in results if isinstance(x, torch.Tensor) and x.requires_grad]
        if wanted:
            sum(x.double().sum() for x in wanted).backward()
    except ERRORS as error:
        assert str(error)


def draw_size(draw, small: int):
    if draw(st.integers(0, 9)) == 0:
        return draw(st.one_of(INTEGERS, st.tuples(INTEGERS, INTEGERS)))
    return draw(st.one_of(st.just(small), st.tuples(st.integers(small, 3), st.integers(small, 3))))


@fuzz
@given(st.data())
def test_deform_conv2d(tmp_path_factory, data):
    draw = data.draw
    n, groups, d = draw(st.integers(0, 2)), draw(st.integers(1, 2)), draw(st.integers(1, 2))
    c, o = groups * d * draw(st.integers(1, 3)), groups * draw(st.integers(1, 3))
    kh, kw, h, w = (draw(st.integers(1, 3)) for _ in range(4))
    stride, padding, dilation = draw_size(draw, 1), draw_size(draw, 0), draw_size(draw, 1)

    def out(size, kernel, axis):
        s, p, e = (x if isinstance(x, int) else x[axis] for x in (stride, padding, dilation))
        return min(8, max(1, (size + 2 * p - e * (kernel - 1) - 1) // s + 1)) if s > 0 else 1

    ho, wo = out(h, kh, 0), out(w, kw, 1)
    arguments = [
        draw(tensors((n, c, h, w))),
        draw(tensors((n, 2 * d * kh * kw, ho, wo))),
        draw(tensors((o, c // groups, kh, kw))),
    ]
    bias = draw(st.one_of(st.none(), tensors((o,))))
    mask = draw(st.one_of(st.none(), tensors((n, d * kh * kw, ho, wo))))
    with example((arguments, bias, stride, padding, dilation, mask), tmp_path_factory.getbasetemp()):
        finish(lambda: deform_conv2d(*arguments, bias, stride, padding, dilation, mask))


@fuzz
@given(st.data())
def test_deform_conv2d_levels(tmp_path_factory, data):
    draw = data.draw
    n, c, o = draw(st.integers(0, 2)), draw(st.integers(1, 9)), draw(st.integers(1, 9))
    sizes = draw(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=3))
    inputs = [draw(tensors((n, c, *size))) for size in sizes]
    raw = [draw(tensors((n, 27, *size))) for size in sizes]
    weight, bias = draw(tensors((o, c, 3, 3))), draw(st.one_of(st.none(), tensors((o,))))
    with example((inputs, raw, weight, bias), tmp_path_factory.getbasetemp()):
        finish(lambda: deform_conv2d_levels(inputs, raw, weight, bias))


def head_maps(draw, n: int, k: int) -> list[list[torch.Tensor]]:
    sizes = draw(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=0, max_size=3))
    return [[draw(tensors((n, channels, *size))) for size in sizes] for channels in (k, 4, 1)]


@fuzz
@given(st.data())
def test_quality_weighted_loss(tmp_path_factory, data):
    draw = data.draw
    n, k = draw(st.integers(0, 3)), draw(st.integers(0, 4))
    maps = head_maps(draw, n, k)
    levels = len(maps[0])
    counts = draw(st.lists(st.integers(0, 4), min_size=n, max_size=n))
    boxes = [draw(tensors((g, 4))) for g in counts]
    labels = st.integers(0, max(0, k - 1)) if draw(st.integers(0, 9)) else INTEGERS.filter(lambda v: abs(v) < 2**62)
    classes = [torch.tensor(draw(st.lists(labels, min_size=g, max_size=g)), dtype=torch.int64) for g in counts]
    shape = draw(st.sampled_from([(k, 2), (levels, k, 2)]))
    priors = [draw(tensors(shape)) for _ in range(2)]
    strides = draw(st.lists(st.one_of(st.sampled_from([8, 16, 0.5]), NUMBERS), min_size=levels, max_size=levels))
    options = {
        "feature_filter": draw(st.booleans()),
        "quality_prior": draw(st.booleans()),
        "location_offset": draw(NUMBERS),
        "focal_alpha": draw(NUMBERS),
        "focal_gamma": draw(st.one_of(st.just(2.0), NUMBERS)),
        "reg_weight": draw(NUMBERS),
        "iou_type": draw(st.sampled_from(["giou", "linear_iou", "iou", "x"])),
        "normalizers": draw(st.one_of(st.none(), st.tuples(NUMBERS, NUMBERS))),
    }
    with example((maps, boxes, classes, priors, strides, options), tmp_path_factory.getbasetemp()):
        finish(lambda: quality_weighted_loss(*maps, boxes, classes, *priors, strides, **options))


@fuzz
@given(st.data())
def test_decode_detections(tmp_path_factory, data):
    draw = data.draw
    maps = head_maps(draw, draw(st.integers(0, 3)), draw(st.integers(0, 4)))
    strides = draw(st.lists(st.one_of(st.sampled_from([8, 16]), NUMBERS), min_size=len(maps[0]), max_size=len(maps[0])))
    options = {
        "location_offset": draw(NUMBERS),
        "score_threshold": draw(NUMBERS),
        "topk": draw(INTEGERS),
        "nms_threshold": draw(NUMBERS),
        "max_detections": draw(INTEGERS),
    }
    with example((maps, strides, options), tmp_path_factory.getbasetemp()):
        finish(lambda: decode_detections(*maps, strides, **options))


@pytest.fixture(autouse=True)
def quiet_fuzz():
    """Extreme values are the point; torch's warnings about them are not."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
