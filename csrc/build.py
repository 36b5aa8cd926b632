"""How the extension ``fa_detectron._C`` is built: ``extensions()`` and ``cmdclass()`` for setup.py.

Sources are found by folder: ``*.cpp`` in ``csrc``, ``csrc/common``, ``csrc/OPERATOR`` and ``csrc/OPERATOR/cpu`` always,
``*.cu`` and ``*.cpp`` in ``csrc/OPERATOR/cuda`` when CUDA is built. FA_CUDA decides that: ``auto`` (the default: if
there is a toolkit that fits torch's CUDA, GPU or not), ``0`` (never) or ``1`` (fail if it cannot be built). FA_SANITIZE
compiles the C++ code with sanitizers: ``address,undefined`` (tools/sanitize.sh), that or ``thread``
(tools/cuda_emulation/run.sh).
"""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Iterator
from pathlib import Path

import torch
from setuptools.errors import CompileError
from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension

ROOT = Path(__file__).resolve().parent.parent
# Compute capability -> first CUDA toolkit release that can compile for it.
ARCHITECTURES = {"7.5": (10, 0), "8.0": (11, 0), "8.6": (11, 1), "8.9": (11, 8), "9.0": (11, 8), "12.0": (12, 8)}
# PTX, which a card compiles at load time, of the last one, for newer cards, and of these: 10.x and 11.x have no entry.
WITH_PTX = ("9.0",)
DEFAULT_TOOLKIT = "/usr/local/cuda"


class BuildError(Exception):
    """The extension cannot be built; the message names the cause and the remedy in one line."""


def missing() -> str:
    """What the C++ build lacks, as a sentence; empty if nothing."""
    compiler = (os.environ.get("CXX", "").split() or ["c++"])[0]
    if not shutil.which(compiler):
        return f"no C++ compiler ({compiler}): install g++ (Debian, Ubuntu: apt-get install g++) or set CXX"
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        return f"no Python.h in {sysconfig.get_path('include')} (Debian, Ubuntu: apt-get install python3-dev)"
    return ""


