"""Tensors of other detectors under this project's names, where they mean the same.

RetinaNet, FCOS and Faster R-CNN of Detectron2's model zoo name backbone and FPN as this project does, and cvpods'
AutoAssign names everything so. The heads differ: towers without normalisation number their layers differently, FCOS has
a centerness instead of the objectness, and the De-Subnet has its convolutions one level deeper.
"""

import re
from collections.abc import Collection
from typing import Any

import torch

_TOWER = re.compile(r"(head\.(?:cls|bbox)_subnet)\.(\d+)\.(weight|bias)")
_CONVOLUTION = re.compile(r"(head\.(?:cls|bbox)_subnet)\.(\d+)\.(?:conv\.)?weight")  # conv: a deformable one
_OBJECTNESS = re.compile(r"head\.(?:ctrness|centerness)\.(weight|bias)")
_LAYERS = 3  # of this project's towers: convolution, GroupNorm, ReLU


def adapt_names(weights: dict[str, Any], wanted: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Another detector's tensors: under this model's names if they mean the same, else unchanged.

    Args:
        weights: tensors or arrays by name.
        wanted: the model's state dict.
    """
    if all(name.startswith("module.") for name in weights):  # of a model that was wrapped for several GPUs
        weights = {name.removeprefix("module."): value for name, value in weights.items()}
    layers = _tower_layers(weights)
    anchors = _anchors(weights)
    result = {}
    for name, value in weights.items():
        if match := _TOWER.fullmatch(name):
            target = _tower_name(match, layers, wanted)
        elif match := _OBJECTNESS.fullmatch(name):
            target = f"head.obj_score.{match[1]}"
        elif anchors != 1 and name.startswith(("head.cls_score.", "head.bbox_pred.")):
            target = f"{name} (of {anchors} anchors)"  # even where their number happens to fit, they are of boxes
        else:
            target = name
        result[target] = value
    return result


def expand_priors(weights: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Copy the file's Gaussian per class to every level of a model with MDQ (in place).

    Args:
        weights: of the file; (K, 2) priors become (levels, K, 2).
        wanted: the model's state dict.
    """
    for name in ("mu", "sigma"):
        prior, shape = weights.get(name), wanted[name].shape if name in wanted else ()
        if prior is not None and len(shape) == 3 and tuple(prior.shape) == tuple(shape[1:]):
            weights[name] = torch.as_tensor(prior).expand(shape).clone()


def _tower_layers(weights: dict[str, Any]) -> dict[str, str]:
    """The index here of each convolution and its normalisation, by "SUBNET.INDEX" of the file."""
    indices: dict[str, list[int]] = {}
    for name, value in weights.items():
        match = _CONVOLUTION.fullmatch(name)
        if match and value.ndim == 4:
            indices.setdefault(match[1], []).append(int(match[2]))
    layers = {}
    for subnet, convolutions in indices.items():
        for count, index in enumerate(sorted(convolutions)):
            layers[f"{subnet}.{index}"] = str(_LAYERS * count)
            if f"{subnet}.{index + 1}.running_mean" not in weights:  # BatchNorm's scales belong to its statistics
                layers[f"{subnet}.{index + 1}"] = str(_LAYERS * count + 1)
    return layers


def _tower_name(match: re.Match, layers: dict[str, str], wanted: Collection[str]) -> str:
    subnet, index, kind = match.groups()
    layer = f"{subnet}.{layers[f'{subnet}.{index}']}" if f"{subnet}.{index}" in layers else ""
    if not layer:
        return f"{match[0]} (of another tower)"
    deformable = f"{layer}.conv.{kind}"
    return deformable if deformable in wanted and f"{layer}.{kind}" not in wanted else f"{layer}.{kind}"


def _anchors(weights: dict[str, Any]) -> int:
    """The number of boxes that the file's head predicts per location."""
    boxes = weights.get("head.bbox_pred.bias")
    return max(1, len(boxes) // 4) if boxes is not None and boxes.ndim == 1 else 1
