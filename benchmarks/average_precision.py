"""COCO's AP over resampled images: how far a figure, or the difference of two, depends on the images at hand.

Legend: I images, D detections of one category in all images, B resamples.
"""

import contextlib
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


class Matches:
    """The detections of one run, matched once with the ground truth by pycocotools (all sizes, at most 100 an image).

    Args:
        truth, detections: COCO JSON files, as Detectron2's evaluation writes them.
        source: of an image's file name, what it was made from. Copies of one photograph are drawn together.
    """

    def __init__(self, truth: Path, detections: Path, source: Callable[[str], str] = str) -> None:
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
            coco = COCO(str(truth))
            evaluation = COCOeval(coco, _load_detections(coco, detections), "bbox")
            evaluation.evaluate()
        self.image_ids = evaluation.params.imgIds  # (I,)
        self.sources = [source(coco.imgs[i]["file_name"]) for i in self.image_ids]
        self._recall_points = evaluation.params.recThrs  # (101,)
        images, areas = len(self.image_ids), len(evaluation.params.areaRng)
        self._categories = [
            category
            for index in range(len(evaluation.params.catIds))
            if (category := _one_category(evaluation.evalImgs[index * areas * images :][:images])) is not None
        ]

    def average_precision(self, weights: np.ndarray) -> float:
        """AP, 0 to 100, where image i counts ``weights[i]`` times; ``weights`` (I,). NaN where no box is left."""
        values = [self._one_ap(category, weights) for category in self._categories]
        values = [value for value in values if value is not None]
        return 100 * float(np.mean(values)) if values else float("nan")

    def _one_ap(self, category: dict[str, np.ndarray], weights: np.ndarray) -> float | None:
        positives = float(weights @ category["boxes"])
        if positives == 0:
            return None
        weight = weights[category["image"]]  # (D,)
        right = (category["right"] * weight).cumsum(1)  # (10, D)
        wrong = (category["wrong"] * weight).cumsum(1)
        recall = right / positives
        precision = right / np.maximum(right + wrong, 1e-12)
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        total = 0.0
        for at_iou, of_iou in zip(envelope, recall):
            index = np.searchsorted(of_iou, self._recall_points, side="left")
            total += at_iou[index[index < len(at_iou)]].sum()
        return total / (len(recall) * len(self._recall_points))


def _load_detections(truth: COCO, file: Path) -> COCO:
    found = json.loads(file.read_text(encoding="utf-8"))
    if found:
        return truth.loadRes(found)
    nothing = COCO()  # loadRes refuses an empty list
    nothing.dataset = {**truth.dataset, "annotations": []}
    nothing.createIndex()
    return nothing


def _one_category(images: Sequence[dict | None]) -> dict[str, np.ndarray] | None:
    """Detections of one category, scores falling; None where no image has a box of it."""
    boxes = np.array([0 if e is None else int((~np.asarray(e["gtIgnore"], bool)).sum()) for e in images])
    if not boxes.any():
        return None
    some = [(i, e) for i, e in enumerate(images) if e is not None]
    scores = np.concatenate([e["dtScores"] for _, e in some])
    order = np.argsort(-scores, kind="mergesort")  # stable, as pycocotools'
    ignored = np.concatenate([e["dtIgnore"] for _, e in some], axis=1).astype(bool)[:, order]
    matched = np.concatenate([e["dtMatches"] for _, e in some], axis=1).astype(bool)[:, order]
    return {
        "boxes": boxes,  # (I,)
        "image": np.concatenate([np.full(len(e["dtScores"]), i) for i, e in some])[order],  # (D,)
        "right": matched & ~ignored,  # (10, D)
        "wrong": ~matched & ~ignored,
    }


def resample(sources: Sequence[str], count: int) -> np.ndarray:
    """(B, I) how often each image is drawn; the same for equal ``sources``, so that runs can be paired by image."""
    names, member = np.unique(sources, return_inverse=True)
    draws = np.random.RandomState(0).randint(len(names), size=(count, len(names)))
    drawn = np.stack([np.bincount(draw, minlength=len(names)) for draw in draws])  # (B, sources)
    return drawn[:, member]
