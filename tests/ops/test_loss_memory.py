"""The loss makes no tensor over boxes and locations: its memory does not follow the number of boxes."""

from collections.abc import Callable

import pytest
import torch

from benchmarks.common import peak_extra_memory
from fa_detectron.ops import native, quality_weighted_loss, reference

BOXES, STRIDES = 1000, (8, 16, 32, 64, 128)
SIZES = [(800 // s, 1344 // s) for s in STRIDES]
# MiB of one float32 tensor (boxes, locations); published code makes about ten of them.
ONE_TENSOR = BOXES * sum(h * w for h, w in SIZES) * 4 / 2**20


def peak(loss: Callable[..., dict], count: int) -> float:
    """MiB of the losses and their gradients over one image of 800 x 1344 with small boxes."""
    generator = torch.Generator().manual_seed(0)
    maps = [[torch.rand(1, c, h, w, generator=generator).requires_grad_() for h, w in SIZES] for c in (2, 4, 1)]
    centre = torch.rand(count, 2, generator=generator) * torch.tensor([1300.0, 760.0]) + 20
    boxes = torch.cat([centre - 16, centre + 16], dim=1)
    mu, sigma = torch.zeros(5, 2, 2, requires_grad=True), torch.ones(5, 2, 2, requires_grad=True)
    labels = torch.randint(0, 2, (count,), generator=generator)
    leaves = [*maps[0], *maps[1], *maps[2], mu, sigma]

    def step() -> object:
        losses = loss(*maps, [boxes], [labels], mu, sigma, STRIDES)
        return torch.autograd.grad(sum(losses.values()), leaves)

    return peak_extra_memory(step)


def test_natively_nothing_grows_with_the_boxes():
    if not native.loaded():
        pytest.skip("the native operators are not built")
    assert peak(quality_weighted_loss, BOXES) - peak(quality_weighted_loss, 8) < 0.25 * ONE_TENSOR


def test_plain_pytorch_makes_few():
    plain = reference.quality_weighted_loss
    assert peak(plain, BOXES) - peak(plain, 8) < 4 * ONE_TENSOR
