"""Floating-point operations of convolutions, matrix products, attention and deformable convolutions.

A multiply-add counts as two. As usual, what works value by value is not counted: normalisation, activations, softmax,
and the bilinear sampling of a deformable convolution, which so counts as a plain one of its size.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fa_detectron.ops import native

Shape = tuple[int, ...]


@contextmanager
def count_flops() -> Iterator[FlopCounterMode]:
    """Counts what runs inside; ``get_total_flops()`` of what it yields is the sum so far.

    The same number with and without the native operators, on every device.
    """
    # Attention in matrix products, which are counted: the fused kernels of some devices have no formula in torch.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False, custom_mapping=_formulas()) as counter:
        yield counter


def _formulas() -> dict[Any, Any]:
    formulas = {torch.ops.torchvision.deform_conv2d: _deform_conv2d}
    if native.loaded():  # else its plain version runs, whose matrix product is counted
        formulas[torch.ops.fa_detectron.deform_conv2d] = _deform_conv2d
        formulas[torch.ops.fa_detectron.deform_conv2d_levels] = _deform_conv2d_levels
    return formulas


def _deform_conv2d(input: Shape, weight: Shape, *rest: Any, out_shape: Shape, **options: Any) -> int:
    """input (N, C, H, W), weight (O, C / groups, kh, kw), out (N, O, Ho, Wo)."""
    return 2 * math.prod(out_shape) * math.prod(weight[1:])


def _deform_conv2d_levels(
    inputs: list[Shape], offset_mask: list[Shape], weight: Shape, *rest: Any, out_shape: list[Shape], **options: Any
) -> int:
    """A level each: inputs (N, C, H, W), out (N, O, H, W); weight (O, C, 3, 3)."""
    return sum(2 * math.prod(shape) * math.prod(weight[1:]) for shape in out_shape)
