"""Runs every CUDA kernel of the project a few times, for ncu and compute-sanitizer (benchmarks/gpu.sh).

python benchmarks/gpu_kernels.py               # small maps, bfloat16 and float32, both ways to sum the input's gradient
python benchmarks/gpu_kernels.py --large       # the deformable convolution at batch 4 of 800 x 1344, bfloat16 alone
"""

import argparse
import os

import torch
from decode import make_maps
from gpu_deform import make_levels
from quality_loss import STRIDES, make_inputs, step
from torch import Tensor

from fa_detectron.ops import decode_detections, deform_conv2d, deform_conv2d_levels, quality_weighted_loss

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read at the first product, for the deterministic mode


def assert_finite(tensors: list[Tensor]) -> None:
    assert all(tensor.isfinite().all() for tensor in tensors)


def run_deform(options: argparse.Namespace, dtype: torch.dtype) -> None:
    maps, raw, (weight, bias), grads = make_levels(options, 2.0, dtype, options.images).values()
    outputs = deform_conv2d_levels(maps, raw, weight, bias)
    assert_finite([*outputs, *torch.autograd.grad(outputs, [*maps, *raw, weight, bias], grads)])


def run_groups(options: argparse.Namespace, dtype: torch.dtype) -> None:
    """Groups, strides, and channels that are no multiple of a vector."""
    random = torch.Generator().manual_seed(0)
    for channels, groups, stride in ((64, 2, 1), (36, 1, 2), (6, 2, 1)):
        sizes = [(2, channels, 19, 26), (2, 36, 19 // stride + stride - 1, 26 // stride), (8, channels // groups, 3, 3)]
        x, offset, weight = (torch.randn(size, generator=random).to(options.device, dtype) for size in sizes)
        leaves = [tensor.requires_grad_() for tensor in (x, offset, weight)]
        output = deform_conv2d(*leaves, None, stride, 1)
        assert_finite([output, *torch.autograd.grad(output.sum(), leaves)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    options = parser.parse_args()
    options.images, options.size = (4, (800, 1344)) if options.large else (2, (128, 208))
    if options.large:
        for _ in range(2):
            run_deform(options, torch.bfloat16)
        return
    os.environ["FA_CUDA_CHUNK"] = "256"
    for dtype in (torch.bfloat16, torch.float32):
        for scatter in ("window", "memory"):
            os.environ["FA_CUDA_SCATTER"] = scatter
            run_deform(options, dtype)
            run_groups(options, dtype)
        torch.use_deterministic_algorithms(True)
        run_deform(options, dtype)
        torch.use_deterministic_algorithms(False)
    step(quality_weighted_loss, make_inputs(7, options.images, *options.size, 5, options.device))
    decode_detections(*make_maps("trained-like", options.images, *options.size, 5, options.device), STRIDES)


if __name__ == "__main__":
    main()
