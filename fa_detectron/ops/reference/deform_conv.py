"""Modulated deformable convolution in plain PyTorch ("Deformable ConvNets v2", arXiv 1811.11168, eq. 1).

Legend: N images, C input channels, O output channels, T taps of the kernel, D offset groups, P output positions.
"""

import torch
from torch import Tensor

from ..deform_conv_arguments import Size, pair


def _output_size(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def _sample(planes: Tensor, y: Tensor, x: Tensor, height: int, width: int) -> Tensor:
    """Bilinear samples of ``planes`` (N, D, C/D, H*W) at ``y``, ``x`` (N, D, T*P) pixels; zero outside the map.

    A NaN coordinate gives NaN, an infinite one 0. Returns (N, D, C/D, T*P).
    """
    # Beyond one cell outside nothing contributes, so the clamp changes no value and keeps infinity out of the weights.
    y = y.clamp(-2, height + 1)
    x = x.clamp(-2, width + 1)
    top, left = y.floor(), x.floor()
    total = None
    for dy in (0, 1):
        for dx in (0, 1):
            row, column = top + dy, left + dx
            # Not 1 - |y - row|: its derivative would vanish on the pixel itself, where every zero offset lies.
            weight_y = y - top if dy else 1 - (y - top)
            weight_x = x - left if dx else 1 - (x - left)
            weight = weight_y * weight_x  # (N, D, T*P)
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            index = torch.where(inside, row * width + column, 0).long()  # (N, D, T*P)
            corner = planes.gather(3, index.unsqueeze(2).expand(-1, -1, planes.shape[2], -1))
            # where(), not a product: an infinite pixel must not leak out of a corner that is not there.
            corner = torch.where(inside.unsqueeze(2), corner, 0)
            part = corner * weight.unsqueeze(2)
            total = part if total is None else total + part
    return total


def deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = (1, 1),
    padding: Size = (0, 0),
    dilation: Size = (1, 1),
    mask: Tensor | None = None,
) -> Tensor:
    """The oracle of :func:`fa_detectron.ops.deform_conv2d`; same arguments, same result, any float dtype."""
    (stride_h, stride_w), (pad_h, pad_w), (dil_h, dil_w) = pair(stride), pair(padding), pair(dilation)
    n, c, height, width = input.shape
    o, c_per_group, kernel_h, kernel_w = weight.shape
    taps = kernel_h * kernel_w
    d = offset.shape[1] // (2 * taps)
    out_h = _output_size(height, kernel_h, stride_h, pad_h, dil_h)
    out_w = _output_size(width, kernel_w, stride_w, pad_w, dil_w)
    # Half precision cannot hold a coordinate: 0.125 pixel steps beyond 128.
    dtype = torch.promote_types(input.dtype, torch.float32)

    def grid(size: int, step: int) -> Tensor:
        return torch.arange(size, device=input.device, dtype=dtype) * step

    tap_y = grid(kernel_h, dil_h).view(kernel_h, 1).expand(kernel_h, kernel_w).reshape(taps, 1, 1)
    tap_x = grid(kernel_w, dil_w).view(1, kernel_w).expand(kernel_h, kernel_w).reshape(taps, 1, 1)
    shift = offset.to(dtype).view(n, d, taps, 2, out_h, out_w)
    y = shift[:, :, :, 0] + tap_y + (grid(out_h, stride_h) - pad_h).view(out_h, 1)  # (N, D, T, Ho, Wo)
    x = shift[:, :, :, 1] + tap_x + (grid(out_w, stride_w) - pad_w)  # (N, D, T, Ho, Wo)

    planes = input.to(dtype).reshape(n, d, c // d, height * width)
    columns = _sample(planes, y.flatten(2), x.flatten(2), height, width)  # (N, D, C/D, T*P)
    if mask is not None:
        columns = columns * mask.to(dtype).reshape(n, d, 1, taps * out_h * out_w)
    groups = c // c_per_group
    columns = columns.reshape(n, groups, c_per_group * taps, out_h * out_w)
    kernel = weight.to(dtype).reshape(groups, o // groups, c_per_group * taps)
    out = (kernel @ columns).reshape(n, o, out_h, out_w)
    if bias is not None:
        out = out + bias.to(dtype).view(1, o, 1, 1)
    return out.to(input.dtype)


def deform_conv2d_levels(
    inputs: list[Tensor], offset_mask: list[Tensor], weight: Tensor, bias: Tensor | None
) -> list[Tensor]:
    """The oracle of :func:`fa_detectron.ops.deform_conv2d_levels`: 3x3, stride 1, padding 1, mask logits inside."""
    outputs = []
    # Here, not level by level: the gradients of the levels add up before they are rounded to a half type.
    dtype = torch.promote_types(weight.dtype, torch.float32)
    weight, bias = weight.to(dtype), None if bias is None else bias.to(dtype)
    for feature, raw in zip(inputs, offset_mask, strict=True):
        raw = raw.to(torch.promote_types(raw.dtype, torch.float32))
        offset, mask = raw[:, :18], raw[:, 18:].sigmoid()
        outputs.append(deform_conv2d(feature, offset, weight, bias, padding=1, mask=mask))
    return outputs
