"""Times the native operators on a GPU against their peers: batch 4 at 800 x 1344, five levels, 80 classes.

python benchmarks/gpu.py deform        # torchvision (fp32, TF32, fp16, autocast bf16), cuDNN's plain channels_last conv
python benchmarks/gpu.py loss          # the eager loss, and with --compile torch.compile of it; float32 and half maps
python benchmarks/gpu.py decode        # sigmoid, topk, batched_nms; batch 4 and 1

Times are of events, interleaved, medians with quartiles; "graph" is the same call replayed as a CUDA graph, without the
host's part. Memory is what one call takes at its peak, results included. `--device cpu --size 64 96 --images 1` tries
the command where there is no GPU.
"""

import contextlib
import os
from collections.abc import Callable, Iterator

import torch
import torchvision
from common import interleave, parse_arguments, ratio, report, summarize, time_by_clock
from decode import eager_decode, make_maps
from eager_loss import eager_loss
from gpu_timing import graphed, peak_extra_memory, time_by_events
from quality_loss import STRIDES, make_inputs, step
from torch import Tensor
from torch.nn.functional import conv2d

from fa_detectron.ops import decode_detections, deform_conv2d_levels, native, quality_weighted_loss

# PyTorch asks for it in the deterministic mode, and reads it at the first product.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
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


def timed(cases: dict[str, Callable], options) -> dict[str, list[float]]:
    """ms a case, round by round: of events on a GPU, by the clock where the command is tried on a CPU."""
    timer = time_by_events if options.device == "cuda" else time_by_clock
    return interleave(cases, options.repeats, options.seconds, timer)


def make_levels(options, spread: float, dtype: torch.dtype) -> dict[str, list[Tensor]]:
    """Leaves: maps (N, C, H, W), raw points (N, 27, H, W), weight, bias; and the gradients of the outputs."""
    random = torch.Generator().manual_seed(0)

    def normal(*size: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(size, generator=random) * scale).to(options.device, dtype).requires_grad_()

    n, sizes = options.images, [[-(-side // stride) for side in options.size] for stride in STRIDES]
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


def deform_rows(options) -> Iterator[dict]:
    for name in PRECISIONS:
        for spread in options.spreads if name == "fp32" else [2.0]:
            with precision(name, options.device) as dtype:
                cases = deform_cases(make_levels(options, spread, dtype))
                if name == "fp32":
                    for mine, theirs in zip(cases["native"][0](), cases["torchvision"][0]()):
                        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3)
                for kind, title in enumerate(("forward", "backward")):
                    calls = {peer: case[kind] for peer, case in cases.items()}
                    if title == "forward":
                        calls["graph"] = graphed(calls["native"], options.device)
                    times = timed(calls, options)
                    theirs = "torchvision" in times
                    yield {
                        "pass": title,
                        "precision": name,
                        "offsets px": spread,
                        "native ms": summarize(times["native"]),
                        "graph ms": summarize(times["graph"]) if "graph" in times else "-",
                        "deterministic ms": summarize(times["deterministic"]),
                        "channels_last ms": summarize(times["last"]),
                        "torchvision ms": summarize(times["torchvision"]) if theirs else "-",
                        "native is x torchvision": ratio(times["torchvision"], times["native"]) if theirs else "-",
                        "plain conv ms": summarize(times["plain"]),
                        "native takes x plain conv": ratio(times["native"], times["plain"]),
                        "native extra MiB": peak_extra_memory(calls["native"], options.device),
                        "channels_last extra MiB": peak_extra_memory(calls["last"], options.device),
                        "torchvision extra MiB": peak_extra_memory(calls["torchvision"], options.device)
                        if theirs
                        else "-",
                    }


def loss_rows(options) -> Iterator[dict]:
    compiled = torch.compile(eager_loss) if options.compile else None
    for dtype in (torch.float32, torch.float16):
        for boxes in options.boxes:
            inputs = make_inputs(boxes, options.images, *options.size, options.classes, options.device)
            inputs[:3] = [[x.detach().to(dtype).requires_grad_() for x in levels] for levels in inputs[:3]]
            cases = {"native": lambda x=inputs: step(quality_weighted_loss, x)}
            if dtype == torch.float32:  # the peers have no half precision that would be right
                cases["eager"] = lambda x=inputs: step(eager_loss, x)
                found, expected = (case()[0] for case in cases.values())
                for key in found:
                    torch.testing.assert_close(found[key], expected[key], rtol=1e-3, atol=1e-6)
                if compiled is not None and boxes == 7:
                    cases["compiled"] = lambda x=inputs: step(compiled, x)
            cases["graph"] = graphed(cases["native"], options.device)
            times = timed(cases, options)
            row = {"maps": str(dtype).split(".")[1], "boxes an image": boxes}
            for peer in ("native", "graph", "eager", "compiled"):
                row[f"{peer} ms"] = summarize(times[peer]) if peer in times else "-"
            for peer in ("eager", "compiled"):
                row[f"native is x {peer}"] = ratio(times[peer], times["native"]) if peer in times else "-"
            row["native extra MiB"] = peak_extra_memory(cases["native"], options.device)
            row["eager extra MiB"] = peak_extra_memory(cases["eager"], options.device) if "eager" in cases else "-"
            yield row


def decode_rows(options) -> Iterator[dict]:
    numbers = ([float(s) for s in STRIDES], 0.0, 0.05, 1000, 0.6, 100)
    for images in sorted({1, options.images}, reverse=True):
        for scores in ("trained-like", "all pass"):
            maps = make_maps(scores, images, *options.size, options.classes, options.device)
            cases = {
                "native": lambda m=maps: decode_detections(*m, STRIDES),
                "eager": lambda m=maps: eager_decode(*m, STRIDES),
            }
            if native.loaded():
                cases["graph"] = graphed(lambda m=maps: OPERATORS.decode_detections(*m, *numbers), options.device)
            times = timed(cases, options)
            yield {
                "images": images,
                "scores": scores,
                "native ms": summarize(times["native"]),
                "graph ms": summarize(times["graph"]) if "graph" in times else "-",
                "eager ms": summarize(times["eager"]),
                "native is x eager": ratio(times["eager"], times["native"]),
            }


def main() -> None:
    parser = parse_arguments(__doc__)
    parser.add_argument("operator", choices=["deform", "loss", "decode"])
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--size", type=int, nargs=2, default=[800, 1344], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--spreads", type=float, nargs="+", default=[0.0, 0.5, 2.0, 8.0], help="of the offsets, pixels")
    parser.add_argument("--boxes", type=int, nargs="+", default=[0, 5, 7, 30, 100], help="an image")
    parser.add_argument("--compile", action="store_true", help="torch.compile of the eager loss, too (minutes)")
    parser.add_argument("--seconds", type=float, default=5.0, help="a row stops after that many, once it has 5 rounds")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("error: no CUDA device; --device cpu tries the command without one")
    rows = {"deform": deform_rows, "loss": loss_rows, "decode": decode_rows}[options.operator]
    torch.backends.cudnn.benchmark = True  # else the plain convolution may not be the fastest that cuDNN has
    report(rows(options), options.json)


if __name__ == "__main__":
    main()
