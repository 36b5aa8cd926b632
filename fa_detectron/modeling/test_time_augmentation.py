"""Test-time augmentation of the dense detector: several scales, mirrored; Detectron2's own covers R-CNN only."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data.transforms import ResizeShortestEdge, ResizeTransform
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torchvision.ops import batched_nms, box_iou

from fa_detectron.errors import UserError


def resize_shortest_edge(image: np.ndarray, min_size: int, max_size: int) -> np.ndarray:
    """Resize as Detectron2 does for testing: the shorter side to ``min_size``, unless the longer exceeds ``max_size``.

    Args:
        image: (H, W, 3) uint8.

    Returns:
        (h, w, 3) uint8, no side below a pixel (very long images would lose their shorter side altogether).
    """
    height, width = image.shape[:2]
    new_height, new_width = ResizeShortestEdge.get_output_shape(height, width, min_size, max_size)
    return ResizeTransform(height, width, max(1, new_height), max(1, new_width)).apply_image(image)


class DenseTTA(nn.Module):
    """A detector that looks at every image at several scales, and mirrored, and fuses what it finds.

    Called as the detector itself. Images come at their own resolution: each scale is made from it in one step, as the
    single scale is in testing.

    Legend: V views of an image, D detections of all views together.
    """

    @configurable
    def __init__(
        self,
        model: nn.Module,
        *,
        min_sizes: list[int],
        max_size: int,
        flip: bool,
        nms_threshold: float,
        max_detections: int,
    ) -> None:
        """
        Args:
            model: returns [{"instances": Instances}] for a batch of images, in the wanted size.
            min_sizes: shorter sides, pixels. max_size: limit of the longer one. flip: see each mirrored as well.
            nms_threshold: IoU above which boxes of a class are the same object. max_detections: of an image.
        """
        super().__init__()
        self.model: Any = model.module if isinstance(model, DistributedDataParallel) else model
        if not min_sizes or min(min_sizes) < 1 or max_size < 1:
            raise UserError(f"TEST.AUG: MIN_SIZES {list(min_sizes)} and MAX_SIZE {max_size} must be sizes in pixels")
        self.min_sizes, self.max_size, self.flip = list(min_sizes), max_size, flip
        self.nms_threshold, self.max_detections = nms_threshold, max_detections
        self.train(model.training)  # a wrapper starts in training mode, and would pass it on

    @classmethod
    def from_config(cls, cfg: CfgNode, model: nn.Module) -> dict[str, Any]:
        return {
            "model": model,
            "min_sizes": cfg.TEST.AUG.MIN_SIZES,
            "max_size": cfg.TEST.AUG.MAX_SIZE,
            "flip": cfg.TEST.AUG.FLIP,
            "nms_threshold": cfg.MODEL.FEATURE_ALIGN.NMS_THRESH_TEST,
            "max_detections": cfg.TEST.DETECTIONS_PER_IMAGE,
        }

    @property
    def device(self) -> torch.device:
        return self.model.device

    @torch.no_grad()
    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Instances]]:
        """
        Args:
            batched_inputs: an image each, "image" (3, H, W) uint8, and optionally the wanted "height" and "width".

        Returns:
            As the detector: {"instances": Instances with pred_boxes (xyxy pixels of the wanted size), scores falling,
            pred_classes}.
        """
        return [{"instances": self._detect(inputs)} for inputs in batched_inputs]

    def _detect(self, inputs: dict[str, Any]) -> Instances:
        image = inputs["image"]  # (3, H, W)
        height, width = inputs.get("height", image.shape[1]), inputs.get("width", image.shape[2])
        found = []
        for views in self._views(image):
            batch = [{"image": view, "height": height, "width": width} for view in views]
            for index, output in enumerate(self.model(batch)):
                boxes = output["instances"].pred_boxes.tensor
                if index:  # mirrored
                    x1, y1, x2, y2 = boxes.unbind(1)
                    boxes = torch.stack((width - x2, y1, width - x1, y2), 1)
                found.append((boxes, output["instances"].scores, output["instances"].pred_classes))
        boxes, scores, classes = fuse_views(found, self.nms_threshold, self.max_detections)
        return Instances((height, width), pred_boxes=Boxes(boxes), scores=scores, pred_classes=classes)

    def _views(self, image: Tensor) -> Iterator[list[Tensor]]:
        """A scale at a time, which bounds the memory: [(3, h, w)], followed by the mirrored one with ``flip``."""
        pixels = image.permute(1, 2, 0).cpu().numpy()  # (H, W, 3)
        for min_size in self.min_sizes:
            resized = resize_shortest_edge(pixels, min_size, self.max_size)
            view = torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1)))
            yield [view, view.flip(2)] if self.flip else [view]


def fuse_views(
    views: list[tuple[Tensor, Tensor, Tensor]], nms_threshold: float, max_detections: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Fuse the detections of V views of an image.

    Class-wise NMS picks one detection an object; its box becomes the mean of all boxes of its class that overlap it by
    ``nms_threshold`` or more, weighted by their scores (box voting, Gidaris and Komodakis, ICCV 2015, section 5); its
    score becomes the mean, over the views, of the best score that the view gives to the object, 0 where it has none
    (as in weighted boxes fusion, Solovyev et al., 2021).

    Args:
        views: V of (boxes (d, 4) xyxy, scores (d,), classes (d,)).

    Returns:
        The same for the best ``max_detections``, scores falling.
    """
    boxes, scores, classes = (torch.cat(parts) for parts in zip(*views))  # (D, 4), (D,), (D,)
    origin = torch.cat([torch.full_like(part[2], index) for index, part in enumerate(views)])  # (D,)
    kept = batched_nms(boxes, scores, classes, nms_threshold)  # (K,)
    same = box_iou(boxes[kept], boxes) >= nms_threshold  # (K, D)
    same &= classes[kept, None] == classes
    votes = same * scores  # (K, D)
    fused = votes @ boxes / votes.sum(1, keepdim=True)  # (K, 4)
    best = votes.new_zeros(len(kept), len(views))  # (K, V)
    best = best.scatter_reduce(1, origin.expand_as(votes), votes, "amax")
    score, order = best.mean(1).sort(descending=True, stable=True)
    order = order[:max_detections]
    return fused[order], score[: len(order)], classes[kept][order]
