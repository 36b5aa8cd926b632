"""Modulated deformable convolution (DCNv2, arXiv 1811.11168): torchvision's meaning, all levels of a head at once."""

from torch import Tensor, nn

from . import reference


def deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = (1, 1),
    padding: int | tuple[int, int] = (0, 0),
    dilation: int | tuple[int, int] = (1, 1),
    mask: Tensor | None = None,
) -> Tensor:
    """As ``torchvision.ops.deform_conv2d``: input (N, C, H, W), offset (N, 2*D*T, Ho, Wo) as (dy, dx) pairs."""
    return reference.deform_conv2d(input, offset, weight, bias, stride, padding, dilation, mask)


def deform_conv2d_levels(
    inputs: list[Tensor], offset_mask: list[Tensor], weight: Tensor, bias: Tensor | None
) -> list[Tensor]:
    """The De-Subnet's 3x3 deformable conv over all levels; offset_mask (N, 27, H, W): 18 offsets, 9 mask logits."""
    return reference.deform_conv2d_levels(inputs, offset_mask, weight, bias)


class DeformConv2d(nn.Conv2d):
    """:func:`deform_conv2d` with its own weight and bias."""

    def forward(self, input: Tensor, offset: Tensor, mask: Tensor | None = None) -> Tensor:
        return deform_conv2d(
            input, offset, self.weight, self.bias, self.stride, self.padding, self.dilation, mask
        )
