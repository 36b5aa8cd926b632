"""Convert a checkpoint of mmdetection's AutoAssign.

    python -m fa_detectron.checkpoint.convert_mmdet IN.pth OUT.pth

OUT.pth is for MODEL.WEIGHTS; the command prints the config keys that belong to it.

Both are the same network (ResNet, FPN, FCOS's two subnets with an objectness branch, priors per class). They differ in
names, in the shape of the scales, and in that mmdetection makes P6 from C5 (``add_extra_convs=True``). In both, box
distances are left, top, right, bottom in strides, and locations are at the corners of the cells; mmdetection calls the
objectness ``conv_centerness``. Names as in mmdetection 2.12 to 3.3.
"""

import argparse
import os
import re
import reprlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fa_detectron.checkpoint.read_file import read_weights
from fa_detectron.errors import UserError, run_command
from fa_detectron.files import atomic_write

# What mmdetection's configs of either ResNet style say of the input (of its data_preprocessor or img_norm_cfg).
_CAFFE = {"MODEL.RESNETS.STRIDE_IN_1X1": True, "INPUT.FORMAT": "BGR",
          "MODEL.PIXEL_MEAN": [102.9801, 115.9465, 122.7717], "MODEL.PIXEL_STD": [1.0, 1.0, 1.0]}  # fmt: skip
