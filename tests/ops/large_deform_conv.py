"""Indices beyond 32 bits: an output of more than 2**31 elements. Needs 10 GB of memory, so no part of the suite.

python -m pytest tests/ops/large_deform_conv.py
"""

import torch

from fa_detectron.ops import deform_conv2d


def test_an_output_of_more_than_2_to_31_elements() -> None:
    images, outputs, side = 16400, 8, 128
    random = torch.Generator().manual_seed(0)
    # One image, read again and again with stride 0: only the output is large.
    input = torch.randn(1, 1, side, side, generator=random)
    offset = torch.randn(1, 2, side, side, generator=random)
    weight = torch.randn(outputs, 1, 1, 1, generator=random)
    once = deform_conv2d(input, offset, weight)
    output = deform_conv2d(input.expand(images, -1, -1, -1), offset.expand(images, -1, -1, -1), weight)
    assert output.numel() > 2**31
    for image in (0, images // 2, images - 2, images - 1):
        assert torch.equal(output[image : image + 1], once)
