"""Compiles every CUDA source for each architecture and fails if a kernel spills registers.

    python tools/cuda_spills.py [--archs 8.0 9.0]

Needs the CUDA toolkit that csrc/build.py finds, but no GPU. Spills are memory traffic in the inner loop that no test
sees; ptxas names the kernels that have them.
"""

import argparse
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from setuptools import Extension

ROOT = Path(__file__).resolve().parents[1]


def compile_source(source: str, arch: str, nvcc: Path, extension: "Extension") -> None:
    """Compile one source for one architecture ("9.0"). Raises RuntimeError with nvcc's output if that fails."""
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
    extension.extra_compile_args["nvcc"] += ["-Xptxas", "-warn-spills,-Werror"]
    sources = [path for path in extension.sources if path.endswith(".cu")]
    failures = 0
    with ThreadPoolExecutor(arguments.jobs) as pool:
        work = {
            f"{source} for {arch}": pool.submit(compile_source, source, arch, root / "bin/nvcc", extension)
            for arch in arguments.archs
            for source in sources
        }
        for name, result in work.items():
            error = result.exception()
            failures += error is not None
            print(f"{name}: {error or 'no spills'}", flush=True)
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
