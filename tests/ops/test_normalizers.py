"""The normalisers ahead of the forward pass are those of the loss itself."""

import pytest
import torch

from fa_detectron.ops import quality_normalizers
from fa_detectron.ops.reference.grid import level_locations

SIZES, STRIDES = [(50, 81), (64, 40)], (8, 16, 32)  # (height, width) of two images
BOXES = [torch.tensor([[0.0, 0, 81, 50], [7.5, 8, 24, 31.5], [3, 3, 5, 5]]), torch.tensor([[10.0, 20, 40, 64]])]
CLASSES = [torch.tensor([0, 1, 1]), torch.tensor([2])]


def background(mu, sigma, offset) -> torch.Tensor:
    """Method, section 3, pair by pair over one canvas that 32 divides."""
    total = torch.zeros((), dtype=torch.float64)
    for boxes, classes in zip(BOXES, CLASSES):
        for box, c in zip(boxes.double(), classes):
            for level, stride in enumerate(STRIDES):
                place = level_locations(64 // stride, 96 // stride, stride, offset, box)  # (A, 2)
                inside = ((place > box[:2]) & (place < box[2:])).all(1)
                u = (place - (box[:2] + box[2:]) / 2) / stride
                m, s = (x[c] if x.dim() == 2 else x[level, c] for x in (mu, sigma))
                total += torch.exp(-((u - m) ** 2) / (2 * s**2)).prod(1)[inside].sum()
    return total


@pytest.mark.parametrize("shape", [(3, 2), (3, 3, 2)])
@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_they_are_the_sums_over_all_pairs(shape, offset):
    mu, sigma = torch.randn(shape, dtype=torch.float64) / 3, torch.rand(shape, dtype=torch.float64) + 0.5
    found = quality_normalizers(BOXES, CLASSES, mu, sigma, STRIDES, SIZES, location_offset=offset, parts=2)
    assert found[0] == 2 and found[1].dtype == torch.float64
    torch.testing.assert_close(found[1], background(mu, sigma, offset) / 2, rtol=1e-12, atol=0)


def test_without_a_box_they_are_one_batchs_smallest():
    none = [torch.zeros(0, 4)], [torch.zeros(0, dtype=torch.int64)]
    found = quality_normalizers(*none, torch.zeros(3, 2), torch.ones(3, 2), STRIDES, SIZES[:1], parts=4)
    assert [x.item() for x in found] == [0.25, 0.25] and not found[1].requires_grad
