"""Times the native operators on a GPU against their peers: batch 4 at 800 x 1344, five levels, 80 classes.

python benchmarks/gpu.py deform        # torchvision (fp32, TF32, fp16, autocast bf16), cuDNN's plain channels_last conv
python benchmarks/gpu.py chunks        # positions a chunk, and both ways to sum the input's gradient
python benchmarks/gpu.py ceilings      # copies, L2, reductions, products: what docs/cuda_deform_conv.md's model assumes
python benchmarks/gpu.py loss          # the eager loss, and with --compile torch.compile of it; float32 and half maps
python benchmarks/gpu.py decode        # sigmoid, topk, batched_nms; batch 4 and 1

Times are of events, interleaved, medians with quartiles; "graph" is the same call replayed as a CUDA graph, without the
host's part. Memory is what one call takes at its peak, results included. `--device cpu --size 64 96 --batches 1` tries
the command where there is no GPU.
"""

import os
from collections.abc import Iterator

import torch
from common import parse_arguments, ratio, report, summarize
from decode import eager_decode, make_maps
from eager_loss import eager_loss
from gpu_ceilings import ceiling_rows
from gpu_deform import chunk_rows, deform_rows
from gpu_timing import graphed, peak_extra_memory, timed
from quality_loss import STRIDES, make_inputs, step

from fa_detectron.ops import decode_detections, native, quality_weighted_loss

# PyTorch asks for it in the deterministic mode, and reads it at the first product.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
OPERATORS = torch.ops.fa_detectron


def loss_rows(options) -> Iterator[dict]:
    compiled = torch.compile(eager_loss) if options.compile else None
    for dtype in (torch.float32, torch.float16):
        for boxes in options.boxes:
            inputs = make_inputs(boxes, max(options.batches), *options.size, options.classes, options.device)
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
    for images in sorted({1, max(options.batches)}, reverse=True):
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
    tables = {"deform": deform_rows, "chunks": chunk_rows, "ceilings": ceiling_rows, "loss": loss_rows,
              "decode": decode_rows}  # fmt: skip
    parser.add_argument("operator", choices=tables)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument(
        "--batches", type=int, nargs="+", default=[4, 2, 1], help="images; the largest one, but for bf16"
    )
    parser.add_argument("--size", type=int, nargs=2, default=[800, 1344], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--spreads", type=float, nargs="+", default=[2.0, 0.0, 8.0], help="of the offsets, pixels")
    parser.add_argument("--boxes", type=int, nargs="+", default=[0, 5, 7, 30, 100], help="an image")
    parser.add_argument("--compile", action="store_true", help="torch.compile of the eager loss, too (minutes)")
    parser.add_argument("--seconds", type=float, default=5.0, help="a row stops after that many, once it has 5 rounds")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("error: no CUDA device; --device cpu tries the command without one")
    torch.backends.cudnn.benchmark = True  # else the plain convolution may not be the fastest that cuDNN has
    report(tables[options.operator](options), options.json)


if __name__ == "__main__":
    main()
