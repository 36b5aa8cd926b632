"""Convert a checkpoint of mmdetection's AutoAssign.

    python -m fa_detectron.checkpoint.convert_mmdet IN.pth OUT.pth

OUT.pth is for MODEL.WEIGHTS; the command prints the config keys that belong to it.
"""

import argparse
import os
import reprlib
import sys
from typing import Any

import torch
from torch import Tensor

from fa_detectron.checkpoint.mmdet_names import Converted, convert_names
from fa_detectron.checkpoint.read_file import read_weights
from fa_detectron.errors import UserError, run_command
from fa_detectron.files import atomic_write

# What mmdetection's configs of either ResNet style say of the input (of its data_preprocessor or img_norm_cfg).
_CAFFE = {"MODEL.RESNETS.STRIDE_IN_1X1": True, "INPUT.FORMAT": "BGR",
          "MODEL.PIXEL_MEAN": [102.9801, 115.9465, 122.7717], "MODEL.PIXEL_STD": [1.0, 1.0, 1.0]}  # fmt: skip
_PYTORCH = {"MODEL.RESNETS.STRIDE_IN_1X1": False, "INPUT.FORMAT": "RGB",
            "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53], "MODEL.PIXEL_STD": [58.395, 57.12, 57.375]}  # fmt: skip


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
