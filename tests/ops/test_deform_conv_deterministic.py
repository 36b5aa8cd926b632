"""deform_conv2d under torch.use_deterministic_algorithms(True)."""

from collections.abc import Iterator

import pytest
import torch
import torchvision
from torch import Tensor

from fa_detectron.ops import deform_conv2d, deform_conv2d_levels
from tests.ops.deform_loops import Case, make_case
from tests.ops.test_deform_conv import KINDS, gradients
from tests.ops.test_deform_conv_levels import make_levels


@pytest.fixture(autouse=True)
def deterministic_mode() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def assert_as_torchvision(found: list[Tensor], case: Case) -> None:
    _, wanted = gradients(torchvision.ops.deform_conv2d, case.to(torch.float64))
    for mine, theirs in zip(found, wanted, strict=True):
        assert_close(mine, theirs)


def assert_close(mine: Tensor, theirs: Tensor) -> None:
    """``theirs`` is in float64; relative to its largest entry."""
    tolerance = {torch.float64: 1e-9, torch.float32: 1e-4}.get(mine.dtype, 4 * torch.finfo(mine.dtype).eps)
    torch.testing.assert_close(mine.double(), theirs, rtol=tolerance, atol=tolerance * theirs.abs().max().item())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["fast", "groups", "offset groups across channel blocks", "no mask"])
def test_the_same_gradients_and_the_same_bits_again(kind: str, dtype: torch.dtype) -> None:
    case = make_case(**KINDS[kind]).to(dtype)
    _, found = gradients(deform_conv2d, case)
    _, again = gradients(deform_conv2d, case)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(found, again, strict=True))
    assert_as_torchvision(found, case)


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 3e38])
def test_no_overflow_is_hidden(value: float) -> None:
    case = make_case(c=40, dtype=torch.float32).leaves()
    output = deform_conv2d(*case.arguments())
    upstream = torch.zeros_like(output)
    upstream[0, :, 2, 2] = value
    assert not torch.autograd.grad(output, case.input, upstream)[0].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_no_sum_is_too_large(dtype: torch.dtype) -> None:
    # All taps at one pixel, all addends of one sign: the largest sum that the sizes allow.
    case = make_case(n=1, c=8, o=16, size=(12, 12), spread=0.0).to(dtype)
    here = torch.arange(12, dtype=dtype)
    for tap in range(9):
        case.offset[:, 2 * tap] = 5 - (here - 1 + tap // 3)[:, None]
        case.offset[:, 2 * tap + 1] = 7 - (here - 1 + tap % 3)
    case.weight, case.mask = case.weight.abs() + 1, case.mask * 0 + 1000  # the formula knows no bound of 1
    leaves = case.leaves()
    found = torch.autograd.grad(deform_conv2d(*leaves.arguments()).sum(), leaves.input)[0]
    assert_close(found[0, :, 5, 7], 1000 * 144 * case.weight.double().sum((0, 2, 3)))
    found[0, :, 5, 7] = 0
    assert not found.any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("factor", [1e-30, 1e30])
def test_no_addend_is_too_small(factor: float, dtype: torch.dtype) -> None:
    case = make_case(c=8).to(dtype)
    leaves = case.leaves()
    output = deform_conv2d(*leaves.arguments())
    upstream = torch.linspace(-1, 1, output.numel(), dtype=dtype).reshape(output.shape)
    found = torch.autograd.grad(output, leaves.input, upstream * factor)[0]
    _, wanted = gradients(torchvision.ops.deform_conv2d, case.to(torch.float64))
    assert_close(found / factor, wanted[0])


def test_every_level_has_its_own_scale() -> None:
    features, raw, weight, bias = make_levels(dtype=torch.float32)

    def backward() -> list[Tensor]:
        outputs = deform_conv2d_levels(features, raw, weight, bias)
        upstream = [torch.full_like(out, 1e-12 ** (level % 2)) for level, out in enumerate(outputs)]
        return list(torch.autograd.grad(outputs, features, upstream))

    found, again = backward(), backward()
    torch.use_deterministic_algorithms(False)
    for mine, same, usual in zip(found, again, backward(), strict=True):
        assert torch.equal(mine, same)
        assert_close(mine, usual.double())
