"""Defines the operators, and registers for each what does not depend on a device. torch's dispatcher then chooses.

The extension registers kernels for CPU and CUDA and, above them, for the autograd keys of both. On every other device,
and everywhere without the extension, an operator's default kernel runs: its plain-PyTorch version, through which torch
differentiates, compiles and exports operation by operation. (Not registered as CompositeImplicitAutograd: torch.compile
would replace the native operators by it, too.)
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from . import native
from .schemas import SCHEMAS

LIBRARY = torch.library.Library("fa_detectron", "FRAGMENT")
for _schema in SCHEMAS:
    LIBRARY.define(_schema)

_AUTOCAST = {"cpu": "AutocastCPU", "cuda": "AutocastCUDA"}
_DEFAULTS: dict[str, Callable] = {}


def register_default(name: str, kernel: Callable) -> None:
    """``kernel`` runs where the extension has no kernel of its own; one line of the log says why."""

    def default(*args: Any) -> Any:
        device = next(x.device for x in tree_leaves(args) if isinstance(x, Tensor))
        native.say_plain(device)
        return kernel(*args)

    for key in ("Autograd", "CompositeExplicitAutograd"):
        LIBRARY.impl(name, default, key)
    _DEFAULTS[name] = default


def prepare(tensor: Tensor) -> None:
    """Before an operator's call: on a GPU that the extension has no code for, the default kernels take over."""
    if tensor.is_cuda and native.status().cuda_version:
        _prepare(tensor.device.index or 0)


@torch.compiler.assume_constant_result
def _prepare(index: int) -> str:
    return _take_over(index)


@functools.cache
def _take_over(index: int) -> str:
    lack = native.lacks_code_for(index)
    if lack:  # on all GPUs: a training step that jumps between native and plain operators is nobody's wish
        for name, kernel in _DEFAULTS.items():
            for key in ("CUDA", "AutogradCUDA"):
                LIBRARY.impl(name, kernel, key, allow_override=True)
    return lack


def register_native(name: str, fake: Callable) -> None:
    """The fake kernel of an operator that the extension implements; torch.vmap over it is an error."""
    if not native.loaded():
        return
    torch.library.register_fake(f"fa_detectron::{name}", fake, lib=LIBRARY)

    def refuse(info: Any, in_dims: tuple, *args: Any) -> None:
        raise RuntimeError(
            f"fa_detectron's {name.removesuffix('_backward')} does not work under torch.vmap; "
            "it takes a batch of images as it is"
        )

    torch.library.register_vmap(f"fa_detectron::{name}", refuse, lib=LIBRARY)


def register_autocast(name: str, cast: Callable[[torch.dtype, Sequence[Any]], Sequence[Any]]) -> None:
    """Under autocast the operator gets ``cast(autocast's dtype, arguments)``."""
    operator = getattr(torch.ops.fa_detectron, name).default
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU)
    keys |= torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCUDA)

    def register(device: str, key: str) -> None:
        def kernel(*args: Any) -> Any:
            with torch._C._ExcludeDispatchKeyGuard(keys):
                return operator(*cast(torch.get_autocast_dtype(device), args))

        LIBRARY.impl(name, kernel, key)

    for device, key in _AUTOCAST.items():
        register(device, key)


def cast(value: Any, dtype: torch.dtype) -> Any:
    """A tensor, or the tensors of a list, in ``dtype``; float64 and integers stay, as in torch's own autocast."""
    if isinstance(value, (list, tuple)):
        return [cast(x, dtype) for x in value]
    floats = isinstance(value, Tensor) and value.is_floating_point() and value.dtype != torch.float64
    return value.to(dtype) if floats else value
