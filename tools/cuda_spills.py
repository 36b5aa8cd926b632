"""Compiles every CUDA source for each architecture and fails where a kernel spills registers.

    python tools/cuda_spills.py [--archs 8.0 9.0]

Needs the CUDA toolkit that csrc/build.py finds, but no GPU. Spills are memory traffic in the inner loop that no test
sees. Prints one line per kernel: architecture, name, registers, bytes of stack and of spills.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from setuptools import Extension

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Kernel:
    """What ptxas reports about one kernel; bytes per thread."""

    name: str
    registers: int
    stack: int
    spilled: int  # stores and loads


def parse(report: str) -> Iterator[Kernel]:
    """The kernels in the output of ``ptxas -v`` (nvcc -Xptxas -v); names as they are mangled."""
    for block in re.split(r"(?=ptxas info\s*: Compiling entry function )", report)[1:]:
        name = re.match(r"ptxas info\s*: Compiling entry function '(\w+)'", block)[1]
        # The functions that it calls follow; their spills count as well.
        frames = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", block)
        registers = re.search(r"Used (\d+) registers", block)
        if not frames or registers is None:
            raise ValueError(f"ptxas says nothing about the registers of {name}")
        stack = max(int(frame[0]) for frame in frames)
        spilled = sum(int(store) + int(load) for _, store, load in frames)
        yield Kernel(name, int(registers[1]), stack, spilled)


def compile_source(source: str, arch: str, nvcc: Path, extension: "Extension") -> str:
    """nvcc's output for one source and one architecture ("9.0"); raises RuntimeError if it does not compile."""
    from torch.utils.cpp_extension import COMMON_NVCC_FLAGS

    number = arch.replace(".", "")
    with tempfile.TemporaryDirectory() as folder:
        command = [str(nvcc), "-c", source, "-o", f"{folder}/kernels.o", *COMMON_NVCC_FLAGS]
        command += [f"-gencode=arch=compute_{number},code=sm_{number}"]
        command += [f"-I{path}" for path in extension.include_dirs]
        command += [f"-D{name}" if value is None else f"-D{name}={value}" for name, value in extension.define_macros]
        command += extension.extra_compile_args["nvcc"]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        raise RuntimeError(f"{source} does not compile for sm_{number}:\n{run.stdout}{run.stderr}")
    return run.stdout + run.stderr


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--archs", nargs="+", default=["8.0", "9.0"], help="compute capabilities")
    parser.add_argument("--jobs", type=int, default=2, help="compilers at a time")
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT / "csrc"))
    import build

    try:
        root, _ = build.toolkit()
        extension = build.extensions()[0]
    except build.BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    sources = [path for path in extension.sources if path.endswith(".cu")]
    work = [(arch, source) for arch in arguments.archs for source in sources]
    demangle = shutil.which("c++filt") or shutil.which("cu++filt")
    found = 0
    with ThreadPoolExecutor(arguments.jobs) as pool:
        reports = pool.map(lambda item: compile_source(item[1], item[0], root / "bin/nvcc", extension), work)
        for (arch, _), report in zip(work, reports, strict=True):
            for kernel in parse(report):
                name = kernel.name
                if demangle:
                    name = subprocess.run([demangle, name], capture_output=True, text=True, check=True).stdout.strip()
                name = re.sub(r"\(anonymous namespace\)::|fa::\w+::|void ", "", name).partition("(")[0]
                found += kernel.spilled > 0
                mark = "SPILLS" if kernel.spilled else "ok"
                print(f"{mark:>6}  sm_{arch.replace('.', '')}  {name}: {kernel.registers} registers, "
                      f"stack {kernel.stack}, spilled {kernel.spilled} bytes", flush=True)  # fmt: skip
    if found:
        print(f"error: {found} kernels spill registers", file=sys.stderr)
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main())
