"""Indices beyond 32 bits: an output of more than 2**31 elements. Takes 10 GB of memory, so no part of the suite.

make large-memory
"""

import torch

from fa_detectron.ops import deform_conv2d

IMAGES, OUTPUTS, SIDE = 516, 256, 128


def make_case() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Input (1, 1, H, W), offset (1, 2, H, W), weight (O, 1, 1, 1)."""
    random = torch.Generator().manual_seed(0)
    shapes = ((1, 1, SIDE, SIDE), (1, 2, SIDE, SIDE), (OUTPUTS, 1, 1, 1))
    return tuple(torch.randn(shape, generator=random) for shape in shapes)


def repeated(tensor: torch.Tensor) -> torch.Tensor:
    """One image, read again and again with stride 0: only what is written is large."""
    return tensor.expand(IMAGES, -1, -1, -1)


def test_an_output_of_more_than_2_to_31_elements() -> None:
    input, offset, weight = make_case()
    once = deform_conv2d(input, offset, weight)
    output = deform_conv2d(repeated(input), repeated(offset), weight)
    assert output.numel() > 2**31
    beyond = 2**31 // once.numel()  # the image that element 2**31 lies in
    for image in (0, 1, beyond // 2, beyond - 1, beyond, IMAGES - 1):
        assert torch.equal(output[image : image + 1], once)


def test_a_gradient_of_more_than_2_to_31_elements() -> None:
    input, offset, weight = make_case()
    upstream = torch.randn(1, OUTPUTS, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    leaves = [x.requires_grad_() for x in (input, offset, weight)]
    once = torch.autograd.grad(deform_conv2d(*leaves), leaves, upstream)
    wide = [repeated(input.detach()).requires_grad_(), repeated(offset.detach()).requires_grad_(), weight]
    output = deform_conv2d(*wide)
    assert output.numel() > 2**31
    by_input, by_offset, by_weight = torch.autograd.grad(output, wide, repeated(upstream))
    for image in (0, IMAGES // 2, IMAGES - 1):
        torch.testing.assert_close(by_input[image : image + 1], once[0])
        torch.testing.assert_close(by_offset[image : image + 1], once[1])
    torch.testing.assert_close(by_weight / IMAGES, once[2], rtol=1e-3, atol=1e-3)
