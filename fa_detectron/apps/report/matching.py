"""Which detections are right, and what the others are. Legend: D detections, G boxes of an image, K classes."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detectron2.structures import Boxes, Instances, pairwise_ioa, pairwise_iou
from torch import Tensor

IOU = 0.5
NONE = -1


@dataclass(frozen=True)
class Truth:
    """An image's ground truth.

    Attributes:
        boxes: (G, 4) float32, xyxy pixels.
        classes: (G,) int64.
        crowd: (G,) bool, groups that are neither to be found nor wrong to be found, as in COCO's evaluation.
    """

    boxes: Tensor
    classes: Tensor
    crowd: Tensor


@dataclass(frozen=True)
class Matched:
    """Detections of an image, best first, and the box of their own class that each has found.

    A detection takes the box of its class that it overlaps most, if by IoU 0.5 or more and if no detection with a
    higher score has it, as in COCO's evaluation. Detections with lower scores change nothing, so one matching serves
    all score thresholds.

    Attributes:
        boxes: (D, 4) xyxy pixels; scores: (D,); classes: (D,).
        found: (D,) int64, the box, or NONE.
        ignored: (D,) bool, neither right nor wrong: half or more of it lies in a crowd of its class.
    """

    truth: Truth
    boxes: Tensor
    scores: Tensor
    classes: Tensor
    found: Tensor
    ignored: Tensor


@dataclass(frozen=True)
class Outcome:
    """What an image's detections from a score on are.

    Attributes:
        hits: indices of right detections; doubles of a found box are not among them.
        confused: (detection, box) pairs that overlap, IoU 0.5 or more, but differ in class.
        false: indices of the other detections.
        missed: indices of the boxes that nothing has found.
    """

    hits: list[int]
    confused: list[tuple[int, int]]
    false: list[int]
    missed: list[int]

    @property
    def errors(self) -> int:
        """Wrong detections and boxes without a right one."""
        return 2 * len(self.confused) + len(self.false) + len(self.missed)

    @property
    def f1(self) -> float:
        """2 hits / (2 hits + errors); 1 where there was nothing to find and nothing was found."""
        return 2 * len(self.hits) / (2 * len(self.hits) + self.errors) if self.hits or self.errors else 1.0


def match(truth: Truth, instances: Instances) -> Matched:
    """Match one image's detections; see :class:`Matched`."""
    instances = instances[instances.scores.argsort(descending=True, stable=True)]
    boxes, classes = instances.pred_boxes.tensor, instances.pred_classes
    overlap = pairwise_iou(instances.pred_boxes, Boxes(truth.boxes))  # (D, G)
    overlap[(classes[:, None] != truth.classes) | truth.crowd] = 0
    found = _assign(overlap)
    inside = pairwise_ioa(Boxes(truth.boxes), instances.pred_boxes).T  # (D, G), of the detection's area
    inside[(classes[:, None] != truth.classes) | ~truth.crowd] = 0
    ignored = (inside >= IOU).any(dim=1) & (found == NONE)
    return Matched(truth, boxes, instances.scores, classes, found, ignored)


def _assign(overlap: Tensor) -> Tensor:
    """overlap (D, G), best detection first; returns (D,): its box, or NONE."""
    overlap, found = overlap.clone(), torch.full((len(overlap),), NONE)
    if overlap.shape[1] == 0:
        return found
    for index in range(len(overlap)):
        best = int(overlap[index].argmax())
        if overlap[index, best] >= IOU:
            found[index] = best
            overlap[:, best] = 0
    return found


def outcome(matched: Matched, threshold: float) -> Outcome:
    """The detections with a score of ``threshold`` or more; see :class:`Outcome`."""
    kept = int((matched.scores >= threshold).sum())  # they stand first
    found = matched.found[:kept]
    hits = (found != NONE).nonzero().squeeze(1).tolist()
    rest = ((found == NONE) & ~matched.ignored[:kept]).nonzero().squeeze(1)  # (R,)
    free = ~matched.truth.crowd
    free[found[found != NONE]] = False
    left = free.nonzero().squeeze(1)  # (M,) boxes
    overlap = pairwise_iou(Boxes(matched.boxes[rest]), Boxes(matched.truth.boxes[left]))  # (R, M)
    pairs = _assign(overlap).tolist()
    confused = [(int(rest[i]), int(left[j])) for i, j in enumerate(pairs) if j != NONE]
    taken = {box for _, box in confused}
    false = [int(rest[i]) for i, j in enumerate(pairs) if j == NONE]
    return Outcome(hits, confused, false, [int(j) for j in left if int(j) not in taken])


def confusion_matrix(matched: Sequence[Matched], outcomes: Sequence[Outcome], num_classes: int) -> Tensor:
    """(K + 1, K + 1) int64 counts: true class by detected class; last row: nothing there, last column: missed."""
    counts = torch.zeros(num_classes + 1, num_classes + 1, dtype=torch.int64)
    for image, result in zip(matched, outcomes, strict=True):
        truth = image.truth.classes
        for i in result.hits:
            counts[image.classes[i], image.classes[i]] += 1
        for i, j in result.confused:
            counts[truth[j], image.classes[i]] += 1
        for i in result.false:
            counts[num_classes, image.classes[i]] += 1
        for j in result.missed:
            counts[truth[j], num_classes] += 1
    return counts


@dataclass(frozen=True)
class ThresholdCurve:
    """Precision, recall and F1 of a data set by score threshold: three series of equal length, thresholds rising."""

    precision: dict[float, float]
    recall: dict[float, float]
    f1: dict[float, float]

    @property
    def best(self) -> float:
        """The threshold with the highest F1, rounded down to hundredths; 0.5 where nothing was ever right."""
        if not self.f1 or max(self.f1.values()) == 0:
            return 0.5
        return int(max(self.f1, key=self.f1.__getitem__) * 100) / 100


def threshold_curve(matched: Sequence[Matched]) -> ThresholdCurve:
    """Over all images and classes together; a detection that is confused counts as false."""
    scores = torch.cat([image.scores[~image.ignored] for image in matched])  # (D,)
    right = torch.cat([image.found[~image.ignored] != NONE for image in matched])  # (D,)
    boxes = sum(int((~image.truth.crowd).sum()) for image in matched)
    order = scores.argsort(descending=True, stable=True)
    scores, hits = scores[order], right[order].cumsum(0)
    curve = ThresholdCurve({}, {}, {})
    if not len(scores) or not boxes:
        return curve
    last = torch.ones(len(scores), dtype=torch.bool)  # of several with one score
    last[:-1] = scores[1:] < scores[:-1]
    for i in reversed(last.nonzero().squeeze(1).tolist()):
        threshold, right_ones = float(scores[i]), int(hits[i])
        curve.precision[threshold] = right_ones / (i + 1)
        curve.recall[threshold] = right_ones / boxes
        curve.f1[threshold] = 2 * right_ones / (i + 1 + boxes)
    return curve
