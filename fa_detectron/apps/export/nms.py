"""Class-wise NMS in two forms: what torchvision has, for programs of torch, and ONNX's operator.

Legend: M candidates, D detections.
"""

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import nms


def float32_limit(threshold: float) -> float:
    """The largest float32 that is not above ``threshold``.

    A float32 number exceeds it exactly where it exceeds ``threshold``; float32's nearest to 0.6 would be above 0.6.
    """
    nearest = np.float32(threshold)
    return float(nearest if float(nearest) <= threshold else np.nextafter(nearest, np.float32(-np.inf)))


def shifted_nms(boxes: Tensor, scores: Tensor, classes: Tensor, iou_threshold: float, most: int) -> Tensor:
    """Classes are moved apart, which needs no loop over them. In float64, so that the shift rounds no IoU.

    Args:
        boxes: (M, 4) float32 xyxy pixels.
        scores, classes: (M,).

    Returns:
        Indices (D,) of the best ``most`` boxes that no better one of their class overlaps by more than
        ``iou_threshold``, best first.
    """
    boxes = boxes.double()
    # Two boxes of their own classes that score worst, hence are kept, last: torch.export takes it that torchvision's
    # NMS gives two indices at least.
    boxes = torch.cat([boxes, boxes.new_tensor([[0, 0, 1, 1], [2, 2, 3, 3]])])  # (M + 2, 4)
    scores = torch.cat([scores.double(), scores.new_full((2,), -1, dtype=torch.float64)])
    classes = torch.cat([classes, classes.new_full((2,), -1)])
    shift = classes * (boxes.max() - boxes.min() + 1)  # (M + 2,) pixels
    # float32 IoUs are compared elsewhere: those that round to a number above the threshold begin halfway.
    limit = float32_limit(iou_threshold)
    halfway = (limit + float(np.nextafter(np.float32(limit), np.float32(np.inf)))) / 2
    return nms(boxes + shift[:, None], scores, halfway)[:-2][:most]


@torch.library.custom_op("fa_detectron_export::class_wise_nms", mutates_args=())
def class_wise_nms(boxes: Tensor, scores: Tensor, classes: Tensor, iou_threshold: float, most: int) -> Tensor:
    """As :func:`shifted_nms`; a single node of the graph, which the ONNX export replaces by NonMaxSuppression."""
    return shifted_nms(boxes, scores, classes, iou_threshold, most)


@class_wise_nms.register_fake
def _(boxes: Tensor, scores: Tensor, classes: Tensor, iou_threshold: float, most: int) -> Tensor:
    return classes.new_empty(torch.library.get_ctx().new_dynamic_size())
