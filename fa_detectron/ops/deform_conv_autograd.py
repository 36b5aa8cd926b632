"""Fake kernels and gradients of the native deformable convolution (registered once the extension is loaded)."""

from typing import Any

import torch
from torch import Tensor

from . import native
from .deform_conv_arguments import check_gradient, level_shapes, output_shape


def _new(input: Tensor, shape: tuple[int, ...]) -> Tensor:
    """As the native operators allocate: channels_last where the input is that and not contiguous."""
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
    grad_bias = weight.new_empty(weight.shape[0] if needed[4] else 0)
    return (
        _wanted(needed[0], input, keep_layout=True),
        _wanted(needed[1], weight),
        _wanted(needed[2], offset),
        _wanted(needed[3], mask) if mask is not None else input.new_empty(0),
        grad_bias,
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


def _setup(ctx: Any, inputs: tuple, output: Tensor) -> None:
    input, weight, offset, mask, _, ctx.stride, ctx.padding, ctx.dilation = inputs
    ctx.save_for_backward(input, weight, offset, mask)


def _backward(ctx: Any, grad: Tensor) -> tuple:
    input, weight, offset, mask = ctx.saved_tensors
    needed = list(ctx.needs_input_grad[:5])
    gradients = torch.ops.fa_detectron.deform_conv2d_backward(
        grad, input, weight, offset, mask, ctx.stride, ctx.padding, ctx.dilation, needed
    )
    # The operator must return tensors; those without elements stand for "not asked for".
    return *(g if wanted else None for g, wanted in zip(gradients, needed, strict=True)), None, None, None


def _setup_levels(ctx: Any, inputs: tuple, output: list[Tensor]) -> None:
    features, offset_masks, weight, _ = inputs
    ctx.levels = len(features)
    ctx.output_shapes = [tuple(level.shape) for level in output]
    ctx.save_for_backward(*features, *offset_masks, weight)


def _backward_levels(ctx: Any, grads: list[Tensor | None]) -> tuple:
    *maps, weight = ctx.saved_tensors
    features, offset_masks = maps[: ctx.levels], maps[ctx.levels :]
    needs_features, needs_raw, needs_weight, needs_bias = ctx.needs_input_grad
    needed = [any(needs_features), any(needs_raw), needs_weight, needs_bias]
    grads = [
        weight.new_zeros(shape) if grad is None else grad for grad, shape in zip(grads, ctx.output_shapes, strict=True)
    ]
    gradients = torch.ops.fa_detectron.deform_conv2d_levels_backward(grads, features, offset_masks, weight, needed)
    of_features, of_raw = gradients[: ctx.levels], gradients[ctx.levels : -2]
    return (
        [g if wanted else None for g, wanted in zip(of_features, needs_features, strict=True)],
        [g if wanted else None for g, wanted in zip(of_raw, needs_raw, strict=True)],
        gradients[-2] if needs_weight else None,
        gradients[-1] if needs_bias else None,
    )


def _refuse_second(ctx: Any, *grads: Any) -> None:
    raise RuntimeError(
        "the native deformable convolution has no second derivative; fa_detectron.ops.reference.deform_conv2d has one"
    )


def register() -> None:
    """Registers fake kernels, gradients and refusals. The autocast rule is native (csrc/deform_conv/autocast.cpp)."""
    library = torch.library
    library.register_fake("fa_detectron::deform_conv2d", _fake)
    library.register_fake("fa_detectron::deform_conv2d_backward", _fake_backward)
    library.register_fake("fa_detectron::deform_conv2d_levels", _fake_levels)
    library.register_fake("fa_detectron::deform_conv2d_levels_backward", _fake_levels_backward)
    library.register_autograd("fa_detectron::deform_conv2d", _backward, setup_context=_setup)
    library.register_autograd("fa_detectron::deform_conv2d_levels", _backward_levels, setup_context=_setup_levels)
    for name in ("deform_conv2d", "deform_conv2d_levels"):
        library.register_autograd(f"fa_detectron::{name}_backward", _refuse_second)
        native.refuse_vmap(name, f"{name}_backward")
