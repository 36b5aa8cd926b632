"""How the extension ``fa_detectron._C`` is built: ``extensions()`` and ``cmdclass()`` for setup.py.

Sources are found by folder: ``*.cpp`` in ``csrc``, ``csrc/common``, ``csrc/OPERATOR`` and ``csrc/OPERATOR/cpu`` always,
``*.cu`` and ``*.cpp`` in ``csrc/OPERATOR/cuda`` when CUDA is built. FA_CUDA decides that: ``auto`` (the default: if
there is a toolkit that fits torch's CUDA, GPU or not), ``0`` (never) or ``1`` (fail if it cannot be built). FA_SANITIZE
compiles the C++ code with sanitizers: ``address,undefined`` (tools/sanitize.sh), that or ``thread``
(tools/cuda_emulation/run.sh).
"""

import os
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
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
    """What the C++ build needs and cannot find, as a sentence; "" if nothing."""
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


def _schemas() -> str:
    """The digest of the operators' schemas, by which an extension older than the Python code is recognised."""
    return runpy.run_path(str(ROOT / "fa_detectron/ops/schemas.py"))["digest"]()


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
    macros += [("FA_BUILD_SCHEMAS", f'"{_schemas()}"')]
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
        macros[1:3] = [
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


class _Build(BuildExtension):
    """torch's build command, whose failure ends in one line instead of a traceback."""

    def build_extensions(self) -> None:
        try:
            super().build_extensions()
        except Exception as error:
            cause = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise CompileError(
                f"the native operators were not built ({cause}): the compiler's own messages are above. "
                "MAX_JOBS=1 needs less memory, FA_CUDA=0 leaves CUDA out, CXX chooses the compiler"
            ) from None


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
