"""The De-Subnet's block by torchvision's operator, and the layers that differ little from PyTorch's."""

import torch
import torchvision
from torch import nn

from fa_detectron.layers import DeformBlock, GroupNorm, Scale


def test_the_de_subnets_block_is_a_modulated_deformable_conv_of_its_own_offsets():
    torch.manual_seed(0)
    block = DeformBlock(6).double()
    nn.init.normal_(block.offset.weight)
    features = [torch.randn(2, 6, *size, dtype=torch.float64) for size in ((5, 7), (2, 3))]
    for found, feature in zip(block(features), features, strict=True):
        raw = block.offset(feature)  # (N, 27, H, W): 18 offsets, 9 mask logits
        conv = feature, raw[:, :18], block.conv.weight, block.conv.bias
        torch.testing.assert_close(found, torchvision.ops.deform_conv2d(*conv, padding=1, mask=raw[:, 18:].sigmoid()))


def test_group_norm_is_pytorchs_and_takes_a_group_of_one_value():
    torch.manual_seed(0)
    norm = GroupNorm(2, 4)
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    x = torch.randn(2, 4, 3, 3)
    torch.testing.assert_close(norm(x), nn.functional.group_norm(x, 2, norm.weight, norm.bias))
    alone = GroupNorm(4, 4)
    nn.init.normal_(alone.bias)
    # The rounding of x - mean is divided by sqrt(eps), the deviation being 0.
    torch.testing.assert_close(alone(x[:1, :, :1, :1]).flatten(), alone.bias, rtol=0, atol=1e-3)


def test_scale_learns_one_number():
    scale = Scale(2.0)
    x = torch.randn(3, 4)
    scale(x).sum().backward()
    assert torch.equal(scale(x), 2 * x)
    torch.testing.assert_close(scale.scale.grad, x.sum().view(1))
