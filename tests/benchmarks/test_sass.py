"""benchmarks/sass.py counts the instructions of a listing as nvdisasm prints it."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

from sass import Kernel, parse

LISTING = """
//--------------------- .text._Z6kernelv --------------------------
\t.section\t.text._Z6kernelv,"ax",@progbits
.text._Z6kernelv:
        /*0000*/                   MOV R1, c[0x0][0x28] ;
.L_x_0:
        /*0010*/                   LDG.E.128 R4, [R2.64] ;
        /*0020*/              @P0  BRA `(.L_x_2) ;
        /*0030*/                   RED.E.ADD.F32 [R2.64], R4 ;
        /*0040*/                   BRA `(.L_x_3) ;
.L_x_2:
        /*0050*/                   FFMA R4, R5, R6, R4 ;
.L_x_3:
        /*0060*/              @!P1 BRA `(.L_x_0) ;
        /*0070*/                   EXIT ;
        /*0080*/                   FMUL R4, R4, 2 ;
        /*0090*/                   RET.REL.NODEC R6 ;
.L_x_4:
        /*00a0*/                   BRA `(.L_x_4) ;
        /*00b0*/                   NOP ;
"""


@pytest.fixture
def kernel() -> Kernel:
    (found,) = parse(LISTING).values()
    return found


def test_a_loop_runs_as_often_as_its_units_take(kernel: Kernel) -> None:
    assert kernel.loops == ((1, 6),)
    assert kernel.issued({}) == 8
    assert kernel.issued({r"LDG\.E\.128": 10}) == 2 + 10 * 6
    assert kernel.issued({"STG": 10}) == 8  # it has none


def test_a_rare_case_counts_by_its_share(kernel: Kernel) -> None:
    assert kernel.issued({"LDG": 10}, rare=("RED", 0.1)) == pytest.approx(2 + 10 * (4 + 2 * 0.1))


def test_functions_behind_the_kernel_do_not_count(kernel: Kernel) -> None:
    assert kernel.opcodes[kernel.end :] == ("FMUL", "RET.REL.NODEC")
