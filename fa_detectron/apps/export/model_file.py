"""From a trained run to one file: .onnx or .pt2, by the suffix."""

import io
import json
import os
from dataclasses import dataclass

import torch

from fa_detectron.errors import UserError
from fa_detectron.files import atomic_write
from fa_detectron.inference import Run
from fa_detectron.modeling import FeatureAlign

from .network import InferenceNetwork
from .nms import class_wise_nms, shifted_nms
from .onnx_model import OPSETS, convert, require_onnx
from .program import export_program

SUFFIXES = (".onnx", ".pt2")
METADATA = "fa_detectron"  # under this name the file holds a JSON object: sizes, channels, classes, thresholds


@dataclass(frozen=True)
class ExportOptions:
    """How to export.

    Attributes:
        size: (H, W) in pixels, the only size the file takes; None: any.
        nms: whether NMS is in the file. Without it the file gives the candidates: the min(topk, H_l * W_l) best
            (location, class) pairs of every level l, whatever their scores.
        decompose: the deformable convs by grid sampling instead of DeformConv (torchvision's operator in .pt2 files).
        opset: of ONNX.
    """

    size: tuple[int, int] | None = None
    nms: bool = True
    decompose: bool = False
    opset: int = 20


def check_target(path: str, options: ExportOptions) -> None:
    """What can be known before the work is done.

    Raises:
        UserError: an unknown suffix, opset or size, a folder that is not there, absent packages.
    """
    suffix = os.path.splitext(path)[1]
    folder = os.path.dirname(path) or "."
    if suffix not in SUFFIXES:
        raise UserError(f"{path}: the name must end in .onnx (ONNX) or .pt2 (torch.export)")
    if not os.path.isdir(folder) or os.path.isdir(path):
        raise UserError(f"{path}: {'this is a folder' if os.path.isdir(path) else f'there is no folder {folder}'}")
    if options.size is not None and min(options.size) < 1:
        raise UserError(f"size {options.size[0]} x {options.size[1]}: height and width must be positive")
    if suffix == ".onnx":
        if options.opset not in OPSETS:
            raise UserError(
                f"opset {options.opset}: choose one from {OPSETS[0]} (the first with DeformConv) to {OPSETS[-1]} "
                "(the last that torch writes)"
            )
        require_onnx()


def export_model(run: Run, path: str, options: ExportOptions) -> None:
    """Write the run's detector to ``path``, complete or not at all.

    Args:
        run: loaded on the CPU.

    Raises:
        UserError: see :func:`check_target`; or a part of the model cannot be exported, which is named.
    """
    check_target(path, options)
    model = run.model
    if not isinstance(model, FeatureAlign):
        raise UserError(f"the run's model is a {type(model).__name__}; only FeatureAlign models can be exported")
    onnx = path.endswith(".onnx")
    nms = (class_wise_nms if onnx else shifted_nms) if options.nms else None
    program = export_program(InferenceNetwork(model, nms=nms, decompose=options.decompose), options.size)
    metadata = json.dumps(describe(run, options))
    if onnx:
        content = convert(program, options.opset, {METADATA: metadata}, "detections" if options.nms else "candidates")
        data = content.SerializeToString()
    else:
        buffer = io.BytesIO()
        torch.export.save(program, buffer, extra_files={METADATA: metadata})
        data = buffer.getvalue()
    with atomic_write(path, "wb") as file:
        file.write(data)


def describe(run: Run, options: ExportOptions) -> dict:
    """What a program needs to know to use the file."""
    inputs = run.cfg.INPUT
    return {
        "channels": inputs.FORMAT,
        "resize": {"shorter_side": inputs.MIN_SIZE_TEST, "longest_side": inputs.MAX_SIZE_TEST},
        "size": options.size,
        # Images of more bits: these values become 0 and 255. None: the run has seen 8 bits alone.
        "pixel_range": list(inputs.PIXEL_RANGE) or None,
        "exif_orientation": inputs.EXIF_ORIENTATION,
        "class_names": run.class_names,
        "nms": options.nms,
        **{name: run.model.decode_options[name] for name in ("score_threshold", "nms_threshold", "max_detections")},
    }
