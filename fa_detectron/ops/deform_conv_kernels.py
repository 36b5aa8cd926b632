"""What the deformable convolution registers beside its native kernels: default kernels, fake kernels, autocast."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import reference
from .deform_conv_arguments import check_gradient, level_shapes, output_shape
from .library import cast, register_autocast, register_default, register_native


def _default(input, weight, offset, mask, bias, stride, padding, dilation):
    output_shape(input, weight, offset, mask, bias, stride, padding, dilation)
    return reference.deform_conv2d(input, offset, weight, bias, stride, padding, dilation, mask)


def _default_levels(inputs, offset_masks, weight, bias):
    level_shapes(inputs, offset_masks, weight, bias)
    return reference.deform_conv2d_levels(inputs, offset_masks, weight, bias)


# Offsets and masks stay float32: half precision cannot hold a coordinate (steps of 0.125 pixels beyond 128).
def _autocast(dtype: torch.dtype, arguments: Sequence[Any]) -> list[Any]:
    input, weight, offset, mask, bias, *sizes = arguments
    points = cast(offset, torch.float32), cast(mask, torch.float32)
    return [cast(input, dtype), cast(weight, dtype), *points, cast(bias, dtype), *sizes]


def _autocast_levels(dtype: torch.dtype, arguments: Sequence[Any]) -> list[Any]:
    inputs, offset_masks, weight, bias = arguments
    return [cast(inputs, dtype), cast(offset_masks, torch.float32), cast(weight, dtype), cast(bias, dtype)]


def _new(input: Tensor, shape: tuple[int, ...]) -> Tensor:
    """As the native kernels allocate: channels_last where the input is that and not contiguous."""
    last = not input.is_contiguous() and input.is_contiguous(memory_format=torch.channels_last)
    return input.new_empty(shape).to(memory_format=torch.channels_last if last else torch.contiguous_format)


def _wanted(needed: bool, like: Tensor, keep_layout: bool = False) -> Tensor:
    """The gradient of ``like``, without elements where it is not needed."""
    if not needed:
        return like.new_empty(0)
    return _new(like, tuple(like.shape)) if keep_layout else like.new_empty(like.shape)


def _fake(input, weight, offset, mask, bias, stride, padding, dilation):
    return _new(input, output_shape(input, weight, offset, mask, bias, stride, padding, dilation))


def _fake_backward(grad_output, input, weight, offset, mask, stride, padding, dilation, needed):
    check_gradient(grad_output, output_shape(input, weight, offset, mask, None, stride, padding, dilation), input)
    return (
        _wanted(needed[0], input, keep_layout=True),
        _wanted(needed[1], weight),
        _wanted(needed[2], offset),
        _wanted(needed[3], mask) if mask is not None else input.new_empty(0),
        weight.new_empty(weight.shape[0] if needed[4] else 0),
    )


def _fake_levels(inputs, offset_masks, weight, bias):
    shapes = level_shapes(inputs, offset_masks, weight, bias)
    return [_new(feature, shape) for feature, shape in zip(inputs, shapes, strict=True)]


def _fake_levels_backward(grad_outputs, inputs, offset_masks, weight, needed):
    for grad, shape in zip(grad_outputs, level_shapes(inputs, offset_masks, weight, None), strict=True):
        check_gradient(grad, shape, weight)
    return [
        *(_wanted(needed[0], feature, keep_layout=True) for feature in inputs),
        *(_wanted(needed[1], raw) for raw in offset_masks),
        _wanted(needed[2], weight),
        weight.new_empty(weight.shape[0] if needed[3] else 0),
    ]


register_default("deform_conv2d", _default)
register_default("deform_conv2d_levels", _default_levels)
register_autocast("deform_conv2d", _autocast)
register_autocast("deform_conv2d_levels", _autocast_levels)
register_native("deform_conv2d", _fake)
register_native("deform_conv2d_backward", _fake_backward)
register_native("deform_conv2d_levels", _fake_levels)
register_native("deform_conv2d_levels_backward", _fake_levels_backward)
