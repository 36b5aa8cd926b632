"""Modulated deformable convolution (DCNv2, arXiv 1811.11168): torchvision's meaning, all levels of a head at once.

Legend: N images, C input channels, O outputs, T taps of the kernel, D offset groups.
"""

import torch
from torch import Tensor, nn
from torch._jit_internal import BroadcastingList2  # a number or two, as torch.jit.script knows them
from torch.overrides import handle_torch_function, has_torch_function

from . import deform_conv_kernels  # noqa: F401 - registers the operators
from .deform_conv_arguments import Size, pair
from .library import prepare


def deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: BroadcastingList2[int] = 1,
    padding: BroadcastingList2[int] = 0,
    dilation: BroadcastingList2[int] = 1,
    mask: Tensor | None = None,
) -> Tensor:
    """As ``torchvision.ops.deform_conv2d``, fused: no column buffer of the whole map.

    Gradients are deterministic on the CPU. On CUDA the input's is summed by atomic additions, unless
    ``torch.use_deterministic_algorithms(True)``: then in integers, slower, the same bits in any order, and NaN around
    a gradient that is not finite. Products there are cuBLAS's, by ``torch.backends.cuda.matmul``'s settings.

    Args:
        input: (N, C, H, W) float32, float64, float16 or bfloat16; sums are in float32 for the half types (on CUDA of
            samples rounded to the half type).
        offset: (N, 2*D*T, Ho, Wo) pixels, (dy, dx) pairs of the taps in row-major order; of the input's dtype, or
            float32 beside half-precision input, which cannot hold a coordinate.
        weight: (O, C / groups, kh, kw), as the input's dtype.
        bias: (O,) or None.
        stride, padding, dilation: a number, or one each for height and width.
        mask: (N, D*T, Ho, Wo), dtype as the offset's, or None: every sample counts in full.

    Returns (N, O, Ho, Wo). Samples outside the map, infinite coordinates too, are 0; a NaN coordinate gives NaN.

    Raises ValueError where shapes, dtypes or devices do not fit each other.
    """
    if has_torch_function((input, offset, weight, bias, mask)):  # torch.fx: this function becomes a leaf
        return handle_torch_function(
            deform_conv2d,
            (input, offset, weight, bias, mask),
            input,
            offset,
            weight,
            bias=bias,
            stride=stride,
            padding=padding,
            dilation=dilation,
            mask=mask,
        )
    if not torch.jit.is_scripting():
        prepare(input)
        stride, padding, dilation = pair(stride), pair(padding), pair(dilation)
    return torch.ops.fa_detectron.deform_conv2d(input, weight, offset, mask, bias, stride, padding, dilation)


def deform_conv2d_levels(
    inputs: list[Tensor], offset_mask: list[Tensor], weight: Tensor, bias: Tensor | None
) -> list[Tensor]:
    """The De-Subnet's 3x3 deformable conv (stride 1, padding 1) over all levels in one call.

    Args:
        inputs: one (N, C, H, W) tensor per level.
        offset_mask: one (N, 27, H, W) tensor per level, as a plain conv gives it: 18 offsets in pixels
            ((dy, dx) pairs of the taps in row-major order), then 9 mask logits, whose sigmoid is taken inside.
        weight: (O, C, 3, 3).
        bias: (O,) or None.

    Returns one (N, O, H, W) tensor per level. Dtypes and errors as for :func:`deform_conv2d`.
    """
    prepare(weight)
    return torch.ops.fa_detectron.deform_conv2d_levels(list(inputs), list(offset_mask), weight, bias)


class DeformConv2d(nn.Conv2d):
    """:func:`deform_conv2d` with its own weight and bias; arguments and parameter names as ``nn.Conv2d``'s."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        # No padding mode or name: a deformable conv samples zeros outside, nothing else.
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias)

    def forward(self, input: Tensor, offset: Tensor, mask: Tensor | None = None) -> Tensor:
        """input (N, C, H, W), offset (N, 2*D*T, Ho, Wo), mask (N, D*T, Ho, Wo) -> (N, O, Ho, Wo)."""
        return deform_conv2d(input, offset, self.weight, self.bias, self.stride, self.padding, self.dilation, mask)
