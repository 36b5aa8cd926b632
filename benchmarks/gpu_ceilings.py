"""What a GPU can do at best, for the model in docs/cuda_deform_conv.md: a table of benchmarks/gpu.py."""

import ctypes
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from common import summarize
from gpu_timing import timed

ROOT = Path(__file__).resolve().parents[1]


def build_reductions(folder: str) -> ctypes.CDLL:
    """benchmarks/ceilings.cu for the current GPU."""
    sys.path.append(str(ROOT / "csrc"))
    import build

    arch = "sm_{}{}".format(*torch.cuda.get_device_capability())
    library = f"{folder}/ceilings.so"
    command = [build.toolkit()[0] / "bin/nvcc", "-O3", "-std=c++17", f"-arch={arch}", "-shared", "-Xcompiler", "-fPIC"]
    subprocess.run([*command, "-o", library, ROOT / "benchmarks/ceilings.cu"], check=True)
    return ctypes.CDLL(library)


def reduction(library: ctypes.CDLL, sums: torch.Tensor, passes: int, vector: bool) -> Callable[[], None]:
    def run() -> None:
        arguments = ctypes.c_void_p(sums.data_ptr()), ctypes.c_long(sums.numel()), passes, int(vector)
        if status := library.fa_reduce(*arguments, ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)):
            raise RuntimeError(f"the reductions do not run: CUDA error {status}")

    return run


def ceiling_rows(options) -> Iterator[dict]:
    """TB/s, or TFLOP/s of products. On a CPU, for a try, of small sizes."""
    gpu = options.device == "cuda"

    def filled(*sizes: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.zeros([-(-size // (1 if gpu else 64)) for size in sizes], dtype=dtype, device=options.device)

    large, small, other = filled(2**28), filled(2**22), filled(2**28)
    cases: dict[str, tuple[Callable, float, str]] = {
        "copy of 1 GiB": (lambda: other.copy_(large), 8 * large.numel(), "TB/s"),
        "16 MiB in L2, read and written": (
            lambda: [small.add_(1) for _ in range(8)],
            64 * small.numel(),
            "TB/s",
        ),
    }
    for dtype, name in ((torch.bfloat16, "bf16"), (torch.float32, "TF32")):
        a, b = filled(8192, 2304, dtype=dtype), filled(2304, 256, dtype=dtype)
        work = 2 * a.shape[0] * a.shape[1] * b.shape[1]
        cases[f"{name} product (8192, 2304) x (2304, 256)"] = (lambda a=a, b=b: a @ b, work, "TFLOP/s")
        grad = filled(8192, 256, dtype=dtype)
        cases[f"{name} product (256, 8192) x (8192, 2304)"] = (lambda a=a, g=grad: g.t() @ a, work, "TFLOP/s")
    torch.backends.cuda.matmul.allow_tf32 = True
    with tempfile.TemporaryDirectory() as folder:
        if gpu:
            library = build_reductions(folder)
            for vector in (False, True) if torch.cuda.get_device_capability()[0] >= 9 else (False,):
                name = f"reductions of {16 if vector else 4} bytes a lane into 16 MiB"
                cases[name] = (reduction(library, small, 8, vector), 32 * small.numel(), "TB/s")
        for name, (case, work, unit) in cases.items():
            times = timed({name: case}, options)[name]
            yield {
                "ceiling": name,
                "ms": summarize(times),
                "rate": f"{work / 1e9 / summarize(times).median:.2f} {unit}",
            }