def toolkit() -> tuple[Path, tuple[int, int]]:
    """Root folder and release of the CUDA toolkit. Raises BuildError with the reason where there is none that fits."""
    if torch.version.cuda is None:
        raise BuildError(f"torch {torch.__version__} is a build without CUDA")
    on_path = shutil.which("nvcc")
    candidates = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), DEFAULT_TOOLKIT]
    candidates += [Path(on_path).resolve().parent.parent] if on_path else []
    for candidate in (Path(name) for name in candidates if name):
        # torch's own guess can be the folder above a wrapper script: only a real toolkit folder has cudart beside nvcc.
        libraries = (candidate / folder / "libcudart.so" for folder in ("lib64", "lib"))  # lib: conda's
        if os.access(candidate / "bin/nvcc", os.X_OK) and any(library.exists() for library in libraries):
            root = candidate
            break
    else:
        raise BuildError("no CUDA toolkit with bin/nvcc and lib64/libcudart.so; set CUDA_HOME to its folder")
    text = subprocess.run([root / "bin/nvcc", "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"release (\d+)\.(\d+)", text)
    if found is None:
        raise BuildError(f"{root}/bin/nvcc --version does not print a release")
    release = (int(found[1]), int(found[2]))
    if release[0] != int(torch.version.cuda.split(".")[0]):
        raise BuildError(
            f"the toolkit in {root} is CUDA {release[0]}.{release[1]}, torch is built for {torch.version.cuda}"
        )
    return root, release


def _cuda() -> tuple[Path, str] | None:
    """The toolkit's folder and the architecture list, or None where CUDA is not built. Prints what it chose."""
    choice = os.environ.get("FA_CUDA", "auto")
    if choice not in ("auto", "0", "1"):
        raise BuildError(f"FA_CUDA={choice} is not one of auto, 0, 1")
    if choice == "0":
        print("fa_detectron: building the CPU operators only (FA_CUDA=0)")
        return None
    try:
        if not any(ROOT.glob("csrc/*/cuda/*.cu")):
            # Without kernels an extension "with CUDA" would keep the plain-PyTorch versions from running there.
            raise BuildError("csrc/*/cuda has no kernels; on a GPU the operators run in plain PyTorch")
        root, release = toolkit()
    except BuildError as error:
        if choice == "1":
            raise BuildError(f"FA_CUDA=1, but {error}") from None
        print(f"fa_detectron: building the CPU operators only: {error}")
        return None
    names = [name for name, first in ARCHITECTURES.items() if release >= first]
    default = [name + ("+PTX" if name in (*WITH_PTX, names[-1]) else "") for name in names]
    archs = os.environ.get("TORCH_CUDA_ARCH_LIST") or ";".join(default)
    print(f"fa_detectron: building the CPU and CUDA operators with {root} for {archs}")
    return root, archs


def _compiled_architectures() -> str:
    """What TORCH_CUDA_ARCH_LIST comes to, as numbers: it may name cards ("Hopper") or say "native"."""
    from torch.utils import cpp_extension

    names: dict[str, str] = {}
    for flag in cpp_extension._get_cuda_arch_flags():
        if found := re.fullmatch(r"-gencode=arch=compute_(\d+)(\d[af]?),code=(sm|compute)_\w+", flag):
            name = f"{found[1]}.{found[2]}"
            names[name] = name + "+PTX" if found[3] == "compute" else names.get(name, name)
    return ";".join(names.values())


def _toolkit_include_dirs(root: Path) -> list[str]:
    """torch's wheels bring the headers (cusparse, cublas, cusolver) that a minimal toolkit lacks."""
    if (root / "include/cusparse.h").exists():
        return []
    wheels = Path(torch.__file__).resolve().parent.parent / "nvidia"
    return [str(folder) for folder in sorted(wheels.glob("*/include")) if (folder / "cusparse.h").exists()]


def _prepare_environment() -> None:
    """For torch's part of the build, which finds ninja on the PATH only and takes an empty CXX at its word."""
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    if not os.environ.get("CXX", "c++").strip():
        del os.environ["CXX"]


def extensions() -> list:
    """The extension modules for ``setup(ext_modules=...)``; sources are relative to the repository's root."""
    _prepare_environment()
    cuda = _cuda()
    patterns = ["csrc/*.cpp", "csrc/*/*.cpp", "csrc/*/cpu/*.cpp"]
    macros = [("FA_BUILD_TORCH", f'"{torch.__version__}"'), ("FA_BUILD_CUDA", '""'), ("FA_BUILD_ARCHS", '""')]
    flags = {
        "cxx": [
            "-O3",
            "-g0",
            "-std=c++17",
            "-fvisibility=hidden",
            "-fopenmp",
            "-Wall",
            "-Wno-unknown-pragmas",
            "-Wno-psabi",
        ]
    }
    sanitizers = [f"-fsanitize={os.environ['FA_SANITIZE']}"] if os.environ.get("FA_SANITIZE") else []
    if sanitizers:
        flags["cxx"] += ["-O1", "-g1", "-fno-omit-frame-pointer", *sanitizers, "-fno-sanitize-recover=all"]
    include_dirs = [str(ROOT / "csrc")]
    kind = CppExtension
    if cuda is not None:
        root, archs = cuda
        os.environ["CUDA_HOME"] = str(root)
        os.environ["TORCH_CUDA_ARCH_LIST"] = archs
        from torch.utils import cpp_extension

        cpp_extension.CUDA_HOME = str(root)  # read at import: this is how its nvcc and libraries are chosen
        patterns += ["csrc/*/cuda/*.cpp", "csrc/*/cuda/*.cu"]
        macros[1:] = [
            ("FA_BUILD_CUDA", f'"{torch.version.cuda}"'),
            ("FA_BUILD_ARCHS", f'"{_compiled_architectures()}"'),
            ("FA_WITH_CUDA", "1"),
        ]
        flags["nvcc"] = ["-O3", "-std=c++17", "--expt-relaxed-constexpr", "-Xptxas", "-v"]
        include_dirs += _toolkit_include_dirs(root)
        kind = CUDAExtension
    sources = sorted(str(path.relative_to(ROOT)) for pattern in patterns for path in ROOT.glob(pattern))
    return [
        kind(
            "fa_detectron._C",
            sources,
            include_dirs=include_dirs,
            define_macros=macros,
            extra_compile_args=flags,
            # at::parallel_for is inline code: without OpenMP it runs on one thread
            extra_link_args=["-fopenmp", *sanitizers],
            depends=sorted(
                str(path.relative_to(ROOT)) for kind in ("h", "cuh") for path in ROOT.glob(f"csrc/**/*.{kind}")
            ),
        )
    ]


# What the output of a failed build says -> the cause in one line; the first that is found. \1 is the pattern's group.
_CAUSES = (
    (r"(?:/bin/)?sh: (?:\d+: |line \d+: )?(\S*(?:cicc|cudafe\+\+|ptxas|fatbinary|nvlink)\S*): (?:command )?not found",
     r"the CUDA toolkit lacks \1: install it anew or set CUDA_HOME to another (FA_CUDA=0 builds without)"),
    (r"(?:/bin/)?sh: (?:\d+: |line \d+: )?(\S*(?:\+\+|g?cc|clang)\S*): (?:command )?not found",
     r"no C++ compiler (\1): install g++ (Debian, Ubuntu: apt-get install g++) or set CXX"),
    (r"\S+: fatal error: Python\.h: No such file", "no Python.h: install python3-dev"),
    (r"(\S+: fatal error: \S+: No such file or directory)", r"a header is missing: \1"),
    (r"(unsupported GNU version![^\n]*)", r"nvcc does not take this g++, set CXX to an older one: \1"),
    (r"nvcc fatal\s*: (Unsupported gpu architecture[^\n]*)", r"nvcc: \1; set TORCH_CUDA_ARCH_LIST"),
    (r"Command '\['([^']*)', '--?[\w-]*version'\]' returned non-zero", r"\1 is no working C++ compiler: set CXX"),
    (r"No space left on device", "the disk is full (or TMPDIR's is)"),
    (r"(internal compiler error[^\n]*)", r"the compiler crashed: \1"),
    (r"Killed|out of memory allocating", "too little memory for the compiler: set MAX_JOBS=1"),
    (r"\n(\S+:\d+:\d+: error: [^\n]*|\S+\(\d+\): error: ?[^\n]*)", r"\1"),
    (r"(nvcc (?:fatal|error)[^\n]*|ld: cannot find [^\n]*)", r"\1"),
)  # fmt: skip


def _cause(error: BaseException, output: str) -> str:
    """One line on why a build failed: from what its commands printed, else from the exception."""
    for pattern, cause in _CAUSES:
        if found := re.search(pattern, f"\n{output}\n{error}"):
            return found.expand(cause)
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


@contextlib.contextmanager
def _overheard() -> Iterator[list[str]]:
    """Collects what this process and its commands print into the list's one entry, printed on as it comes."""
    heard = [""]
    before = [os.dup(number) for number in (1, 2)]
    read_end, write_end = os.pipe()

    def listen() -> None:
        with open(read_end, "rb") as source:
            for line in source:
                os.write(before[0], line)
                heard[0] += line.decode(errors="replace")

    sys.stdout.flush()
    listener = threading.Thread(target=listen)
    for number in (1, 2):
        os.dup2(write_end, number)
    os.close(write_end)
    listener.start()
    try:
        yield heard
    finally:
        sys.stdout.flush()
        for number, old in zip((1, 2), before, strict=True):
            os.dup2(old, number)
        listener.join()
        for old in before:
            os.close(old)


class _Build(BuildExtension):
    """torch's build command, whose failure ends in one line that names the cause."""

    def build_extensions(self) -> None:
        output = [""]
        try:
            with _overheard() as output:
                super().build_extensions()
        except Exception as error:
            cause = _cause(error, output[0])
            raise CompileError(f"the native operators were not built: {cause}") from None


def cmdclass() -> dict:
    """The commands for ``setup(cmdclass=...)``."""
    return {"build_ext": _Build.with_options(use_ninja=True, no_python_abi_suffix=False)}


def main() -> None:
    """Builds in place: ``python csrc/build.py``."""
    from setuptools import Distribution

    if lack := missing():
        raise BuildError(lack)
    os.chdir(ROOT)
    distribution = Distribution({"name": "fa_detectron", "ext_modules": extensions(), "cmdclass": cmdclass()})
    command = distribution.get_command_obj("build_ext")
    command.inplace = True
    command.ensure_finalized()
    command.run()


if __name__ == "__main__":
    try:
        main()
    except (BuildError, CompileError) as build_error:
        raise SystemExit(f"error: {build_error}") from None