_PYTORCH = {"MODEL.RESNETS.STRIDE_IN_1X1": False, "INPUT.FORMAT": "RGB",
            "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53], "MODEL.PIXEL_STD": [58.395, 57.12, 57.375]}  # fmt: skip


_SUBNETS = {"cls": "cls_subnet", "reg": "bbox_subnet"}
_PREDICTIONS = {"cls": "cls_score", "reg": "bbox_pred", "centerness": "obj_score"}
# From mmdetection's modules to Detectron2's; the functions get the groups of the pattern.
_RULES: list[tuple[str, Callable[..., str]]] = [
    (r"backbone\.(conv|bn)1\.(\w+)", lambda kind, name: f"backbone.bottom_up.stem.conv1.{_norm(kind)}{name}"),
    (
        r"backbone\.layer(\d)\.(\d+)\.(conv|bn)(\d)\.(\w+)",
        lambda stage, block, kind, conv, name: f"{_block(stage, block)}.conv{conv}.{_norm(kind)}{name}",
    ),
    (
        r"backbone\.layer(\d)\.(\d+)\.downsample\.([01])\.(\w+)",
        lambda stage, block, part, name: f"{_block(stage, block)}.shortcut.{_norm('bn' if part == '1' else '')}{name}",
    ),
    (
        r"bbox_head\.(cls|reg)_convs\.(\d+)\.(conv|gn)\.(weight|bias)",
        lambda kind, i, part, name: f"head.{_SUBNETS[kind]}.{3 * int(i) + (part == 'gn')}.{name}",
    ),
    (r"bbox_head\.conv_(cls|reg|centerness)\.(weight|bias)", lambda kind, name: f"head.{_PREDICTIONS[kind]}.{name}"),
    (r"bbox_head\.scales\.(\d+)\.scale", "head.scales.{0}.scale".format),
    (r"bbox_head\.center_prior\.mean", lambda: "mu"),
    (r"bbox_head\.center_prior\.sigma", lambda: "sigma"),
]
_NEEDED = ("backbone.bottom_up.stem.conv1.weight", "backbone.fpn_lateral5.weight", "backbone.top_block.p6.weight",
           "backbone.top_block.p7.weight", "head.cls_subnet.0.weight", "head.bbox_subnet.0.weight",
           "head.cls_score.weight", "head.bbox_pred.weight", "head.obj_score.weight", "head.scales.0.scale",
           "mu", "sigma")  # fmt: skip


def _norm(kind: str) -> str:
    return "norm." if kind == "bn" else ""


def _block(stage: str, block: str) -> str:
    return f"backbone.bottom_up.res{int(stage) + 1}.{block}"


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


class _HistoryBuffer:
    """Stands in for mmengine's record of the losses, which lies in checkpoints beside the weights: kept, unused."""


def read_mmdet(path: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(state dict, meta) of a checkpoint of mmdetection 2 or 3, read without running code.

    Raises:
        UserError: no such file, damaged, or it holds more than tensors, plain values and mmengine's records.
    """
    content = read_weights(path, ((_HistoryBuffer, "mmengine.logging.history_buffer.HistoryBuffer"),))
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not state:
        raise UserError(f"{path}: holds no 'state_dict', so it is no checkpoint of mmdetection")
    odd = [key for key, value in state.items() if not isinstance(key, str) or not isinstance(value, Tensor)]
    if odd:
        raise UserError(f"{path}: 'state_dict' holds {reprlib.repr(odd[0])}, which is no tensor with a name")
    meta = content.get("meta")
    return state, meta if isinstance(meta, dict) else {}


def convert(source: str, target: str, style: str = "") -> str:
    """Convert the file ``source`` to ``target``.

    Args:
        style: "caffe" or "pytorch", of the ResNet; "" takes it from the config in the file, else caffe.

    Returns:
        What was done, in words.

    Raises:
        UserError: not a checkpoint of mmdetection's AutoAssign. Nothing is written then.
    """
    if os.path.realpath(source) == os.path.realpath(target):
        raise UserError(f"{target}: is the file to convert; name another one")
    state, meta = read_mmdet(source)
    converted = convert_names(state)
    if converted.missing:
        raise UserError(
            f"{source}: no AutoAssign of mmdetection with a ResNet and an FPN: of its {len(state)} tensors "
            f"{len(converted.weights)} are known, and there is none for {', '.join(converted.missing)}"
            + (f"; not known: {', '.join(converted.left_over[:4])}" if converted.left_over else "")
        )
    with atomic_write(target, "wb") as file:
        torch.save({"model": {key: value.contiguous() for key, value in converted.weights.items()}}, file)
    return _report(converted, target, meta, style)


def _report(converted: Converted, target: str, meta: dict[str, Any], style: str) -> str:
    text = " ".join(str(value) for key, value in meta.items() if key in ("config", "cfg"))
    style = style or ("pytorch" if "style='pytorch'" in text or 'style="pytorch"' in text else "caffe")
    options = {**converted.options(), **(_PYTORCH if style == "pytorch" else _CAFFE), "MODEL.WEIGHTS": target}
    lines = [f"{target}: {len(converted.weights)} tensors converted, {len(converted.left_over)} left over"]
    lines += [f"left over: {', '.join(converted.left_over)}"] if converted.left_over else []
    names = _class_names(meta)
    if len(names) == converted.num_classes:
        lines.append(f"classes: {', '.join(names)}")
    lines += [
        f"Config keys that belong to it (a ResNet of {style} style; --style says another):",
        "    --config-file configs/COCO-Detection/autoassign_R_50_FPN_1x.yaml \\",
        *(f'    {key} "{value}" \\' for key, value in list(options.items())[:-1]),
        f'    MODEL.WEIGHTS "{target}"',
    ]
    return "\n".join(lines)


def _class_names(meta: dict[str, Any]) -> list[str]:
    data = meta.get("dataset_meta")
    data = data if isinstance(data, dict) else {}
    names = meta.get("CLASSES") or data.get("classes") or data.get("CLASSES") or ()
    return [str(name) for name in names] if isinstance(names, (list, tuple)) else []


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m fa_detectron.checkpoint.convert_mmdet", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("source", metavar="IN.pth")
    parser.add_argument("target", metavar="OUT.pth")
    parser.add_argument("--style", choices=("caffe", "pytorch"), default="", help="of the ResNet")
    args = parser.parse_args()
    print(convert(args.source, args.target, args.style))


if __name__ == "__main__":
    sys.exit(run_command(main))
