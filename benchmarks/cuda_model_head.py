"""What decoding's and the loss's CUDA kernels should take on an H100: a model, for want of a GPU.

python benchmarks/cuda_model_head.py           # batch 4 of 800 x 1344, five levels, 80 classes, 7 boxes an image

As cuda_model.py: launches from the emulation, instructions from the machine code that nvcc makes, nothing measured.
Data of benchmarks/decode.py ("trained-like") and quality_loss.py, or one box as large as the image. What is one block,
or a few, is bound by what its threads wait for: WAITS, cycles.
"""

import argparse
import math
from collections import Counter
from dataclasses import dataclass

import torch
from cuda_model import RATES, build, emulated, table
from decode import STRIDES, make_maps
from quality_loss import make_inputs
from sass import Kernel, compile_kernels

from fa_detectron.ops import decode_detections

SIZE, CLASSES = (800, 1344), 80
WAITS = {"memory": 800, "l2": 300, "shared": 30, "barrier": 40, "search": 1000}
TILE, PARTS, SLICE = 64, 4, 1024  # csrc/common/map.h, quality_loss/cuda/launch.h
AREAS = [math.prod(-(-side // stride) for side in SIZE) for stride in STRIDES]


@dataclass(frozen=True)
class Work:
    """Of a launch: warps, what one issues outside and inside of its loops, bytes of DRAM, and cycles that it waits."""

    warps: float
    instructions: float  # a warp's
    dram: float = 0.0
    waits: float = 0.0
    processors: float = RATES["multiprocessors"]


def issued(kernel: Kernel, runs: list[tuple[dict[str, int], float]]) -> float:
    """Instructions of one warp: those outside of loops, and those of the loops with such opcodes, run so often.

    A loop is found by how often opcodes that begin with a word stand in its own body ({"LDG": 5, "MUFU": 10}); exactly
    one must fit. Loops that are not named do not run: rests of unrolled ones, chains of a few instructions.
    """
    inside = {index for first, last in kernel.loops for index in range(first, last + 1)}
    total = float(len(set(range(kernel.end)) - inside))
    for wanted, times in runs:
        fitting = []
        for loop in kernel.loops:
            count = Counter(opcode.partition(".")[0] for opcode in kernel.body(loop))
            if all(count[word] == number for word, number in wanted.items()):
                fitting.append(count.total())
        if len(fitting) != 1:
            raise SystemExit(f"error: {len(fitting)} loops of the machine code have {wanted}, not one")
        total += times * fitting[0]
    return total


def decode_works(images: int, code: dict[str, Kernel]) -> dict[str, Work]:
    maps = make_maps("trained-like", images, *SIZE, CLASSES, "cpu")
    scores = [cls.sigmoid() * obj.sigmoid() for cls, obj in zip(maps[0], maps[2], strict=True)]
    passed = [int((level[0] > 0.05).sum()) for level in scores]
    groups = [
        level.reshape(images, CLASSES, -1)[..., : level[0, 0].numel() // 32 * 32].unflatten(-1, (-1, 32))
        for level in scores
    ]
    hits = sum(float((group > 0.05).any(-1).sum()) for group in groups)  # warps' steps with any score that passes
    candidates = sum(min(count, 1000, area) for count, area in zip(passed, AREAS, strict=True))
    found = decode_detections(*maps, STRIDES)[0][1]
    before = sum(int((level[0] >= found[-1]).sum()) for level in scores)  # candidates up to the last detection
    seen = -(-before // 32)
    padded = 1 << (candidates - 1).bit_length()
    steps = (padded.bit_length() - 1) * padded.bit_length() // 2
    tiles = sum(-(-area // TILE) for area in AREAS)
    steps_of_warp = CLASSES / PARTS / 5
    warps = images * tiles * TILE * PARTS / 32
    pairs = images * sum(AREAS) * CLASSES
    scan = -(-max(passed) // 4096) * WAITS["memory"]
    near = padded // 2 / 1024  # pairs of keys a thread compares in one step
    return {
        "scores_kernel": Work(
            warps,
            issued(code["scores_kernel"], [({"LDG": 5, "MUFU": 0}, steps_of_warp), ({"ATOMG": 1}, 5 * hits / warps)]),
            dram=4 * pairs * (1 + 1 / CLASSES) + 8 * images * sum(passed),
            waits=2 * WAITS["memory"],
        ),
        # One block an image and level; two passes over the keys of the largest level, three sums of 2048 bins.
        "select_kernel": Work(
            32 * images * len(AREAS),
            issued(code["select_kernel"], [({"LDG": 4, "ATOMS": 4}, max(passed) / 4096),
                                           ({"LDG": 4, "ATOMS": 8}, max(passed) / 4096)]),
            waits=2 * scan + 2 * (31 * WAITS["shared"] + 4 * WAITS["barrier"]) + 256 * 3,
            processors=images * len(AREAS),
        ),
        "keep_kernel": Work(
            32 * images, 0,
            waits=3 * WAITS["memory"] + steps * (70 + 40 * near) + seen * 700 + -(-seen // 32) * WAITS["memory"],
            processors=images,
        ),
    }  # fmt: skip


def loss_works(images: int, boxes: list, code: dict[str, Kernel]) -> dict[str, Work]:
    """``boxes``: of each image, (G, 4), xyxy in pixels."""
    count = sum(len(x) for x in boxes)
    slices = count * sum(-(-area // SLICE) for area in AREAS)
    inside, busy, steps = 0, 0, 0  # pairs; slices that have any; of 256 locations in them
    for x1, y1, x2, y2 in torch.cat(boxes).tolist():
        for stride, area in zip(STRIDES, AREAS, strict=True):
            sides = ((x1, x2), (y1, y2))
            width, height = (max(0, math.ceil(b / stride) - math.floor(a / stride) - 1) for a, b in sides)
            pairs = min(width * height, area)
            inside, busy, steps = inside + pairs, busy + -(-pairs // SLICE), steps + -(-pairs // 256)
    locations, processors = images * sum(AREAS), RATES["multiprocessors"]
    tiles = images * sum(-(-area // TILE) for area in AREAS)
    warps, each = tiles * TILE * PARTS / 32, CLASSES / PARTS / 5
    boxes_each = count / images
    overlaps = 1.5 * inside / 32 / warps  # steps of a warp on a box that holds some of its locations

    def sliced(name: str, loop: dict[str, int]) -> Work:
        # Where a slice is empty, one warp issues about 300 instructions and seven 70: one thread looks for its cells.
        whole = issued(code[name], [(loop, 0)])
        total = 8 * (busy * whole + (slices - busy) * 100) + 8 * steps * (issued(code[name], [(loop, 1)]) - whole)
        waits = WAITS["search"] + 4 * WAITS["memory"] + -(-steps // max(busy, 1)) * 1500 + 8 * 3 * WAITS["barrier"]
        return Work(8 * slices, total / (8 * slices), waits=waits + 1500 * (busy // (2 * processors)))

    return {
        "max_iou_kernel": Work(
            locations / 32, issued(code["max_iou_kernel"], [({"LDG": 10, "MUFU": 2}, boxes_each)]),
            dram=20 * locations, waits=2 * WAITS["memory"],
        ),
        "slices_kernel": sliced("slices_kernel", {"LDG": 7, "MUFU": 11}),
        "roots_kernel": sliced("roots_kernel", {"LDG": 6, "MUFU": 13}),
        "rows_kernel": Work(
            16, 0, waits=-(-count // 16) * (2 * WAITS["memory"] + 9 * 5 * 40) + 1000, processors=1
        ),
        "negative_kernel": Work(
            warps,
            issued(code["negative_kernel"], [({"LDG": 5, "MUFU": 10}, each), ({"MUFU": 5, "DADD": 1}, overlaps)]),
            dram=4 * locations * (CLASSES + 2), waits=3 * WAITS["memory"],
        ),
        "finish_kernel": Work(
            16, 0, waits=-(-tiles // 2048) * WAITS["memory"] + 4 * WAITS["memory"] + 2000, processors=1
        ),
        "slopes_kernel": Work(4, 0, waits=4 * WAITS["memory"] + 1500, processors=1),
        "gaussian_sums_kernel": sliced("gaussian_sums_kernel", {"LDG": 6, "MUFU": 17}),
        "gradients_kernel": Work(
            warps,
            issued(code["gradients_kernel"], [({"LDG": 5, "STG": 5}, each), ({"MUFU": 21, "STG": 1}, overlaps)]),
            dram=4 * locations * (2 * CLASSES + 11), waits=3 * WAITS["memory"],
        ),
        "gaussian_gradients_kernel": Work(
            13, 0, waits=(count * 0.1 + 2) * WAITS["memory"] + count * WAITS["l2"] / 4, processors=4
        ),
    }  # fmt: skip


RUN = """
sys.path.insert(0, "benchmarks")
from decode import make_maps
from quality_loss import STRIDES, make_inputs
from fa_detectron.ops import decode_detections, quality_weighted_loss
images, boxes, layout = int(sys.argv[2]), int(sys.argv[3]), getattr(torch, sys.argv[4])
# Operators that launch one kernel each, whatever they call; and what checks classes, for CPU tensors only.
words = "copy_ cat zero_ fill_ sum clamp add mul div sort", "min max item"
counted, hiding = ({"aten::" + word for word in line.split()} for line in words)
maps = make_maps("trained-like", images, 800, 1344, 80, "cpu")
maps = [[x.contiguous(memory_format=layout) for x in group] for group in maps]
options = ([float(s) for s in STRIDES], 0.0, 0.05, 1000, 0.6, 100)
decode, _ = operators(lambda: torch.ops.fa_detectron.decode_detections(*maps, *options), counted, hiding)
inputs = make_inputs(boxes, images, 800, 1344, 80, "cpu")
for group in inputs[:3]:
    group[:] = [x.detach().contiguous(memory_format=layout).requires_grad_() for x in group]
forward, losses = operators(lambda: quality_weighted_loss(*inputs), counted, hiding)
leaves = [x for group in inputs[:3] for x in group] + inputs[5:7]
total = sum(losses.values())
backward, _ = operators(lambda: torch.autograd.grad(total, leaves), counted, hiding)
print(json.dumps([decode, forward, backward]))
"""


def launches(images: int, boxes: int, layout: str) -> dict[str, Counter]:
    """How often decode and loss launch each kernel, PyTorch's as "aten::name"."""
    passes, operators = emulated(RUN, str(images), str(boxes), layout)
    decode, forward, backward = (
        Counter([*(entry["kernel"].partition("<")[0] for entry in ours), *(name for name, _ in theirs)])
        for ours, theirs in zip(passes, operators, strict=True)
    )
    return {"decode": decode, "loss": forward + backward}


def model(counts: Counter, works: dict[str, Work]) -> dict[str, list[float]]:
    """Part -> [launches, warp instructions in millions, MB through L2, MB of reductions, ms]."""
    parts, rates = {}, RATES
    for name, number in counts.items():
        work = works.get(name)
        if work is None and not name.startswith("aten::"):
            raise SystemExit(f"error: {name} is not in the model")
        work = work or Work(0, 0)
        issue = rates["issue"] * rates["cycles"] * min(work.processors, rates["multiprocessors"])
        throughput = max(work.warps * work.instructions / issue, work.dram / rates["dram"])
        seconds = max(throughput, work.waits / rates["cycles"]) + rates["gap"]
        part = name if works.get(name) else "PyTorch's"
        row = [number, number * work.warps * work.instructions / 1e6, work.dram / 1e6, 0, number * seconds * 1e3]
        parts[part] = [a + b for a, b in zip(parts.get(part, [0] * 5), row, strict=True)]
    return parts


def chosen_code() -> dict[str, Kernel]:
    """The kernels for float32 and a focal gamma of 2, by name."""
    code = {}
    for source in (
        "decode/cuda/select.cu",
        "quality_loss/cuda/statistics.cu",
        "quality_loss/cuda/losses.cu",
        "quality_loss/cuda/gradients.cu",
    ):
        for mangled, kernel in compile_kernels(source).items():
            for name in ("scores", "select", "max_iou", "slices", "roots", "negative", "gradients", "gaussian_sums"):
                for suffix in ("ENS0_10DecodeWork", "IfE", "ILb1EfE"):
                    if f"{len(name) + 7}{name}_kernel{suffix}" in mangled:
                        code[f"{name}_kernel"] = kernel
    return code


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--boxes", type=int, default=7, help="an image")
    parser.add_argument("--layouts", nargs="+", default=["contiguous_format", "channels_last"])
    options = parser.parse_args()
    build()
    code = chosen_code()
    boxes = [x.detach() for x in make_inputs(options.boxes, options.images, *SIZE, CLASSES, "cpu")[3]]
    large = [torch.tensor([[0.0, 0.0, SIZE[1], SIZE[0]]])] + [x[:0] for x in boxes[1:]]
    for layout in options.layouts:
        counts = launches(options.images, options.boxes, layout)
        title = f"batch {options.images}, {layout}"
        table(f"decode, {title}", model(counts["decode"], decode_works(options.images, code)))
        for name, truth in ((f"{options.boxes} boxes an image", boxes), ("one box as large as the image", large)):
            table(f"loss, {name}, {title}", model(counts["loss"], loss_works(options.images, truth, code)))


if __name__ == "__main__":
    main()
