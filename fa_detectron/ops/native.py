"""The compiled operators: whether they are there, and the decision to use them.

``fa_detectron._C`` registers them under ``torch.ops.fa_detectron``. Where it was not built, was built for another
torch, has no code for the GPU, or FA_NO_NATIVE=1 is set, the plain-PyTorch reference runs instead, and one line says
so.
"""

import functools
import importlib
import importlib.util
import logging
import mmap
import os
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._functorch import eager_transforms
from torch.autograd import forward_ad

_LOGGER = logging.getLogger(__name__)
# Those with a kernel a device; an extension without one of them is older than this code (schemas: csrc/registry.cpp).
_OPERATORS = (
    "deform_conv2d",
    "deform_conv2d_backward",
    "deform_conv2d_levels",
    "deform_conv2d_levels_backward",
    "quality_statistics",
    "quality_loss_forward",
    "quality_loss_backward",
    "decode_detections",
)
_BUILD_INFO = re.compile(rb"FA_BUILD_INFO\{torch=([^;{}\0]*);cuda=([^;{}\0]*);archs=([^{}\0]*)\}")


@dataclass(frozen=True)
class Status:
    """What ``doctor`` prints. ``reason`` is why the operators are not loaded, empty where they are."""

    loaded: bool
    reason: str
    torch_version: str = ""  # that the extension was built for
    cuda_version: str = ""  # "" where built without CUDA
    cuda_archs: str = ""  # compute capabilities, "8.0;9.0+PTX"
    cpu_capability: str = ""  # default, avx2 or avx512


def _build_info(path: str) -> tuple[str, str, str]:
    """(torch version, CUDA version, architectures) from the file's bytes: loading it could crash on another torch."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        found = _BUILD_INFO.search(content)
        return tuple(part.decode() for part in found.groups()) if found else ("", "", "")


def _release(version: str) -> tuple[str, ...]:
    """Major and minor number: patch releases and local versions share the binary interface."""
    return tuple(version.split("+")[0].split(".")[:2])


def _load() -> Status:
    if os.environ.get("FA_NO_NATIVE", "0") not in ("", "0"):
        return Status(False, "FA_NO_NATIVE is set")
    spec = importlib.util.find_spec("fa_detectron._C")
    if spec is None or spec.origin is None:
        return Status(False, "they are not built; `python setup.py develop` builds them (it needs a C++ compiler)")
    built_for, cuda, archs = _build_info(spec.origin)
    if _release(built_for) != _release(torch.__version__):
        reason = f"they are built for torch {built_for or '(unknown)'}, this is {torch.__version__}; build them again"
        return Status(False, reason, built_for, cuda, archs)
    if cuda and cuda != (torch.version.cuda or ""):
        here = torch.version.cuda or "the CPU only"
        reason = f"they are built for CUDA {cuda}, this torch is built for {here}; build them again"
        return Status(False, reason, built_for, cuda, archs)
    try:
        importlib.import_module("fa_detectron._C")
        capability = torch.ops.fa_detectron.cpu_capability()
        absent = [name for name in _OPERATORS if not hasattr(torch.ops.fa_detectron, name)]
    except ImportError as error:
        reason = f"{os.path.basename(spec.origin)} does not load ({error}); build them again"
        return Status(False, reason, built_for, cuda, archs)
    except RuntimeError as error:  # a bad FA_CPU_CAPABILITY
        raise ValueError(str(error).splitlines()[0]) from None
    if absent:
        reason = f"{os.path.basename(spec.origin)} is older than the Python code (no {absent[0]}); build them again"
        return Status(False, reason, built_for, cuda, archs)
    return Status(True, "", built_for, cuda, archs, capability)


def _devices() -> tuple[str, ...]:
    if not _STATUS.loaded:
        return ()
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    # All or none: a training step that jumps between native and plain operators is nobody's wish.
    on_cuda = all(has_kernel(f"fa_detectron::{name}", "CUDA") for name in _OPERATORS)
    return ("cpu", "meta", "cuda") if on_cuda else ("cpu", "meta")


_STATUS = _load()
# Device types on which the native operators run; plain data, so that torch.compile folds the decision away.
_DEVICES = _devices()


def status() -> Status:
    """Whether the native operators are loaded, what they were built for, and why not where they are not."""
    return _STATUS


def loaded() -> bool:
    """Whether torch.ops.fa_detectron has the operators: fake kernels and autograd are registered only then."""
    return _STATUS.loaded


def architectures_fit(archs: str, capability: tuple[int, int]) -> bool:
    """Whether code compiled for ``archs`` ("8.0;9.0+PTX") runs on a card of this compute capability.

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


