"""torch.export of the inference network, and which part is to blame where it fails."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from fa_detectron.errors import UserError

from .network import InferenceNetwork

# What a program of any size is traced with. All its maps have more than one cell a side, as the program will demand.
_TRACED_SIZE = (256, 320)
_PARTS = ("backbone.bottom_up", "backbone.global_attention", "backbone", "head")


def export_program(network: InferenceNetwork, size: tuple[int, int] | None) -> ExportedProgram:
    """The network as a graph; its input is ``image`` (1, 3, H, W).

    Args:
        network: on the CPU.
        size: (H, W) in pixels, the only size that the graph takes; None: any size from 129 pixels a side (below, the
            coarsest map is a single cell, which torch.export sees as another program).

    Raises:
        UserError: some part cannot be exported; says which and why.
    """
    image = torch.zeros(1, 3, *(size or _TRACED_SIZE), device=network.pixel_mean.device)
    shapes = None if size else ({2: Dim.DYNAMIC, 3: Dim.DYNAMIC},)
    try:
        return _export(network, (image,), shapes)
    except Exception as error:  # torch.export passes on whatever a part raises
        raise UserError(_explain(network, image, dynamic=size is None, error=error)) from error


def _export(module: nn.Module, inputs: tuple, shapes: Any) -> ExportedProgram:
    with torch.no_grad(), quiet():
        return torch.export.export(module, inputs, dynamic_shapes=shapes, strict=False)


def _explain(network: InferenceNetwork, image: Tensor, dynamic: bool, error: Exception) -> str:
    name, reason = "decoding", error
    for name_of_part, part, inputs in _parts(network, image):
        try:
            _export(part, inputs, _dynamic_maps(inputs) if dynamic else None)
        except Exception as found:
            name, reason = f"{name_of_part} ({type(part).__name__})", found
            break
    hint = "; with a fixed size (--size HEIGHT WIDTH) it may be possible" if dynamic else ""
    return f"torch.export cannot export {name}: {first_line(reason)}{hint}"


def _parts(network: InferenceNetwork, image: Tensor) -> Iterator[tuple[str, nn.Module, tuple]]:
    """The parts with what they get, in the order of their use, smaller ones before those that contain them."""
    inputs: dict[str, tuple] = {}
    modules = dict(network.named_modules())
    present = [name for name in _PARTS if name in modules]
    hooks = [
        modules[name].register_forward_pre_hook(lambda _, given, name=name: inputs.update({name: given}))
        for name in present
    ]
    try:
        with torch.no_grad():
            network(image)
    finally:
        for hook in hooks:
            hook.remove()
    return ((name, modules[name], inputs[name]) for name in present)


def _dynamic_maps(inputs: Any) -> Any:
    """Height and width of every map or mask are dynamic."""
    if inputs is None:
        return None
    if isinstance(inputs, Tensor):
        return {inputs.dim() - 2: Dim.DYNAMIC, inputs.dim() - 1: Dim.DYNAMIC}
    return type(inputs)(_dynamic_maps(item) for item in inputs)


def first_line(error: Exception) -> str:
    """The first line of an exception that says something, with its type."""
    lines = [line.strip() for line in str(error).splitlines()]
    return f"{type(error).__name__}: {next((line for line in lines if line), 'no text')}"


@contextmanager
def quiet() -> Iterator[None]:
    """torch's exporters tell of their progress and of deprecations in themselves; none of it is the user's."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
