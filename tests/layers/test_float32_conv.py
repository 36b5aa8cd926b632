"""The convolution that autocast leaves in float32."""

import torch
from torch.nn import functional as F

from fa_detectron.layers import Float32Conv2d


def test_autocast_leaves_it_in_float32():
    conv, x = Float32Conv2d(3, 2, 3, padding=1), torch.randn(1, 3, 5, 4, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        found = conv(x)
        found.sum().backward()
    assert found.dtype == conv.weight.grad.dtype == torch.float32
    assert torch.equal(found, F.conv2d(x.float(), conv.weight, conv.bias, padding=1))


def test_without_autocast_it_is_a_plain_conv():
    conv = Float32Conv2d(3, 2, 3).double()
    x = torch.randn(1, 3, 5, 4, dtype=torch.float64)
    assert torch.equal(conv(x), F.conv2d(x, conv.weight, conv.bias))
    assert conv.to("meta")(x.to("meta")).shape == (1, 2, 3, 2)