@torch.compiler.assume_constant_result
def lacks_code_for(index: int) -> str:
    """Why CUDA device ``index`` cannot run the operators that this build has for CUDA; empty where it can."""
    return _lacks_code_for(index)


@functools.cache  # a call asks for every tensor
def _lacks_code_for(index: int) -> str:
    if not torch.cuda.is_available():  # a fake tensor's device
        return ""
    capability = torch.cuda.get_device_capability(index)
    if architectures_fit(_STATUS.cuda_archs, capability):
        return ""
    number = "{}.{}".format(*capability)
    return f"they have no code for GPU {index} of compute capability {number}, only for {_STATUS.cuda_archs}"


def use(*tensors: Tensor | None) -> bool:
    """Whether a call with these tensors goes to the native operator; says once where it does not.

    Raises RuntimeError where a tensor has a tangent: torch.library would lose it, and the derivative would be 0.
    """
    for tensor in tensors:
        if tensor is None:
            continue
        device = tensor.device
        if device.type not in _DEVICES or (device.type == "cuda" and lacks_code_for(device.index or 0)):
            if not torch.compiler.is_compiling():
                _warn_once(device)
            return False
    _refuse_tangents(tensors)
    return True


# Levels that the loss's and decoding's CUDA kernels take (csrc/quality_loss/cuda/launch.h, decode/cuda/launch.h).
_CUDA_LEVELS = 8
_CUDA_DEVICE = "cuda"  # where they run


def within_cuda_limits(maps: list[Tensor], most_images: int) -> bool:
    """Whether the CUDA kernels take so many levels and images, if the maps are there; says once where they do not.

    Args:
        maps: a level, (N, C, H, W).
        most_images: that the kernels take.
    """
    device, levels, images = maps[0].device, len(maps), maps[0].shape[0]
    if device.type != _CUDA_DEVICE or (levels <= _CUDA_LEVELS and images <= most_images):
        return True
    if not torch.compiler.is_compiling():
        limits = f"{_CUDA_LEVELS} levels and {most_images} images"
        _say_once(f"on a GPU they take up to {limits}, got {levels} and {images}")
    return False


def _refuse_tangents(tensors: tuple[Tensor | None, ...]) -> None:
    if torch.compiler.is_compiling():  # no look at the tensors: whatever is inside a jvp counts
        refused = eager_transforms.JVP_NESTING > 0
    else:
        # Outside of every level, as in all training, no tensor has one. Private: where it is gone each tensor is asked.
        inside = getattr(forward_ad, "_current_level", 0) >= 0
        refused = inside and any(x is not None and forward_ad.unpack_dual(x).tangent is not None for x in tensors)
    if refused:
        raise RuntimeError(
            "fa_detectron's native operators have no forward-mode derivative (torch.func.jvp); FA_NO_NATIVE=1 runs "
            "them in plain PyTorch, which has"
        )


def refuse_vmap(*operators: str) -> None:
    """Makes torch.vmap over these operators an error in words, not a guess about their lists of tensors."""

    def refuse(info: Any, in_dims: tuple, *args: Any) -> None:
        raise RuntimeError(
            f"fa_detectron's {operators[0]} does not work under torch.vmap; it takes a batch of images as it is"
        )

    for name in operators:
        torch.library.register_vmap(f"fa_detectron::{name}", refuse)


_warned: set[str] = set()


def _warn_once(device: torch.device) -> None:
    reason = _STATUS.reason
    if not reason and device.type in _DEVICES:
        reason = f"{lacks_code_for(device.index or 0)}; build them again (fa-detectron doctor says how)"
    elif not reason:
        reason = f"they have no {device.type} version (FA_CUDA=1 builds that for CUDA)"
    _say_once(reason)


def _say_once(reason: str) -> None:
    if reason in _warned:
        return
    _warned.add(reason)
    # Logged, not warned: a run's log file has it too, and only its first process prints it.
    _LOGGER.warning("fa_detectron runs in plain PyTorch, slower, the native operators are off: %s", reason)
