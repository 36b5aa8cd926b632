"""The extension ``fa_detectron._C``, which holds the compiled kernels: whether it is loaded, and if not, why.

It is not loaded where it was not built, was built for another torch, or FA_NO_NATIVE=1 is set. The operators then run
their default kernels, in plain PyTorch, and one line of the log says so.
"""

import functools
import importlib
import importlib.util
import logging
import mmap
import os
import re
from dataclasses import dataclass

import torch
from torch import Tensor

from .schemas import digest

_LOGGER = logging.getLogger(__name__)
_BUILD_INFO = re.compile(rb"FA_BUILD_INFO\{torch=([^;{}\0]*);cuda=([^;{}\0]*);archs=([^{}\0]*);schemas=([^;{}\0]*)\}")


@dataclass(frozen=True)
class Status:
    """What ``doctor`` prints. ``reason`` is why the operators are not loaded, empty where they are."""

    loaded: bool
    reason: str
    torch_version: str = ""  # that the extension was built for
    cuda_version: str = ""  # "" where built without CUDA
    cuda_archs: str = ""  # compute capabilities, "8.0;9.0+PTX"
    cpu_capability: str = ""  # default, avx2 or avx512


def _build_info(path: str) -> tuple[str, str, str, str]:
    """(torch version, CUDA version, architectures, digest of the schemas) from the file's bytes.

    Loading it could crash: on another torch, or with other schemas.
    """
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        found = _BUILD_INFO.search(content)
        return tuple(part.decode() for part in found.groups()) if found else ("", "", "", "")


def _release(version: str) -> tuple[str, ...]:
    """Major and minor number: patch releases and local versions share the binary interface."""
    return tuple(version.split("+")[0].split(".")[:2])


def _load() -> Status:
    if os.environ.get("FA_NO_NATIVE", "0") not in ("", "0"):
        return Status(False, "FA_NO_NATIVE is set")
    spec = importlib.util.find_spec("fa_detectron._C")
    if spec is None or spec.origin is None:
        return Status(False, "they are not built: `pip install -e . --no-build-isolation` (needs a C++ compiler)")
    built_for, cuda, archs, schemas = _build_info(spec.origin)
    if _release(built_for) != _release(torch.__version__):
        reason = f"they are built for torch {built_for or '(unknown)'}, this is {torch.__version__}; build them again"
        return Status(False, reason, built_for, cuda, archs)
    if schemas != digest():
        reason = f"{os.path.basename(spec.origin)} is older than the Python code; build them again"
        return Status(False, reason, built_for, cuda, archs)
    if cuda and cuda != (torch.version.cuda or ""):
        here = torch.version.cuda or "the CPU only"
        reason = f"they are built for CUDA {cuda}, this torch is built for {here}; build them again"
        return Status(False, reason, built_for, cuda, archs)
    try:
        importlib.import_module("fa_detectron._C")
        capability = torch.ops.fa_detectron.cpu_capability()
    except ImportError as error:
        reason = f"{os.path.basename(spec.origin)} does not load ({error}); build them again"
        return Status(False, reason, built_for, cuda, archs)
    except RuntimeError as error:  # a bad FA_CPU_CAPABILITY
        raise ValueError(str(error).splitlines()[0]) from None
    return Status(True, "", built_for, cuda, archs, capability)


_STATUS = _load()


def status() -> Status:
    """Whether the native operators are loaded, what they were built for, and why not where they are not."""
    return _STATUS


def loaded() -> bool:
    """Whether the extension is loaded."""
    return _STATUS.loaded


def architectures_fit(archs: str, capability: tuple[int, int]) -> bool:
    """Whether code compiled for ``archs`` ("8.0;9.0+PTX") runs on a GPU of this compute capability.

    Machine code runs on its own major capability from its minor one on; PTX (+PTX) on any later capability. The "a"
    variants ("9.0a"), of either, run on their own capability alone; the "f" variants stay within their major one.
    """
    for entry in filter(None, re.split(r"[;\s]+", archs)):
        number = re.fullmatch(r"(\d+)\.(\d+)([af]?)(\+PTX)?", entry)
        if number is None:
            continue
        compiled = (int(number[1]), int(number[2]))
        anywhere_later = number[4] and not number[3]
        if compiled == capability or (
            compiled < capability and number[3] != "a" and (compiled[0] == capability[0] or anywhere_later)
        ):
            return True
    return False


@functools.cache
def lacks_code_for(index: int) -> str:
    """Why CUDA device ``index`` cannot run the kernels that this build has for CUDA; empty where it can."""
    if not torch.cuda.is_available():  # a fake tensor's device
        return ""
    capability = torch.cuda.get_device_capability(index)
    if architectures_fit(_STATUS.cuda_archs, capability):
        return ""
    number = "{}.{}".format(*capability)
    return f"they have no code for GPU {index} of compute capability {number}, only for {_STATUS.cuda_archs}"


# Levels that the loss's and decoding's CUDA kernels take (csrc/quality_loss/cuda/launch.h, decode/cuda/launch.h).
_CUDA_LEVELS = 8
_CUDA_DEVICE = "cuda"  # where they run


def within_cuda_limits(maps: list[Tensor], most_images: int) -> bool:
    """Whether the CUDA kernels take so many levels and images (of maps on a GPU); logs once if not.

    Args:
        maps: one (N, C, H, W) tensor per level.
        most_images: the kernels' limit.
    """
    device, levels, images = maps[0].device, len(maps), maps[0].shape[0]
    if device.type != _CUDA_DEVICE or (levels <= _CUDA_LEVELS and images <= most_images):
        return True
    if not torch.compiler.is_compiling():
        limits = f"{_CUDA_LEVELS} levels and {most_images} images"
        _say_once(f"on a GPU they take up to {limits}, got {levels} and {images}")
    return False


_warned: set[str] = set()


def say_plain(device: torch.device) -> None:
    """Logs, once for each reason, why an operator runs in plain PyTorch on this device."""
    if not _STATUS.loaded:
        _say_once(_STATUS.reason)
    elif device.type == "cuda" and _STATUS.cuda_version:
        lack = lacks_code_for(device.index or 0) or "they have no code for another GPU of this machine"
        _say_once(f"{lack}; build them again (fa-detectron doctor says how)")
    else:
        _say_once(f"they have no {device.type} version (FA_CUDA=1 builds that for CUDA)")


def _say_once(reason: str) -> None:
    if reason in _warned:
        return
    _warned.add(reason)
    # Logged, not warned: a run's log file has it too, and only its first process prints it.
    _LOGGER.warning("fa_detectron runs in plain PyTorch, slower, the native operators are off: %s", reason)
