"""deform_conv2d_levels: all levels of the De-Subnet's convolution in one call, from raw 27-channel maps."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fa_detectron.ops import deform_conv2d, deform_conv2d_levels, reference
from tests.ops.deform_loops import NONDETERMINISM


def make_levels(
    n: int = 2,
    c: int = 36,
    o: int = 20,
    sizes: tuple = ((9, 11), (5, 6), (2, 3), (1, 1)),
    dtype: torch.dtype = torch.float64,
) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
    random = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random, dtype=torch.float64).to(dtype).requires_grad_()

    features = [normal(n, c, *size) for size in sizes]
    raw = [normal(n, 27, *size) for size in sizes]
    return features, raw, normal(o, c, 3, 3), normal(o)


def run(function, features, raw, weight, bias):
    outputs = function(features, raw, weight, bias)
    upstream = [
        torch.linspace(-1, 1, out.numel(), dtype=out.dtype, device=out.device).reshape(out.shape) for out in outputs
    ]
    return list(outputs), list(torch.autograd.grad(outputs, [*features, *raw, weight, bias], upstream))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_values_and_gradients_are_the_references(dtype: torch.dtype) -> None:
    outputs, found = run(deform_conv2d_levels, *make_levels(dtype=dtype))
    expected, wanted = run(reference.deform_conv2d_levels, *make_levels(dtype=dtype))
    for mine, theirs in zip(outputs + found, expected + wanted, strict=True):
        scale = theirs.abs().max().item()
        tolerance = 1e-10 if dtype == torch.float64 else 1e-4
        torch.testing.assert_close(mine, theirs, rtol=tolerance, atol=tolerance * scale)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    n=st.integers(1, 3),
    c=st.integers(1, 70),
    o=st.integers(1, 40),
    sizes=st.lists(st.tuples(st.integers(1, 14), st.integers(1, 14)), min_size=1, max_size=4),
)
def test_any_shape(n: int, c: int, o: int, sizes: list[tuple[int, int]]) -> None:
    levels = make_levels(n, c, o, tuple(sizes))
    outputs, found = run(deform_conv2d_levels, *levels)
    expected, wanted = run(reference.deform_conv2d_levels, *levels)
    for mine, theirs in zip(outputs + found, expected + wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-10 * max(1.0, theirs.abs().max().item()))


def test_a_level_is_one_deform_conv() -> None:
    features, raw, weight, bias = make_levels()
    outputs = deform_conv2d_levels(features, raw, weight, bias)
    for feature, points, output in zip(features, raw, outputs, strict=True):
        single = deform_conv2d(feature, points[:, :18], weight, bias, padding=1, mask=points[:, 18:].sigmoid())
        torch.testing.assert_close(output, single)


def test_gradcheck() -> None:
    features, raw, weight, bias = make_levels(n=1, c=2, o=2, sizes=((3, 3), (1, 2)))

    def function(*tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(deform_conv2d_levels(list(tensors[:2]), list(tensors[2:4]), tensors[4], tensors[5]))

    assert torch.autograd.gradcheck(function, (*features, *raw, weight, bias), nondet_tol=NONDETERMINISM)


def test_half_precision_bias_gradients_are_rounded_once() -> None:
    features, raw, weight, bias = make_levels(n=1, c=1, o=1, sizes=((3, 683), (32, 64)), dtype=torch.float16)
    outputs = deform_conv2d_levels(features, raw, weight, bias)
    upstream = [torch.ones_like(outputs[0]), -torch.ones_like(outputs[1])]
    assert torch.autograd.grad(outputs, bias, upstream)[0].item() == 2049 - 2048  # 2049 is no float16


def test_a_level_whose_output_is_unused_gets_zeros() -> None:
    features, raw, weight, bias = make_levels()
    deform_conv2d_levels(features, raw, weight, bias)[0].sum().backward()
    assert features[0].grad.abs().sum() > 0 and raw[0].grad.abs().sum() > 0
    for tensor in (*features[1:], *raw[1:]):
        assert tensor.grad is None or not tensor.grad.any()


def test_some_levels_without_gradient() -> None:
    features, raw, weight, bias = make_levels()
    wanted = run(deform_conv2d_levels, features, raw, weight, bias)[1]
    features[1].requires_grad_(False)
    raw[0].requires_grad_(False)
    outputs = deform_conv2d_levels(features, raw, weight, bias)
    upstream = [torch.linspace(-1, 1, out.numel(), dtype=out.dtype).reshape(out.shape) for out in outputs]
    torch.autograd.backward(outputs, upstream)
    assert features[1].grad is None and raw[0].grad is None
    torch.testing.assert_close(features[0].grad, wanted[0])
    torch.testing.assert_close(raw[1].grad, wanted[5])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_keeps_offsets_in_float32(dtype: torch.dtype) -> None:
    features, raw, weight, bias = make_levels(sizes=((3, 300), (2, 3)), dtype=torch.float32)
    with torch.autocast("cpu", dtype):
        outputs = deform_conv2d_levels(features, raw, weight, bias)
        of_half_offsets = deform_conv2d_levels(features, [points.to(dtype) for points in raw], weight, bias)
    # The same with the features rounded and the offsets left alone.
    rounded = [x.detach().to(dtype).float() for x in features], [x.detach() for x in raw]
    expected = deform_conv2d_levels(*rounded, *(x.detach().to(dtype).float() for x in (weight, bias)))
    eps = torch.finfo(dtype).eps
    for output, wanted in zip(outputs, expected, strict=True):
        assert output.dtype == dtype  # the CUDA kernels round the samples, too
        torch.testing.assert_close(output.float(), wanted, rtol=eps, atol=2 * eps * wanted.std().item())
    assert all(output.dtype == dtype for output in of_half_offsets)
    sum(output.float().sum() for output in outputs).backward()
    assert all(x.grad.dtype == torch.float32 for x in (*features, *raw, weight, bias))


def test_batch_of_no_image() -> None:
    features, raw, weight, bias = make_levels(n=0)
    outputs, found = run(deform_conv2d_levels, features, raw, weight, bias)
    assert [tuple(out.shape) for out in outputs] == [(0, 20, *feature.shape[2:]) for feature in features]
    assert not found[-1].any() and not found[-2].any()
