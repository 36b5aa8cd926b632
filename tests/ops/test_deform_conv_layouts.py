"""deform_conv2d on tensors of any strides and alignment."""

import pytest
import torch
from torch import Tensor

from fa_detectron.ops import deform_conv2d
from tests.ops.deform_loops import make_case
from tests.ops.test_deform_conv import gradients


def strided(tensor: Tensor) -> Tensor:
    return tensor.new_empty(*tensor.shape[:3], 2 * tensor.shape[3])[..., ::2].copy_(tensor)


def channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)


def transposed(tensor: Tensor) -> Tensor:
    return tensor.transpose(2, 3).contiguous().transpose(2, 3)


def misaligned(tensor: Tensor) -> Tensor:
    """As channels_last, from an address that is no multiple of 16 bytes on."""
    n, c, h, w = tensor.shape
    return tensor.new_empty(tensor.numel() + 1)[1:].view(n, h, w, c).permute(0, 3, 1, 2).copy_(tensor)


def spaced(tensor: Tensor) -> Tensor:
    """Every image as channels_last, one element between two."""
    n, c, h, w = tensor.shape
    return tensor.new_empty(n, h * w * c + 1)[:, :-1].unflatten(1, (h, w, c)).permute(0, 3, 1, 2).copy_(tensor)


LAYOUTS = [channels_last, strided, transposed, misaligned, spaced]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout) -> None:
    case = make_case(c=36)
    expected, wanted = gradients(deform_conv2d, case)

    def laid_out(input, offset, weight, bias, stride, padding, dilation, mask):
        input, offset, weight, mask = map(layout, (input, offset, weight, mask))
        bias = torch.stack([bias, bias + 77], dim=1)[:, 0]  # every second value in memory
        return deform_conv2d(input, offset, weight, bias, stride, padding, dilation, mask)

    output, found = gradients(laid_out, case)
    assert torch.equal(output, expected)
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def test_an_expanded_batch_is_read_with_its_stride() -> None:
    case = make_case(n=1)
    once = deform_conv2d(*case.arguments())
    for name in ("input", "offset", "mask"):
        setattr(case, name, getattr(case, name).expand(3, -1, -1, -1))
    assert torch.equal(deform_conv2d(*case.arguments()), once.expand(3, -1, -1, -1))
