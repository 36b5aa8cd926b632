"""Checks and output shapes of the deformable convolution, for the fake and the default kernels.

The native kernels make the same checks themselves (csrc/deform_conv/arguments.cpp). Legend as in deform_conv.py.
"""

from operator import index

import torch
from torch import Tensor

Size = int | tuple[int, int]
_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def pair(value: Size) -> tuple[int, int]:
    """A number for both height and width, or one each."""
    if isinstance(value, int):
        return value, value
    both = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    try:
        if len(both) == 2:  # NumPy's numbers become Python's, traced ones stay
            return tuple(number if isinstance(number, (int, torch.SymInt)) else index(number) for number in both)
    except TypeError:
        pass
    raise ValueError(f"deform_conv2d: stride, padding and dilation take a whole number or two numbers, got {value}")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(f"deform_conv2d: {message}")


def output_shape(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> tuple[int, ...]:
    """(N, O, Ho, Wo). Raises ValueError where the arguments do not fit each other."""
    for name, tensor in (("input", input), ("weight", weight), ("offset", offset)):
        _require(tensor.dim() == 4, f"{name} must have 4 dimensions, got the shape {tuple(tensor.shape)}")
    _require(
        min(*stride, *dilation) > 0 and min(padding) >= 0, "stride and dilation must be positive, padding not negative"
    )
    if input.dtype not in _DTYPES:
        raise ValueError(f"deform_conv2d: input must be float32, float64, float16 or bfloat16, got {input.dtype}")
    for name, tensor, sizes in (("input", input, input.shape[1:]), ("weight", weight, weight.shape)):  # N may be 0
        # Not their minimum: a traced graph would be tied to which one it is.
        _require(all(side > 0 for side in sizes), f"{name} has no element in {tuple(tensor.shape)}")
    coordinate = torch.float64 if input.dtype == torch.float64 else torch.float32
    for name, tensor in (("weight", weight), ("bias", bias), ("offset", offset), ("mask", mask)):
        if tensor is None:
            continue
        _require(tensor.device == input.device, f"{name} is on {tensor.device}, input on {input.device}")
        allowed = (input.dtype,) if name in ("weight", "bias") else (input.dtype, coordinate)
        if tensor.dtype not in allowed:
            raise ValueError(f"deform_conv2d: {name} is {tensor.dtype}, it must be {' or '.join(map(str, allowed))}")
    n, c = input.shape[:2]
    o, c_per_group, *kernel = weight.shape
    taps = kernel[0] * kernel[1]
    _require(
        c % c_per_group == 0 and o % (c // c_per_group) == 0, f"weight {tuple(weight.shape)} does not fit {c} channels"
    )
    d = offset.shape[1] // (2 * taps)
    _require(
        d > 0 and offset.shape[1] == 2 * taps * d and c % d == 0,
        f"offset has {offset.shape[1]} channels; {2 * taps} times a divisor of {c} are needed",
    )
    size = [(input.shape[2 + i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in (0, 1)]
    _require(all(side > 0 for side in size), f"the kernel is larger than the padded input {tuple(input.shape)}")
    expected = {
        "offset": (offset, (n, 2 * d * taps, *size)),
        "mask": (mask, (n, d * taps, *size)),
        "bias": (bias, (o,)),
    }
    for name, (tensor, shape) in expected.items():
        if tensor is not None:
            _require(tuple(tensor.shape) == shape, f"{name} has the shape {tuple(tensor.shape)}, it must be {shape}")
    return (n, o, *size)


def check_gradient(grad_output: Tensor, shape: tuple[int, ...], input: Tensor) -> None:
    """Raises ValueError where the gradient of an output of ``shape`` cannot be that."""
    _require(grad_output.device == input.device, f"grad_output is on {grad_output.device}, input on {input.device}")
    _require(
        tuple(grad_output.shape) == shape, f"grad_output has the shape {tuple(grad_output.shape)}, it must be {shape}"
    )


def level_shapes(
    inputs: list[Tensor], offset_mask: list[Tensor], weight: Tensor, bias: Tensor | None
) -> list[tuple[int, ...]]:
    """(N, O, H, W) per level. Raises ValueError where the arguments do not fit each other."""
    _require(
        len(inputs) == len(offset_mask) > 0,
        f"inputs and offset_mask need one entry a level, got {len(inputs)} and {len(offset_mask)}",
    )
    _require(tuple(weight.shape[2:]) == (3, 3), f"weight must be (O, C, 3, 3), got {tuple(weight.shape)}")
    shapes = []
    for level, (feature, raw) in enumerate(zip(inputs, offset_mask, strict=True)):
        _require(
            feature.dim() == 4 and feature.shape[1] == weight.shape[1],
            f"inputs[{level}] must be (N, {weight.shape[1]}, H, W), got {tuple(feature.shape)}",
        )
        _require(
            raw.dim() == 4 and raw.shape[1] == 27,
            f"offset_mask[{level}] must be (N, 27, H, W), got {tuple(raw.shape)}",
        )
        shapes.append(output_shape(feature, weight, raw[:, :18], raw[:, 18:], bias, (1, 1), (1, 1), (1, 1)))
    return shapes
