"""deform_conv2d as its callers see it; runs on the native operator or, with FA_NO_NATIVE=1, on the fallback."""

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fa_detectron.ops import DeformConv2d, deform_conv2d
from tests.ops.deform_loops import NONDETERMINISM, Case, deform_conv2d_by_loops, make_case

KINDS = {
    "fast": {},
    "many channels": {"c": 72, "o": 40, "size": (13, 21)},
    "stride and dilation": {"stride": (2, 1), "padding": (2, 0), "dilation": (1, 2), "size": (9, 8)},
    "groups": {"c": 6, "o": 9, "groups": 3, "offset_groups": 2},
    "offset groups across channel blocks": {"c": 120, "o": 4, "offset_groups": 3, "groups": 2},
    "depthwise": {"c": 5, "o": 10, "groups": 5},
    "one tap": {"kernel": (1, 1), "padding": (0, 0)},
    "more taps than a block": {"kernel": (4, 5), "padding": (2, 2), "c": 3},
    "no mask": {"masked": False},
    "no bias": {"biased": False},
    "one pixel": {"size": (1, 1), "n": 1},
    "several tiles": {"size": (30, 31), "c": 3, "n": 1},
    "far offsets": {"spread": 100.0},
}


def gradients(function, case: Case) -> tuple[Tensor, list[Tensor]]:
    leaves = case.leaves()
    output = function(*leaves.arguments())
    upstream = torch.linspace(-1, 1, output.numel(), dtype=output.dtype, device=output.device).reshape(output.shape)
    return output.detach(), list(torch.autograd.grad(output, leaves.tensors(), upstream))


def assert_as_torchvision(case: Case, rtol: float, atol: float) -> None:
    output, found = gradients(deform_conv2d, case)
    expected, wanted = gradients(torchvision.ops.deform_conv2d, case)
    torch.testing.assert_close(output, expected, rtol=rtol, atol=atol)
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=rtol, atol=atol * max(1.0, theirs.abs().max().item()))


