"""An exported file in the place of the model: Detectron2's format in and out, on the CPU."""

import json
from collections.abc import Callable
from typing import Any

import torch
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from fa_detectron.errors import UserError

from .model_file import METADATA
from .nms import shifted_nms
from .onnx_model import require_onnx
from .program import quiet

# (1, 3, H, W) -> boxes (D, 4), scores (D,), classes (D,)
_Function = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]


class ExportedDetector(nn.Module):
    """Runs an .onnx file with onnxruntime, a .pt2 file with torch.

    Attributes:
        metadata: what :func:`fa_detectron.apps.export.model_file.describe` put into the file.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        function, text = _load_onnx(path) if path.endswith(".onnx") else _load_program(path)
        if not text:
            raise UserError(f"{path}: not a file that `fa-detectron export` has written (it has no entry {METADATA})")
        self.function: _Function = function
        self.metadata: dict[str, Any] = json.loads(text)

    @torch.no_grad()
    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Instances]]:
        """As :meth:`fa_detectron.modeling.FeatureAlign.forward` in evaluation, image by image."""
        results = []
        for item in batched_inputs:
            image = item["image"]  # (3, h, w)
            size = tuple(image.shape[1:])
            wanted = self.metadata["size"]
            if wanted is not None and size != tuple(wanted):
                raise UserError(
                    f"the exported model takes {wanted[0]} x {wanted[1]} pixels (height x width), an image has "
                    f"{size[0]} x {size[1]} after resizing; export without --size, or with that size"
                )
            boxes, scores, classes = self.detect(image[None].float())
            found = Instances(size, pred_boxes=Boxes(boxes), scores=scores, pred_classes=classes)
            height, width = item.get("height", size[0]), item.get("width", size[1])
            results.append({"instances": detector_postprocess(found, height, width)})
        return results

    def detect(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(1, 3, H, W) float32 0..255 -> boxes (D, 4) xyxy pixels, scores (D,), classes (D,), after NMS."""
        boxes, scores, classes = self.function(image)
        if self.metadata["nms"]:
            return boxes, scores, classes
        good = scores > self.metadata["score_threshold"]
        boxes, scores, classes = boxes[good], scores[good], classes[good]
        keep = shifted_nms(
            boxes, scores, classes, self.metadata["nms_threshold"], self.metadata["max_detections"]
        )  # (D,)
        return boxes[keep], scores[keep], classes[keep]


def _load_onnx(path: str) -> tuple[_Function, str]:
    require_onnx()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()  # as torch, or the speeds could not be compared
    options.log_severity_level = 3  # errors; it warns of every graph with shapes that it learns at run time
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common base but this
        hint = "; export with --deform decomposed, or use a newer one" if "DeformConv" in str(error) else ""
        raise UserError(f"{path}: onnxruntime {onnxruntime.__version__} refuses it: {error}{hint}") from error

    def function(image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        boxes, scores, classes = session.run(None, {"image": image.numpy()})
        return torch.from_numpy(boxes), torch.from_numpy(scores), torch.from_numpy(classes)

    return function, session.get_modelmeta().custom_metadata_map.get(METADATA, "")


def _load_program(path: str) -> tuple[_Function, str]:
    extra = {METADATA: ""}
    try:
        with quiet():
            program = torch.export.load(path, extra_files=extra)
    except Exception as error:  # torch.export passes on whatever the archive or the graph raises
        raise UserError(f"{path}: torch {torch.__version__} cannot load it: {error}") from error
    module = program.module()

    def function(image: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # the module itself refuses train() and eval()
        return module(image)

    return function, extra[METADATA]
