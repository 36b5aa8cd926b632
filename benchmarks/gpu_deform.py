"""The deformable convolution's tables of benchmarks/gpu.py: against its peers, and chunk sizes against each other."""

import contextlib
import os
from collections.abc import Callable, Iterator

import torch
import torchvision
from common import ratio, summarize
from gpu_timing import cold, graphed, peak_extra_memory, timed
from quality_loss import STRIDES
from torch import Tensor
from torch.nn.functional import conv2d

from fa_detectron.ops import deform_conv2d_levels

OPERATORS = torch.ops.fa_detectron
CHANNELS = 256
# Name: dtype of maps and weights, whether products may be TF32, whether autocast to bfloat16 is on.
PRECISIONS = {
    "fp32": (torch.float32, False, False),
    "TF32": (torch.float32, True, False),
    "fp16": (torch.float16, True, False),
    "autocast bf16": (torch.bfloat16, True, True),
}


@contextlib.contextmanager
def precision(name: str, device: str) -> Iterator[torch.dtype]:
    dtype, tf32, autocast = PRECISIONS[name]
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    with torch.autocast(device, torch.bfloat16, enabled=autocast):
        yield dtype


def make_levels(options, spread: float, dtype: torch.dtype, images: int) -> dict[str, list[Tensor]]:
    """Leaves: maps (N, C, H, W), raw points (N, 27, H, W), weight, bias; and the gradients of the outputs."""
    random = torch.Generator().manual_seed(0)

    def normal(*size: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(size, generator=random) * scale).to(options.device, dtype).requires_grad_()

    n, sizes = images, [[-(-side // stride) for side in options.size] for stride in STRIDES]
    return {
        "maps": [normal(n, CHANNELS, *size) for size in sizes],
        "raw": [normal(n, 27, *size, scale=spread) for size in sizes],
        "weights": [normal(CHANNELS, CHANNELS, 3, 3, scale=0.02), normal(CHANNELS)],
        "grads": [normal(n, CHANNELS, *size).detach() for size in sizes],
    }


def by_torchvision(maps: list[Tensor], raw: list[Tensor], weight: Tensor, bias: Tensor) -> list[Tensor]:
    return [
        torchvision.ops.deform_conv2d(x, points[:, :18], weight, bias, padding=1, mask=points[:, 18:].sigmoid())
        for x, points in zip(maps, raw, strict=True)
    ]


def deterministically(call: Callable) -> Callable:
    def run() -> object:
        torch.use_deterministic_algorithms(True)
        try:
            return call()
        finally:
            torch.use_deterministic_algorithms(False)

    return run


def deform_cases(tensors: dict[str, list[Tensor]]) -> dict[str, tuple[Callable, Callable]]:
    """Forward and backward of each peer, in the precision of the moment. "last" is channels_last."""
    maps, raw, (weight, bias), grads = tensors.values()
    last = [x.detach().contiguous(memory_format=torch.channels_last).requires_grad_() for x in maps]
    weight_last = weight.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    grads_last = [x.contiguous(memory_format=torch.channels_last) for x in grads]
    forwards = {
        "native": (lambda: deform_conv2d_levels(maps, raw, weight, bias), [*maps, *raw, weight, bias], grads),
        "last": (
            lambda: deform_conv2d_levels(last, raw, weight_last, bias),
            [*last, *raw, weight_last, bias],
            grads_last,
        ),
        "torchvision": (lambda: by_torchvision(maps, raw, weight, bias), [*maps, *raw, weight, bias], grads),
        "plain": (
            lambda: [conv2d(x, weight_last, bias, padding=1) for x in last],
            [*last, weight_last, bias],
            grads_last,
        ),
    }
    cases = {}
    for name, (forward, leaves, upstream) in forwards.items():
        try:
            outputs = forward()
        except NotImplementedError:  # torchvision has no half types on the CPU
            continue
        upstream = [g.to(x.dtype) for g, x in zip(upstream, outputs, strict=True)]

        def backward(outputs=outputs, leaves=leaves, upstream=upstream) -> tuple[Tensor, ...]:
            return torch.autograd.grad(outputs, leaves, upstream, retain_graph=True)

        cases[name] = (forward, backward)
    cases["deterministic"] = tuple(deterministically(call) for call in cases["native"])
    return cases


def graphs(tensors: dict[str, list[Tensor]], device: str) -> dict[str, tuple[Callable, Callable]]:
    """The native operators without autograd, replayed as CUDA graphs: the device's time without the host's."""
    maps, raw, (weight, bias), grads = ([x.detach() for x in group] for group in tensors.values())

    def cases(layout: torch.memory_format) -> tuple[Callable, Callable]:
        inputs, upstream = ([x.contiguous(memory_format=layout) for x in group] for group in (maps, grads))
        w = weight.contiguous(memory_format=layout)
        forward = graphed(lambda: OPERATORS.deform_conv2d_levels(inputs, raw, w, bias), device)
        needed = [True] * 4
        return forward, graphed(
            lambda: OPERATORS.deform_conv2d_levels_backward(upstream, inputs, raw, w, needed), device
        )

    return {"graph": cases(torch.contiguous_format), "last graph": cases(torch.channels_last)}


def deform_rows(options) -> Iterator[dict]:
    """The rows that matter most come first: a run may be cut short."""
    for name in reversed(PRECISIONS):
        for images in options.batches if name == "autocast bf16" else [max(options.batches)]:
            for spread in options.spreads if name == "fp16" else [2.0]:
                yield from compared(options, name, images, spread)


def compared(options, name: str, images: int, spread: float) -> Iterator[dict]:
    with precision(name, options.device) as dtype:
        tensors = make_levels(options, spread, dtype, images)
        cases = deform_cases(tensors) | graphs(tensors, options.device)
        if name == "fp32":
            for mine, theirs in zip(cases["native"][0](), cases["torchvision"][0](), strict=True):
                torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3)
        for kind, title in enumerate(("forward", "backward")):
            calls = {peer: case[kind] for peer, case in cases.items()}
            times = timed(calls, options)
            times |= timed({"cold": calls["graph"]}, options, around=cold(options.device))
            row = {"pass": title, "precision": name, "images": images, "offsets px": spread}
            columns = {"native": "native", "graph": "graph", "last": "channels_last", "last graph": "last graph",
                       "cold": "cold L2 graph", "deterministic": "deterministic", "torchvision": "torchvision",
                       "plain": "plain conv"}  # fmt: skip
            row |= {f"{label} ms": summarize(times[peer]) if peer in times else "-" for peer, label in columns.items()}
            theirs = times.get("torchvision")
            row["native is x torchvision"] = ratio(theirs, times["native"]) if theirs else "-"
            row["native takes x plain conv"] = ratio(times["native"], times["plain"])
            for peer in ("native", "last", "torchvision"):
                known = peer in calls
                row[f"{columns[peer]} extra MiB"] = peak_extra_memory(calls[peer], options.device) if known else "-"
            yield row


def chunk_rows(options) -> Iterator[dict]:
    """Positions a chunk, and how the input's gradient is summed."""
    for name in ("autocast bf16", "TF32"):
        with precision(name, options.device) as dtype:
            tensors = make_levels(options, 2.0, dtype, max(options.batches))
            for scatter in ("window", "memory"):
                for positions in (4096, 6144, 8192, 10240, 12288, 16384) if scatter == "window" else (8192,):
                    os.environ |= {"FA_CUDA_CHUNK": str(positions), "FA_CUDA_SCATTER": scatter}
                    forward, backward = graphs(tensors, options.device)["graph"]
                    times = timed({"forward": forward, "backward": backward}, options)
                    row = {"precision": name, "chunk": positions, "scatter": scatter}
                    yield row | {f"{key} ms": summarize(value) for key, value in times.items()}
    del os.environ["FA_CUDA_CHUNK"], os.environ["FA_CUDA_SCATTER"]