@pytest.mark.parametrize("kind", KINDS)
def test_values_and_gradients_are_torchvisions(kind: str) -> None:
    assert_as_torchvision(make_case(**KINDS[kind]), rtol=1e-9, atol=1e-10)
    assert_as_torchvision(make_case(**KINDS[kind], dtype=torch.float32), rtol=1e-4, atol=2e-4)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_shape(data: st.DataObject) -> None:
    draw = data.draw
    pair = st.tuples(st.integers(1, 3), st.integers(1, 3))
    groups, offset_groups, unit = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 12))
    case = make_case(
        n=draw(st.integers(0, 3)),
        c=groups * offset_groups * unit,
        o=groups * draw(st.integers(1, 20)),
        size=draw(st.tuples(st.integers(5, 14), st.integers(5, 14))),
        kernel=draw(pair),
        stride=draw(pair),
        dilation=draw(pair.map(lambda value: (min(value[0], 2), min(value[1], 2)))),
        padding=draw(st.tuples(st.integers(0, 2), st.integers(0, 2))),
        groups=groups,
        offset_groups=offset_groups,
        masked=draw(st.booleans()),
        biased=draw(st.booleans()),
        seed=draw(st.integers(0, 1000)),
    )
    if case.input.shape[0] == 0:  # torchvision refuses it
        output, found = gradients(deform_conv2d, case)
        assert output.numel() == 0 and all(not g.any() for g in found)
        return
    assert_as_torchvision(case, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("kind", ["fast", "groups", "stride and dilation"])
def test_values_are_those_of_loops(kind: str) -> None:
    case = make_case(**{"n": 1, "size": (4, 5)} | KINDS[kind])
    torch.testing.assert_close(deform_conv2d(*case.arguments()), deform_conv2d_by_loops(case))


@pytest.mark.parametrize("kind", ["fast", "groups", "no mask"])
def test_gradcheck(kind: str) -> None:
    case = make_case(**KINDS[kind] | {"n": 1, "size": (3, 4), "seed": 3}).leaves()
    names = [name for name, value in case.__dict__.items() if isinstance(value, Tensor)]

    def function(*tensors: Tensor) -> Tensor:
        return deform_conv2d(*(case.__dict__ | dict(zip(names, tensors, strict=True))).values())

    assert torch.autograd.gradcheck(function, case.tensors(), fast_mode=False, nondet_tol=NONDETERMINISM)


def test_zero_offsets_are_a_plain_convolution() -> None:
    case = make_case(masked=False, spread=0.0)
    plain = torch.nn.functional.conv2d(case.input, case.weight, case.bias, padding=1)
    torch.testing.assert_close(deform_conv2d(*case.arguments()), plain)


def test_the_offset_gradient_at_exactly_minus_one_is_not_zero() -> None:
    # With padding 1 and zero offsets the first row samples at y = -1: value 0, derivative by y not 0.
    assert_as_torchvision(make_case(spread=0.0), rtol=1e-9, atol=1e-10)
    case = make_case(spread=0.0)
    _, found = gradients(deform_conv2d, case)
    assert found[1][:, 0, 0, 1:].abs().min() > 0


@pytest.mark.parametrize("value", [float("inf"), -float("inf"), 1e30, -1e30, 2.0**31, -(2.0**31)])
@pytest.mark.parametrize("axis", [0, 1])
def test_what_lies_outside_is_zero(value: float, axis: int) -> None:
    case = make_case(c=40)
    case.offset[:, axis::2] = value
    output, found = gradients(deform_conv2d, case)
    assert torch.equal(output, case.bias.view(1, -1, 1, 1).expand_as(output))
    for gradient in (*found[:3], found[4]):  # all but the bias's
        assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("axis", [0, 1])
def test_a_nan_coordinate_gives_nan_at_its_position_alone(axis: int) -> None:
    case = make_case(n=1)
    case.offset[0, 4 + axis, 2, 3] = float("nan")
    case.offset[0, 4 + 1 - axis, 2, 3] = 1e9  # far outside on the other axis, still NaN
    is_nan = deform_conv2d(*case.arguments()).isnan()
    assert is_nan[:, :, 2, 3].all() and is_nan.sum() == is_nan.shape[1]


def test_an_infinite_pixel_stays_where_it_is() -> None:
    # Corners outside the map must not be stood in for by a clamped pixel: 0 * inf would be NaN.
    case = make_case(n=1, size=(5, 5), masked=False)
    case.input[0, :, 0, 0] = float("inf")
    case.offset[:] = 0
    case.offset[:, 0::2] = -2.5
    case.offset[:, :, 3:] = 0
    output = deform_conv2d(*case.arguments())
    expected = torchvision.ops.deform_conv2d(*case.arguments())
    assert torch.equal(output.isfinite(), expected.isfinite())
    assert output[:, :, 3:].isfinite().all()


def test_nothing_outside_the_map_is_read() -> None:
    case = make_case(n=1, spread=5.0)
    surrounded = torch.full((3, *case.input.shape[1:]), float("nan"), dtype=torch.float64)
    surrounded[1] = case.input[0]
    expected = deform_conv2d(*case.arguments())
    case.input = surrounded[1:2]
    assert torch.equal(deform_conv2d(*case.arguments()), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("points", ["half", "float32"])
def test_half_precision_sums_in_float32(dtype: torch.dtype, points: str) -> None:
    case = make_case(c=40, dtype=torch.float32).to(dtype)
    if points == "float32":
        case.offset, case.mask = case.offset.float() * 1.01, case.mask.float()
    output, found = gradients(deform_conv2d, case)
    expected, wanted = gradients(deform_conv2d, case.to(torch.float32))
    assert output.dtype == dtype
    eps = torch.finfo(dtype).eps
    # On CUDA the samples are rounded to the half type before they are multiplied.
    torch.testing.assert_close(output.float(), expected, rtol=eps, atol=eps * expected.std().item())
    for mine, theirs, argument in zip(found, wanted, case.tensors(), strict=True):
        assert mine.dtype == argument.dtype
        # The incoming gradient is rounded to the half type, too.
        torch.testing.assert_close(mine.float(), theirs, rtol=4 * eps, atol=4 * eps * theirs.abs().max().item())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_keeps_coordinates_in_float32(dtype: torch.dtype) -> None:
    case = make_case(c=40, size=(3, 300), dtype=torch.float32).leaves()
    with torch.autocast("cpu", dtype):
        output = deform_conv2d(*case.arguments())
    assert output.dtype == dtype
    # The same with the features rounded and the coordinates left alone.
    rounded = make_case(c=40, size=(3, 300), dtype=torch.float32)
    for name in ("input", "weight", "bias"):
        setattr(rounded, name, getattr(rounded, name).to(dtype).float())
    expected = deform_conv2d(*rounded.arguments())
    eps = torch.finfo(dtype).eps
    # On CUDA the samples are rounded to the half type before they are multiplied.
    torch.testing.assert_close(output.float(), expected, rtol=eps, atol=eps * expected.std().item())
    output.float().sum().backward()
    assert all(tensor.grad.dtype == torch.float32 for tensor in case.tensors())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weight_gradients_lose_no_small_addend(dtype: torch.dtype) -> None:
    # On CUDA a sum over many chunks: each adds less than half a step of what the first one leaves.
    case = make_case(n=1, c=100, o=1, size=(30, 30), padding=(1, 1), spread=0.0, masked=False, dtype=torch.float32)
    case.input.fill_(1)
    leaves = case.to(dtype).leaves()
    upstream = torch.full((1, 1, 30, 30), 0.1, dtype=dtype)
    upstream[0, 0, 0, 0] = 1 / torch.finfo(dtype).eps
    found = torch.autograd.grad(deform_conv2d(*leaves.arguments()), leaves.weight, upstream)[0]
    torch.testing.assert_close(found[0, :, 1, 1], upstream.double().sum().to(dtype).expand(100), rtol=4e-3, atol=0)


def test_only_the_gradients_asked_for() -> None:
    case = make_case()
    for name in ("input", "offset", "weight", "bias", "mask"):
        leaves = make_case()
        getattr(leaves, name).requires_grad_()
        output = deform_conv2d(*leaves.arguments())
        upstream = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).reshape(output.shape)
        output.backward(upstream)
        _, wanted = gradients(deform_conv2d, case)
        order = ["input", "offset", "weight", "bias", "mask"]
        torch.testing.assert_close(getattr(leaves, name).grad, wanted[order.index(name)])
        assert all(getattr(leaves, other).grad is None for other in order if other != name)


def test_module() -> None:
    module = DeformConv2d(4, 6, 3, padding=1).double()
    case = make_case(masked=True)
    wanted = torchvision.ops.deform_conv2d(
        case.input, case.offset, module.weight, module.bias, padding=1, mask=case.mask
    )
    torch.testing.assert_close(module(case.input, case.offset, case.mask), wanted)
    assert sorted(module.state_dict()) == ["bias", "weight"]
