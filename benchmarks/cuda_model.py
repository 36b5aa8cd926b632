"""What the deformable convolution's CUDA kernels should take on an H100: a model, for want of a GPU.

python benchmarks/cuda_model.py                # batch 4 of 800 x 1344, five levels, 256 channels, bfloat16

Launches, their grids and PyTorch's products come from a run on the emulation whose kernels only say that they are
launched (tools/cuda_emulation; built here on first use, minutes), instructions from the machine code that nvcc makes
(sass.py), bytes from what each kernel's blocks read and write. A launch takes the longest of: issuing its instructions,
its accesses to L1 and shared memory, to L2, to DRAM, its reductions; plus a gap between launches. See RATES for what is
assumed; nothing here has been measured.
"""

import argparse
import json
import math
import os
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from sass import Kernel, compile_kernels

ROOT = Path(__file__).resolve().parents[1]
TREE = ROOT / "build/emulation/model"
# An H100 SXM. Per second for the whole device: `l2`, `dram`, `reductions`, `products`; per cycle and multiprocessor:
# `issue` and `l1`.
RATES = {
    "multiprocessors": 132,
    "cycles": 1.755e9,
    "issue": 4 * 0.65,  # instructions a cycle and multiprocessor, of four schedulers at 65 %
    "l1": 0.8,  # accesses of 128 bytes a cycle and multiprocessor
    "l2": 5e12,  # bytes
    "dram": 3e12,
    "reductions": 2.5e12,  # bytes of float32 addends
    "products": 0.75 * 800e12,  # FLOP, half precision; TF32 half of it, float32 without it 50e12
    "gap": 2e-6,  # s a launch
}
# 3 x 3 taps with offsets of 2 pixels: distinct pixels of an 8 x 8 patch's corners, the share of corners beyond its
# window, and that of samples that do not lie in it as a whole.
PATCH_PIXELS, OUTSIDE, PARTLY = 253, 0.042, 0.06
CHANNELS, TAPS, PLACES = 256, 9, 64
LEVELS = [(100, 168), (50, 84), (25, 42), (13, 21), (7, 11)]  # height and width of P3 to P7


@dataclass(frozen=True)
class Work:
    """A block's: instructions, accesses of 128 bytes and bytes; ``warps`` execute what the SASS says."""

    source: str
    warps: int
    units: dict[str, float]  # a warp's, see sass.Kernel.issued
    l1: float  # accesses a block
    l2: float
    dram: float = 0.0
    reductions: float = 0.0
    rare: tuple[str, float] = ("", 1.0)


