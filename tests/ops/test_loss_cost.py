"""The loss keeps nothing over all pairs of boxes and locations. Its time: benchmarks/quality_loss.py."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from benchmarks.common import peak_extra_memory
from fa_detectron.ops import native, quality_weighted_loss, reference

BOXES, STRIDES = 3000, (8, 16, 32, 64, 128)
SIZES = [(800 // s, 1344 // s) for s in STRIDES]
# MiB of one float32 tensor (boxes, locations); published code makes about ten of them.
ONE_TENSOR = BOXES * sum(h * w for h, w in SIZES) * 4 / 2**20

native_only = pytest.mark.skipif(not native.loaded(), reason="the native operators are not built")


def make_step(loss: Callable[..., dict], count: int) -> Callable[[], tuple[Tensor, ...]]:
    """The losses and their gradients over one image of 800 x 1344 with ``count`` boxes of 32 pixels."""
    generator = torch.Generator().manual_seed(0)
    maps = [[torch.rand(1, c, h, w, generator=generator).requires_grad_() for h, w in SIZES] for c in (2, 4, 1)]
    corner = torch.rand(count, 2, generator=generator) * torch.tensor([1344.0 - 32, 800.0 - 32])
    boxes = torch.cat([corner, corner + 32], dim=1)
    mu, sigma = torch.zeros(5, 2, 2, requires_grad=True), torch.ones(5, 2, 2, requires_grad=True)
    labels = torch.randint(0, 2, (count,), generator=generator)
    leaves = [*maps[0], *maps[1], *maps[2], mu, sigma]

    def step() -> tuple[Tensor, ...]:
        losses = loss(*maps, [boxes], [labels], mu, sigma, STRIDES)
        return torch.autograd.grad(sum(losses.values()), leaves)

    return step


def extra_memory(loss: Callable[..., dict]) -> float:
    """MiB that 3000 small boxes take more than 64, which is twice what plain PyTorch looks at together."""
    return peak_extra_memory(make_step(loss, BOXES)) - peak_extra_memory(make_step(loss, 64))


@native_only
def test_natively_no_memory_grows_with_the_boxes() -> None:
    assert extra_memory(quality_weighted_loss) < 0.02 * ONE_TENSOR


def test_plain_pytorch_makes_no_tensor_over_pairs_either() -> None:
    """It keeps some twenty tensors over the locations inside boxes, here 21 a box: 0.2 to 0.5 of that one tensor."""
    assert extra_memory(reference.quality_weighted_loss) < 0.75 * ONE_TENSOR
