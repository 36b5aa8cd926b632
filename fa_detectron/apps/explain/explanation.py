"""What a detector makes of an annotated image: scores, box qualities and foreground weights of every location.

Legend: K classes, A locations of all levels, G boxes of the image, S pairs (box, location) with the location inside.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.structures import BoxMode
from torch import Tensor
from torch.nn.functional import grid_sample

from fa_detectron.errors import UserError
from fa_detectron.inference import Predictor, Run
from fa_detectron.modeling import FeatureAlign
from fa_detectron.ops.reference.quality import (
    bag_weights,
    find_pairs,
    flatten_maps,
    pair_confidence,
    regression_quality,
)

from .alignment import BoxAlignment, align_boxes

MAPS = ("score", "quality", "weight")


@dataclass(frozen=True)
class Explanation:
    """One image seen by one run; everything in pixels of ``image`` and on the CPU.

    Attributes:
        name: of the image's file.
        image: (H, W, 3) uint8 RGB, at the size of testing.
        boxes, classes: ground truth, (G, 4) xyxy and (G,).
        alignment: of each box, see docs/explain.md.
        strides, sizes: of each level, finest first: pixels, and (h, w) cells.
        location_offset: cell (i, j) stands at ((j + offset) * stride, (i + offset) * stride).
        locations, scores, predictions: (A, 2) x, y; (A, K) q; (A, 4) xyxy, the boxes predicted there.
        pairs: (S,) indices into boxes and locations.
        quality, weight: (S,) R in its published form, and W as the run's own loss has it.
    """

    name: str
    image: np.ndarray
    boxes: Tensor
    classes: Tensor
    alignment: BoxAlignment
    strides: tuple[int, ...]
    sizes: tuple[tuple[int, int], ...]
    location_offset: float
    locations: Tensor
    scores: Tensor
    predictions: Tensor
    pairs: tuple[Tensor, Tensor]
    quality: Tensor
    weight: Tensor

    def level_map(self, kind: str, level: int) -> Tensor:
        """One of MAPS at one level, (H, W) float32: every pixel has the value of the nearest location.

        "score" is q of the class of the box around the location (the highest, where there are several boxes),
        elsewhere the highest of all classes. "quality" is R and "weight" W of the pair of box and location (the
        largest, where there are several boxes), elsewhere 0.
        """
        box, location = self.pairs
        values = self.scores[location, self.classes[box]] if kind == "score" else getattr(self, kind)  # (S,)
        flat = self.scores.new_full((len(self.scores),), -1).scatter_reduce(0, location, values, "amax")  # (A,)
        elsewhere = self.scores.amax(1) if kind == "score" else torch.zeros_like(flat)
        return self._spread(torch.where(flat < 0, elsewhere, flat), level, self._window(None), "nearest")

    def merged_map(self, kind: str) -> Tensor:
        """One of MAPS, (H, W) float32: the largest value of all levels, interpolated between their locations.

        As in :meth:`level_map`, but a box's values stay within the box: a cell of stride 128 is larger than most.
        """
        box, location = self.pairs
        merged = torch.full(self.image.shape[:2], -1.0)
        for g, (corners, label) in enumerate(zip(self.boxes, self.classes.tolist())):
            if kind == "score":
                values = self.scores[:, label]  # (A,)
            else:
                own = box == g
                values = torch.zeros(len(self.scores)).index_copy(0, location[own], getattr(self, kind)[own])
            window = self._window(corners)
            merged[window] = torch.maximum(merged[window], self._largest(values, window))
        if kind != "score":
            return merged.clamp(min=0)
        return torch.where(merged < 0, self._largest(self.scores.amax(1), self._window(None)), merged)

    def _largest(self, values: Tensor, window: tuple[slice, slice]) -> Tensor:
        return torch.stack([self._spread(values, i, window, "bilinear") for i in range(len(self.sizes))]).amax(0)

    def _window(self, box: Tensor | None) -> tuple[slice, slice]:
        """Rows and columns of the pixels of a box (4,), or of the image."""
        height, width = self.image.shape[:2]
        if box is None:
            return slice(0, height), slice(0, width)
        x1, y1, x2, y2 = box.round().int().tolist()
        y1, x1 = max(0, min(y1, height - 1)), max(0, min(x1, width - 1))
        return slice(y1, max(y1 + 1, y2)), slice(x1, max(x1 + 1, x2))

    def _spread(self, values: Tensor, level: int, window: tuple[slice, slice], mode: str) -> Tensor:
        """One level of ``values`` (A,) at the pixels of ``window``."""
        start = sum(h * w for h, w in self.sizes[:level])
        height, width = self.sizes[level]
        cells = values[start : start + height * width].view(1, 1, height, width)
        axes = []
        for pixels, side, count in zip(window, self.image.shape[:2], (height, width)):
            index = (torch.arange(side)[pixels] + 0.5) / self.strides[level] - self.location_offset
            axes.append(index.clamp(0, count - 1) / max(1, count - 1) * 2 - 1)
        y, x = torch.meshgrid(*axes, indexing="ij")
        grid = torch.stack([x, y], dim=2)[None]  # (1, h, w, 2)
        return grid_sample(cells, grid, mode=mode, padding_mode="border", align_corners=True)[0, 0]


@torch.no_grad()
def explain_image(run: Run, record: Mapping[str, Any]) -> Explanation:
    """Look at one image with a run's model.

    Args:
        run: of :func:`fa_detectron.inference.load_run`.
        record: Detectron2's dataset dict with "file_name" and "annotations" (crowd regions are left out).

    Raises:
        UserError: the image cannot be read, has no ground truth, or the model is another one.
    """
    model = run.model
    if not isinstance(model, FeatureAlign):
        raise UserError(f"{run.folder}: MODEL.META_ARCHITECTURE is {type(model).__name__}, not FeatureAlign")
    if "annotations" not in record:
        raise UserError(f"{record['file_name']}: no ground truth; quality and weight are those of annotated boxes")
    predictor = Predictor(run)
    item = predictor.model_input(predictor.reader.read(record["file_name"]))
    height, width = item["image"].shape[1:]
    boxes, classes = _truth(record, width / item["width"], height / item["height"])
    images = model.preprocess([item])
    features = model.backbone(images.tensor, model.padding_mask(images))
    # On the CPU from here on: what follows is cheap.
    maps = [[x.cpu() for x in levels] for levels in model.head([features[name] for name in model.in_features])]
    grid, scores, predictions = flatten_maps(*maps, model.head.strides, model.location_offset)
    score, prediction = scores[0], predictions[0]  # (A, K), (A, 4)

    pairs = find_pairs(grid, boxes, classes, model.mu.cpu(), model.sigma.cpu())
    q = score[pairs.location, classes[pairs.box]]  # (S,)
    quality = regression_quality(prediction[pairs.location], boxes[pairs.box])  # (S,)
    # The weights are those of the run's own loss; the quality above has the published form for all runs.
    options = model.loss_options
    own = regression_quality(
        prediction[pairs.location], boxes[pairs.box], options["iou_type"], options["reg_weight"]
    )  # (S,)
    weight = bag_weights(pairs, pair_confidence(q, own, options["feature_filter"]), len(boxes))  # (S,)

    pixels = item["image"] if run.cfg.INPUT.FORMAT == "RGB" else item["image"].flip(0)
    return Explanation(
        name=record["file_name"],
        image=np.ascontiguousarray(pixels.numpy().transpose(1, 2, 0)),
        boxes=boxes,
        classes=classes,
        alignment=align_boxes(pairs.box, pairs.location, q, quality, classes),
        strides=tuple(model.head.strides),
        sizes=tuple(tuple(x.shape[-2:]) for x in maps[0]),
        location_offset=model.location_offset,
        locations=grid.location,
        scores=score,
        predictions=prediction,
        pairs=(pairs.box, pairs.location),
        quality=quality,
        weight=weight,
    )


def _truth(record: Mapping[str, Any], scale_x: float, scale_y: float) -> tuple[Tensor, Tensor]:
    """Boxes (G, 4) xyxy at the size of testing, and classes (G,)."""
    items = [a for a in record["annotations"] if not a.get("iscrowd", 0)]
    boxes = [BoxMode.convert(list(a["bbox"]), a["bbox_mode"], BoxMode.XYXY_ABS) for a in items]
    scale = torch.tensor([scale_x, scale_y, scale_x, scale_y])
    classes = torch.tensor([a["category_id"] for a in items], dtype=torch.int64)
    return torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4) * scale, classes