def filled(rows: int, columns: int) -> float:
    """Share of the patches' places that count where rows and columns are skipped this many at a time."""
    counted = [-(-h // rows) * rows * -(-w // columns) * columns for h, w in LEVELS]
    return sum(counted) / sum(-(-h // 8) * -(-w // 8) * PLACES for h, w in LEVELS)


def kernels(size: int) -> dict[str, Work]:
    """By name, for the vector paths on sm_90 of entries of ``size`` bytes (2 or 4)."""
    slice_bytes, records = 128, TAPS * PLACES * filled(1, 4)  # a warp skips four places that are beyond the map
    slices = CHANNELS * size / slice_bytes
    tile = 128 // size  # positions and channels of a copy's tile
    footprint = PATCH_PIXELS * slice_bytes
    items = records * 8 / 256  # a thread's, of 8 lanes a record
    batch = records / 5  # of a block of points_kernel: two taps, of the last one a tap
    rounds = batch * 8 / 256
    rows = filled(1, 8)
    adds = 4 * TAPS * PLACES * rows
    return {
        "columns_kernel": Work(
            "deform_conv/cuda/columns.cu", 8,
            {r"STG\.E\.128": items, r"LDG\.E(\.CONSTANT)?$": 3 * TAPS * PLACES / 256},
            l1=5 * records + 4 * records, l2=footprint + records * slice_bytes,
            dram=PLACES * slice_bytes,
        ),
        "points_kernel": Work(
            "deform_conv/cuda/points.cu", 8,
            {r"LDG\.E(\.CONSTANT)?$": 3 * batch / 128, r"LDG\.E\.128": 5 * rounds * slices},
            l1=(6 + 4) * batch * slices, l2=slices * (footprint * 0.8 + 2 * batch * slice_bytes),
        ),
        "window_kernel": Work(
            "deform_conv/cuda/window.cu", 1,
            {r"RED.*x4": 49, r"LDG\.E(\.CONSTANT)?$": 3 * TAPS * PLACES / 32, r"LDS\.128": 8 * TAPS * 10 * rows},
            l1=(2 + 2.25 / 4) * adds * (1 - OUTSIDE), l2=records * 32 * size,
            reductions=196 * 128 + OUTSIDE * adds * 128, rare=(r"RED.*\.F32\.", PARTLY),
        ),
        "scatter_kernel": Work(
            "deform_conv/cuda/scatter.cu", 8, {"RED": 4 * records * CHANNELS / 4 / 256},
            l1=2 * records * CHANNELS * 4 / 128, l2=records * CHANNELS * size, reductions=records * CHANNELS * 16,
        ),
        "planes_to_rows_kernel": Work(
            "deform_conv/cuda/rows.cu", 8, {}, l1=12 * tile, l2=2 * tile * 128, dram=2 * tile * 128
        ),
        "rows_to_planes_kernel": Work(
            "deform_conv/cuda/rows.cu", 8, {}, l1=12 * tile, l2=2 * tile * 128, dram=2 * tile * 128
        ),
    }  # fmt: skip


# What every run on the emulation begins with. operators(call): PyTorch's `counted` operators with the shapes of their
# arguments, but for those that another one or one of `hiding` calls, as the CPU's way to do it; and the call's result.
PRELUDE = """
import json, sys, torch
from torch.profiler import ProfilerActivity, profile
def operators(call, counted, hiding=()):
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as trace:
        result = call()
    print(json.dumps({"end": True}), file=open(sys.argv[1], "a"))
    def outer(event):
        while event := event.cpu_parent:
            if event.name in counted or event.name in hiding:
                return False
        return True
    return [(e.name, e.input_shapes) for e in trace.events() if e.name in counted and outer(e)], result
"""
RUN = """
images, dtype, layout = int(sys.argv[2]), getattr(torch, sys.argv[3]), getattr(torch, sys.argv[4])
def maps(channels, kind):
    return [torch.ones(images, channels, *size, dtype=kind).contiguous(memory_format=layout) for size in sizes]
sizes, counted = json.loads(sys.argv[5]), sys.argv[6].split()
x, raw = maps(256, dtype), [torch.zeros(images, 27, *size) for size in sizes]
weight, bias, ops = torch.zeros(256, 256, 3, 3, dtype=dtype), torch.zeros(256, dtype=dtype), torch.ops.fa_detectron
weight = weight.contiguous(memory_format=layout)
from fa_detectron.ops import native
grads = maps(256, dtype)
forward, _ = operators(lambda: ops.deform_conv2d_levels(x, raw, weight, bias), counted)
backward, _ = operators(lambda: ops.deform_conv2d_levels_backward(grads, x, raw, weight, [True] * 4), counted)
print(json.dumps([forward, backward]))
"""


def build() -> None:
    translate = [sys.executable, "tools/cuda_emulation/translate.py", str(TREE)]
    subprocess.run(translate, cwd=ROOT, check=True)
    environment = os.environ | {"FA_CUDA": "0"}
    subprocess.run([sys.executable, "csrc/build.py"], cwd=TREE, env=environment, check=True, stdout=subprocess.DEVNULL)


def emulated(script: str, *arguments: str) -> tuple[list[list[dict]], list]:
    """Runs PRELUDE and a script on the emulation: the launches before each end of ``operators``; what it prints."""
    log = TREE / "launches.jsonl"
    log.write_text("")
    command = [sys.executable, "-c", PRELUDE + script, str(log), *arguments]
    environment = os.environ | {"FA_EMULATION_LOG": str(log), "PYTHONPATH": str(TREE)}
    run = subprocess.run(command, cwd=TREE, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    passes: list[list[dict]] = [[]]
    for line in log.read_text().splitlines():
        entry = json.loads(line)
        if "end" in entry:
            passes.append([])
        else:
            passes[-1].append(entry)
    return passes[:-1], json.loads(run.stdout.splitlines()[-1])


def launches(images: int, dtype: str, layout: str) -> dict[str, tuple[list[dict], list]]:
    """Of each pass: the kernels' launches, and PyTorch's operators with the shapes of their arguments."""
    counted = " ".join([*PRODUCTS, *ELEMENTWISE])
    passes, operators = emulated(RUN, str(images), dtype, layout, json.dumps(LEVELS), counted)
    return dict(zip(("forward", "backward"), zip(passes, operators, strict=True), strict=True))


def product_seconds(shapes: list, dtype: str) -> float:
    """Of (M, K) x (K, N) in tiles of 128 x 128; where those are few, K is cut until they fill the device."""
    (m, k), (_, n) = shapes
    per_second = RATES["products"] * {"bfloat16": 1.0, "float32": 0.5}[dtype]
    tiles, processors = -(-m // 128) * -(-n // 128), RATES["multiprocessors"]
    waves = -(-tiles // processors) if tiles > processors / 2 else tiles * 1.15 / processors
    return waves * processors * 128 * 128 * k * 2 / per_second


# PyTorch's operators that launch a kernel each: products, by the place of their first matrix among the arguments, and
# others, by the bytes that they move an entry of their first argument. Large are the zeros of float32 sums, and the
# bias's gradient, the sum of half-precision maps.
PRODUCTS = {"aten::mm": 0, "aten::addmm": 1, "aten::addmm_": 1}
ELEMENTWISE = {"aten::add_": 12, "aten::copy_": 6, "aten::zero_": 4, "aten::fill_": 4, "aten::sum": 2, "aten::stack": 0}


def model(run: tuple[list[dict], list], dtype: str, code: dict[str, Kernel], size: int) -> dict[str, list[float]]:
    """Part -> [launches, warp instructions in millions, MB through L2, MB of reductions, ms]."""
    parts: dict[str, list[float]] = defaultdict(lambda: [0.0] * 5)
    works, rates = kernels(size), RATES

    def note(part: str, instructions: float, l2: float, reductions: float, seconds: float) -> None:
        row = (1, instructions / 1e6, l2 / 1e6, reductions / 1e6, 1e3 * (seconds + rates["gap"]))
        parts[part] = [a + b for a, b in zip(parts[part], row, strict=True)]

    for launch in run[0]:
        name = launch["kernel"].partition("<")[0]
        blocks = launch["grid"][0] * launch["grid"][1]
        if name not in works:  # small levels, element by element
            note("other copies", 0, 0, 0, 0)
            continue
        work = works[name]
        each = work.warps * code[name].issued(work.units, rare=work.rare)
        busiest = -(-blocks // rates["multiprocessors"])  # blocks of one multiprocessor
        seconds = max(
            busiest * each / rates["issue"] / rates["cycles"],
            busiest * work.l1 / rates["l1"] / rates["cycles"],
            blocks * work.l2 / rates["l2"],
            blocks * work.dram / rates["dram"],
            blocks * work.reductions / rates["reductions"],
        )
        note(name, blocks * each, blocks * work.l2, blocks * work.reductions, seconds)
    for name, shapes in run[1]:
        if name in PRODUCTS:
            note("products", 0, 0, 0, product_seconds(shapes[PRODUCTS[name] :][:2], dtype))
        elif name in ELEMENTWISE:
            moved = ELEMENTWISE[name] and ELEMENTWISE[name] * math.prod(shapes[0])
            note("PyTorch's others", 0, moved, 0, moved / rates["dram"])
    return dict(parts)


def chosen_code(dtype: str) -> dict[str, Kernel]:
    """The instantiations of the vector paths on sm_90, by the kernel's name."""
    type_name = {"bfloat16": "N3c108BFloat16E", "float32": "f"}[dtype]
    size = {"bfloat16": 8, "float32": 4}[dtype]
    suffixes = {"columns_kernel": f"I{type_name}Li{size}E", "points_kernel": f"I{type_name}Li{size}E",
                "window_kernel": f"I{type_name}Lb1E", "scatter_kernel": f"I{type_name}Li4ELb0E",
                "planes_to_rows_kernel": f"I{type_name}E",
                "rows_to_planes_kernel": f"I{'f' if dtype == 'bfloat16' else type_name}"}  # fmt: skip
    code = {}
    for source in sorted({work.source for work in kernels(2).values()}):
        for mangled, kernel in compile_kernels(source).items():
            code |= {name: kernel for name, suffix in suffixes.items() if name + suffix in mangled}
    if absent := suffixes.keys() - code.keys():
        raise SystemExit(f"error: the machine code has no {', '.join(sorted(absent))} of {dtype}")
    return code


def table(title: str, parts: dict[str, list[float]]) -> None:
    print(f"\n{title}\n\n| part | launches | warp instructions, millions | L2, MB | reductions, MB | modelled ms |")
    print("|---|---|---|---|---|---|")
    total = [sum(column) for column in zip(*parts.values(), strict=True)]
    for name, row in [*sorted(parts.items(), key=lambda item: -item[1][4]), ("all", total)]:
        print(f"| {name} | {row[0]:.0f} | {row[1]:.1f} | {row[2]:.0f} | {row[3]:.0f} | {row[4]:.3f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"], help="float32: as TF32")
    parser.add_argument("--layouts", nargs="+", default=["contiguous_format", "channels_last"])
    parser.add_argument("--issue", type=float, default=0.65, help="share of the issue slots that are used")
    options = parser.parse_args()
    RATES["issue"] = 4 * options.issue
    build()
    code = chosen_code(options.dtype)
    for layout in options.layouts:
        for title, run in launches(options.images, options.dtype, layout).items():
            parts = model(run, options.dtype, code, {"bfloat16": 2, "float32": 4}[options.dtype])
            table(f"{title}, batch {options.images}, {options.dtype}, {layout}", parts)


if __name__ == "__main__":
    main()
