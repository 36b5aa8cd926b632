"""The models of the CUDA kernels: how it counts, and what it finds in the machine code."""

import functools
import importlib.util
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "csrc")]

import cuda_model
import cuda_model_head
from sass import Kernel, compile_kernels

compiled = functools.cache(compile_kernels)  # of a source
DOUBLE = re.compile(r"D(ADD|MUL|FMA|SETP|MNMX)|F2F\.F(64|32\.F64)|I2F\.F64")


def has_compilers() -> bool:
    import build

    try:
        build.toolkit()
    except build.BuildError:
        return False
    return importlib.util.find_spec("triton") is not None  # its wheel has nvdisasm


def test_places_beyond_the_map_do_not_count() -> None:
    positions = sum(height * width for height, width in cuda_model.LEVELS)
    assert cuda_model.filled(8, 8) == 1
    assert cuda_model.filled(1, 1) == pytest.approx(positions / (64 * 382))  # 382 patches an image


def test_a_loop_counts_as_often_as_it_runs() -> None:
    opcodes = ("MOV", "LDG.E", "MUFU.EX2", "FADD", "BRA", "LDG.E", "STG.E", "BRA", "EXIT", "FFMA", "RET")
    kernel = Kernel(opcodes, ((1, 4), (5, 7)), ())
    assert cuda_model_head.issued(kernel, []) == 2
    assert cuda_model_head.issued(kernel, [({"LDG": 1, "MUFU": 1}, 10), ({"STG": 1}, 3)]) == 2 + 40 + 9
    with pytest.raises(SystemExit, match="2 loops of the machine code have"):
        cuda_model_head.issued(kernel, [({"LDG": 1}, 1)])


@pytest.mark.skipif(not has_compilers(), reason="no CUDA toolkit, or no nvdisasm")
@pytest.mark.parametrize(
    ("source", "kernel"),
    [
        ("quality_loss/cuda/statistics.cu", "slices_kernelIfE"),
        ("quality_loss/cuda/statistics.cu", "roots_kernelIfE"),
        ("quality_loss/cuda/gradients.cu", "gaussian_sums_kernelIfE"),
        ("quality_loss/cuda/gradients.cu", "gradients_kernelILb1EfE"),
        ("quality_loss/cuda/statistics.cu", "max_iou_kernelIfE"),
    ],
)
def test_float_kernels_have_no_double_precision_in_their_loops_over_pairs(source: str, kernel: str) -> None:
    """Consumer cards have a sixty-fourth of the units for it; loops that evaluate pairs have exponentials, so MUFU."""
    (code,) = [code for name, code in compiled(source).items() if kernel in name]
    loops = [code.opcodes[first : last + 1] for first, last in code.loops]
    pairs = [loop for loop in loops if sum(opcode.startswith("MUFU") for opcode in loop) >= 2]
    assert pairs and [opcode for loop in pairs for opcode in loop if DOUBLE.match(opcode)] == []
