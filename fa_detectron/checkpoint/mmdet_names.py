"""mmdetection's AutoAssign in this project's names: the parameters of its ResNet, FPN and AutoAssignHead.

Both are the same network (ResNet, FPN, FCOS's two subnets with an objectness branch, priors a class); what differs is
names, the shape of the scales, and that mmdetection makes P6 of C5 (``add_extra_convs=True``). Box distances are left,
top, right, bottom in strides on both sides, the objectness is mmdetection's ``conv_centerness``, and locations stand at
the corners of the cells. Names as in mmdetection 2.12 to 3.3.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

# From mmdetection's modules to Detectron2's; {0}, {1} are the numbers found.
_RULES: list[tuple[str, Callable[..., str]]] = [
    (r"backbone\.conv1\.(\w+)", "backbone.bottom_up.stem.conv1.{0}".format),
    (r"backbone\.bn1\.(\w+)", "backbone.bottom_up.stem.conv1.norm.{0}".format),
    (
        r"backbone\.layer(\d)\.(\d+)\.(conv|bn)(\d)\.(\w+)",
        lambda stage, block, kind, conv, name: (
            f"backbone.bottom_up.res{int(stage) + 1}.{block}.conv{conv}.{'norm.' if kind == 'bn' else ''}{name}"
        ),
    ),
    (
        r"backbone\.layer(\d)\.(\d+)\.downsample\.([01])\.(\w+)",
        lambda stage, block, part, name: (
            f"backbone.bottom_up.res{int(stage) + 1}.{block}.shortcut.{'norm.' if part == '1' else ''}{name}"
        ),
    ),
    (r"bbox_head\.cls_convs\.(\d+)\.conv\.(weight|bias)", lambda i, name: f"head.cls_subnet.{3 * int(i)}.{name}"),
    (r"bbox_head\.cls_convs\.(\d+)\.gn\.(weight|bias)", lambda i, name: f"head.cls_subnet.{3 * int(i) + 1}.{name}"),
    (r"bbox_head\.reg_convs\.(\d+)\.conv\.(weight|bias)", lambda i, name: f"head.bbox_subnet.{3 * int(i)}.{name}"),
    (r"bbox_head\.reg_convs\.(\d+)\.gn\.(weight|bias)", lambda i, name: f"head.bbox_subnet.{3 * int(i) + 1}.{name}"),
    (r"bbox_head\.conv_cls\.(weight|bias)", "head.cls_score.{0}".format),
    (r"bbox_head\.conv_reg\.(weight|bias)", "head.bbox_pred.{0}".format),
    (r"bbox_head\.conv_centerness\.(weight|bias)", "head.obj_score.{0}".format),
    (r"bbox_head\.scales\.(\d+)\.scale", "head.scales.{0}.scale".format),
    (r"bbox_head\.center_prior\.mean", lambda: "mu"),
    (r"bbox_head\.center_prior\.sigma", lambda: "sigma"),
]
_NEEDED = ("backbone.bottom_up.stem.conv1.weight", "backbone.fpn_lateral5.weight", "backbone.top_block.p6.weight",
           "backbone.top_block.p7.weight", "head.cls_subnet.0.weight", "head.bbox_subnet.0.weight",
           "head.cls_score.weight", "head.bbox_pred.weight", "head.obj_score.weight", "head.scales.0.scale",
           "mu", "sigma")  # fmt: skip


@dataclass
class Converted:
    """A state dict in this project's names.

    Attributes:
        weights: ready for MODEL.WEIGHTS.
        left_over: names of the file that mean nothing here.
        missing: parts of the detector that the file does not have.
    """

    weights: dict[str, Tensor]
    left_over: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @property
    def num_classes(self) -> int:
        return self.weights["head.cls_score.weight"].shape[0]

    def options(self) -> dict[str, object]:
        """The config keys that the shapes tell."""
        weights = self.weights
        p6, p5 = weights["backbone.top_block.p6.weight"], weights["backbone.fpn_lateral5.weight"]
        blocks = {int(k.split(".")[3]) for k in weights if k.startswith("backbone.bottom_up.res4.")}
        bottleneck = "backbone.bottom_up.res2.0.conv3.weight" in weights
        depth = {(2, False): 18, (6, False): 34, (6, True): 50, (23, True): 101, (36, True): 152}
        options: dict[str, object] = {
            "MODEL.RESNETS.DEPTH": depth.get((len(blocks), bottleneck), 0),
            "MODEL.FEATURE_ALIGN.NUM_CLASSES": self.num_classes,
            "MODEL.FEATURE_ALIGN.P6_FEATURE": "p5" if p6.shape[1] == p5.shape[0] else "res5",
        }
        return {key: value for key, value in options.items() if value}


def convert_names(state: dict[str, Tensor]) -> Converted:
    """Rename mmdetection's parameters.

    Args:
        state: its ``state_dict``; "module." before every name is dropped.
    """
    state = {name.removeprefix("module."): value for name, value in state.items()}
    laterals = len({name.split(".")[2] for name in state if name.startswith("neck.lateral_convs.")})
    result = Converted({})
    for name, value in state.items():
        if name.endswith("num_batches_tracked"):
            continue  # a counter that frozen BatchNorm does not have
        target = _neck(name, laterals) or _rename(name)
        if target is None:
            result.left_over.append(name)
        else:
            # mmcv's Scale is a number, ours a vector of one.
            result.weights[target] = value.reshape(1) if target.endswith(".scale") else value
    result.missing = [name for name in _NEEDED if name not in result.weights]
    return result


def _rename(name: str) -> str | None:
    for pattern, target in _RULES:
        match = re.fullmatch(pattern, name)
        if match:
            return target(*match.groups())
    return None


def _neck(name: str, laterals: int) -> str | None:
    """``laterals`` maps up to C5 come first; the convolutions after theirs are P6 and P7."""
    match = re.fullmatch(r"neck\.(lateral|fpn)_convs\.(\d+)\.conv\.(weight|bias)", name)
    if not match:
        return None
    kind, index, part = match[1], int(match[2]), match[3]
    if index < laterals:
        return f"backbone.fpn_{'lateral' if kind == 'lateral' else 'output'}{6 - laterals + index}.{part}"
    return f"backbone.top_block.p{6 + index - laterals}.{part}" if index - laterals < 2 else None
