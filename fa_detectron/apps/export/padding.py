"""TensorFlow's SAME padding, which timm works out from each image's size, as a constant.

On a canvas that the strides divide it is one, and a program of any size without it takes minutes to be traced.
"""

from torch import nn


def is_same_padding(module: nn.Module) -> bool:
    """Whether this is timm's convolution with SAME padding; timm itself need not be there."""
    return type(module).__name__ == "Conv2dSame" and type(module).__module__.startswith("timm.")


def with_fixed_padding(conv: nn.Conv2d) -> nn.Sequential:
    """Zero padding, then a plain convolution with the very parameters of ``conv``: the same for maps (N, C, H, W)
    whose H and W the stride divides."""
    sides = []
    for axis in (1, 0):  # x, then y
        total = max((conv.kernel_size[axis] - 1) * conv.dilation[axis] + 1 - conv.stride[axis], 0)
        sides += [total // 2, total - total // 2]
    plain = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        conv.stride,
        dilation=conv.dilation,
        groups=conv.groups,
        bias=False,
        device="meta",
    )
    plain.weight, plain.bias = conv.weight, conv.bias
    return nn.Sequential(nn.ZeroPad2d(sides), plain)
