"""Does the exported file detect what the model detects, and how fast? Legend: D detections of an image."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.structures import Instances

from fa_detectron.inference import Predictor

from .detector import ExportedDetector

_SAME_BOX = 1.0  # pixels; partners agree to small fractions, and NMS leaves no neighbours as near


@dataclass
class Parity:
    """What :func:`check_parity` has found.

    Attributes:
        images, detections: how many were compared; detections are the model's.
        alone: detections that only one of the two has. Rounding decides where an IoU is NMS's threshold but for its
            last digits, or where scores meet the threshold or the end of a full list.
        alone_margin: how far the best of these exceeds the score that it had to exceed: the threshold, or the lowest
            score of a full list.
        worst_score, worst_box: largest difference of a score, of a box coordinate (pixels of the image), of those
            that both have.
        model_rate, exported_rate: images a second, one at a time, without reading and resizing (medians).
    """

    images: int = 0
    detections: int = 0
    alone: int = 0
    alone_margin: float = 0.0
    worst_score: float = 0.0
    worst_box: float = 0.0
    model_rate: float = 0.0
    exported_rate: float = 0.0

    def text(self) -> str:
        margin = f" (scores up to {self.alone_margin:.2g} above the limit)" if self.alone else ""
        return (
            f"{self.images} images, {self.detections} detections, {self.alone} that only one of the two has{margin}\n"
            f"worst difference: score {self.worst_score:.2g}, box {self.worst_box:.2g} pixels\n"
            f"speed: PyTorch {self.model_rate:.2f}, exported {self.exported_rate:.2f} images a second "
            f"({torch.get_num_threads()} threads)"
        )


def check_parity(predictor: Predictor, exported: ExportedDetector, images: Sequence[np.ndarray]) -> Parity:
    """Compare on ``images`` (H, W, 3) uint8 RGB; the predictor's model is on the CPU."""
    model, options = predictor.run.model, predictor.run.model.decode_options
    parity = Parity(images=len(images))
    times: tuple[list[float], list[float]] = ([], [])
    with torch.no_grad():
        for index, image in enumerate(images):
            batch = [predictor.model_input(image)]
            if index == 0:  # the first call of each allocates and compiles
                model(batch), exported(batch)
            first = _timed(model, batch, times[0])
            second = _timed(exported, batch, times[1])
            _compare(parity, first, second, options["score_threshold"], options["max_detections"])
    parity.model_rate, parity.exported_rate = (1 / statistics.median(seconds) for seconds in times)
    return parity


def _timed(detect: Callable[[Any], Any], batch: list[dict], seconds: list[float]) -> Instances:
    start = time.perf_counter()
    result = detect(batch)[0]["instances"]
    seconds.append(time.perf_counter() - start)
    return result


def _compare(parity: Parity, first: Instances, second: Instances, threshold: float, most: int) -> None:
    boxes, other_boxes = first.pred_boxes.tensor, second.pred_boxes.tensor  # (D, 4), (D', 4)
    parity.detections += len(first)
    shift = (boxes[:, None] - other_boxes[None, :]).abs().amax(dim=2)  # (D, D') pixels
    shift[first.pred_classes[:, None] != second.pred_classes[None, :]] = torch.inf
    free = torch.ones(len(second), dtype=torch.bool)
    alone: list[tuple[Instances, Instances, int]] = []  # who has it, who has not, its index
    for index in range(len(first)):
        candidates = ((shift[index] < _SAME_BOX) & free).nonzero().squeeze(1)
        if not len(candidates):
            alone.append((first, second, index))
            continue
        score = (second.scores[candidates] - first.scores[index]).abs()
        best = int((shift[index, candidates] + score).argmin())
        free[candidates[best]] = False
        parity.worst_score = max(parity.worst_score, float(score[best]))
        parity.worst_box = max(parity.worst_box, float(shift[index, candidates[best]]))
    alone += [(second, first, int(index)) for index in free.nonzero()]
    parity.alone += len(alone)
    for owner, other, index in alone:
        limit = float(other.scores.min()) if len(other) >= most else threshold
        parity.alone_margin = max(parity.alone_margin, float(owner.scores[index]) - limit)
