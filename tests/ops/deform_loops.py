"""Deformable convolution by explicit loops over every output, tap and channel, and random arguments for its tests."""

import math
import os
from dataclasses import dataclass, replace

import torch
from torch import Tensor

# How far two gradients of one input may be apart: the CUDA kernels, emulated here, add with atomics, in any order.
NONDETERMINISM = 1e-12 if "FA_EMULATION_ORDER" in os.environ else 0.0


@dataclass
class Case:
    """Arguments of deform_conv2d: input (N,C,H,W), offset, weight, bias, stride, padding, dilation, mask."""

    input: Tensor
    offset: Tensor
    weight: Tensor
    bias: Tensor | None
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    mask: Tensor | None

    def arguments(self) -> tuple:
        return tuple(self.__dict__.values())

    def tensors(self) -> list[Tensor]:
        return [t for t in (self.input, self.offset, self.weight, self.bias, self.mask) if t is not None]

    def to(self, dtype: torch.dtype) -> "Case":
        moved = {name: value.to(dtype) for name, value in self.__dict__.items() if isinstance(value, Tensor)}
        return replace(self, **moved)

    def leaves(self) -> "Case":
        fresh = {
            name: value.detach().clone().requires_grad_()
            for name, value in self.__dict__.items()
            if isinstance(value, Tensor)
        }
        return replace(self, **fresh)


def make_case(
    n: int = 2,
    c: int = 4,
    size: tuple[int, int] = (6, 7),
    o: int = 6,
    kernel: tuple[int, int] = (3, 3),
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (1, 1),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
    offset_groups: int = 1,
    masked: bool = True,
    biased: bool = True,
    spread: float = 2.0,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> Case:
    """Random arguments; offsets are normal with a deviation of ``spread`` pixels."""
    random = torch.Generator().manual_seed(seed)
    taps = kernel[0] * kernel[1]
    out = [(size[i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in (0, 1)]

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random, dtype=torch.float64).to(dtype)

    return Case(
        normal(n, c, *size),
        normal(n, 2 * offset_groups * taps, *out) * spread,
        normal(o, c // groups, *kernel),
        normal(o) if biased else None,
        stride,
        padding,
        dilation,
        torch.rand(n, offset_groups * taps, *out, generator=random, dtype=torch.float64).to(dtype) if masked else None,
    )


def _sample(plane: list[list[float]], y: float, x: float) -> float:
    if math.isnan(y) or math.isnan(x):
        return math.nan
    height, width = len(plane), len(plane[0])
    if not (-1 < y < height and -1 < x < width):
        return 0.0
    total = 0.0
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < height and 0 <= column < width:
                total += (1 - abs(y - row)) * (1 - abs(x - column)) * plane[row][column]
    return total


def deform_conv2d_by_loops(case: Case) -> Tensor:
    """(N, O, Ho, Wo) float64."""
    n, c, _, _ = case.input.shape
    o, c_per_group, kernel_h, kernel_w = case.weight.shape
    taps = kernel_h * kernel_w
    offset_groups = case.offset.shape[1] // (2 * taps)
    groups = c // c_per_group
    planes, offset, weight = case.input.tolist(), case.offset.tolist(), case.weight.tolist()
    mask = None if case.mask is None else case.mask.tolist()
    out = torch.zeros(n, o, *case.offset.shape[2:], dtype=torch.float64)
    for image, output, i, j in (
        (a, b, i, j) for a in range(n) for b in range(o) for i in range(out.shape[2]) for j in range(out.shape[3])
    ):
        total = 0.0 if case.bias is None else case.bias[output].item()
        group = output // (o // groups)
        for k in range(c_per_group):
            channel = group * c_per_group + k
            first = channel // (c // offset_groups) * taps
            for tap in range(taps):
                ky, kx = divmod(tap, kernel_w)
                y = (
                    i * case.stride[0]
                    - case.padding[0]
                    + ky * case.dilation[0]
                    + offset[image][2 * (first + tap)][i][j]
                )
                x = (
                    j * case.stride[1]
                    - case.padding[1]
                    + kx * case.dilation[1]
                    + offset[image][2 * (first + tap) + 1][i][j]
                )
                value = _sample(planes[image][channel], y, x)
                if mask is not None:
                    value *= mask[image][first + tap][i][j]
                total += value * weight[output][k][ky][kx]
        out[image, output, i, j] = total
    return out
