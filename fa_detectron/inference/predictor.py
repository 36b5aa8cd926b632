"""Detections from Python, in a few lines."""

import os
from collections import defaultdict
from collections.abc import Sequence
from typing import overload

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.structures import Instances

from fa_detectron.data.images.pixels import ImageLike, ImageReader, check_colour
from fa_detectron.errors import UserError
from fa_detectron.inference.run import Run, load_run
from fa_detectron.modeling.test_time_augmentation import DenseTTA, resize_shortest_edge


class Predictor:
    """A trained run's detector for single images and lists of them::

        predictor = Predictor.from_run("output/demo")
        found = predictor("photo.jpg")  # Instances: pred_boxes, scores, pred_classes
        names = [predictor.class_names[c] for c in found.pred_classes]

    Attributes:
        class_names: names by class number.
        category_ids: ids for COCO's format, by class number (see :class:`Run`).
        run: the loaded run.
        reader: reads images as the run's training did.
    """

    def __init__(
        self,
        run: Run,
        *,
        score_threshold: float | None = None,
        tta: bool = False,
        batch_size: int = 8,
        colour: str = "RGB",
    ) -> None:
        """
        Args:
            run: see :func:`load_run`.
            score_threshold: detections below it are left out; None is the run's own limit,
                MODEL.FEATURE_ALIGN.SCORE_THRESH_TEST.
            tta: look at several scales, mirrored too, as TEST.AUG.* of the run's config say.
            batch_size: images that go through the model together.
            colour: order of the channels of numpy arrays and tensors, "RGB" or "BGR"; files and PIL images know theirs.
        """
        if score_threshold is not None:
            check_threshold(run.cfg, score_threshold)
        if batch_size < 1:
            raise UserError(f"batch size {batch_size}: expected 1 or more")
        self.run, self.class_names, self.category_ids = run, run.class_names, run.category_ids
        self.reader = ImageReader.from_config(run.cfg)
        self._threshold = 0.0 if score_threshold is None else score_threshold
        self._batch_size, self._colour = batch_size, check_colour(colour)
        self._model = DenseTTA(run.cfg, run.model) if tta else run.model
        self._resize = not tta  # which does it itself
        self._sizes = run.cfg.INPUT.MIN_SIZE_TEST, run.cfg.INPUT.MAX_SIZE_TEST
        self._model_colour = check_colour(run.cfg.INPUT.FORMAT)
        self._divisor = max(1, run.model.backbone.size_divisibility)

    @classmethod
    def from_run(
        cls,
        folder: str | os.PathLike,
        *,
        weights: str = "",
        device: str = "",
        score_threshold: float | None = None,
        tta: bool = False,
        batch_size: int = 8,
        colour: str = "RGB",
        overrides: Sequence[str] = (),
    ) -> "Predictor":
        """Load a run's folder; the arguments are those of :func:`load_run` and of the class."""
        run = load_run(folder, weights=weights, device=device, overrides=list(overrides))
        return cls(run, score_threshold=score_threshold, tta=tta, batch_size=batch_size, colour=colour)

    @overload
    def __call__(self, images: ImageLike) -> Instances: ...

    @overload
    def __call__(self, images: list[ImageLike] | tuple[ImageLike, ...]) -> list[Instances]: ...

    def __call__(self, images):
        """Detect.

        Args:
            images: one image or a list of them, each a path, PIL image, numpy array (H, W, C) or tensor (C, H, W); see
                :meth:`ImageReader.to_rgb`. Sizes may differ.

        Returns:
            For each image: Instances on the CPU, best first: pred_boxes (D, 4) xyxy in the image's own pixels (of the
            upright image, where EXIF turns it), scores (D,), pred_classes (D,). The result of an image does not depend
            on the others of the list.

        Raises:
            UserError: something is no image, which is named.
        """
        if not isinstance(images, (list, tuple)):
            return self._detect([self.reader.to_rgb(images, self._colour)])[0]
        results = []
        for start in range(0, len(images), self._batch_size):
            chunk = images[start : start + self._batch_size]
            arrays = [self.reader.to_rgb(image, self._colour, f"image {start + i}") for i, image in enumerate(chunk)]
            results.extend(self._detect(arrays))
        return results

    @torch.no_grad()
    def _detect(self, images: list[np.ndarray]) -> list[Instances]:
        """Detections of images (H, W, 3) uint8 RGB."""
        inputs = [self.model_input(image) for image in images]
        # Padding changes features at the border, so only images of the same padded size share a batch.
        batches = defaultdict(list)
        for index, item in enumerate(inputs):
            batches[tuple(-(-side // self._divisor) for side in item["image"].shape[1:])].append(index)
        results: dict[int, Instances] = {}
        for indices in batches.values():
            for index, output in zip(indices, self._model([inputs[i] for i in indices])):
                instances = output["instances"].to("cpu")
                results[index] = instances[instances.scores >= self._threshold]
        return [results[index] for index in range(len(images))]

    def model_input(self, image: np.ndarray) -> dict:
        """What the model is called with for an image (H, W, 3) uint8 RGB, in Detectron2's format."""
        height, width = image.shape[:2]
        if self._resize:
            image = resize_shortest_edge(image, *self._sizes)
        if self._model_colour == "BGR":
            image = image[:, :, ::-1]
        tensor = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))  # (3, h, w)
        return {"image": tensor, "height": height, "width": width}


def check_threshold(cfg: CfgNode, score: float) -> None:
    """Refuse a score threshold that the model cannot serve.

    Raises:
        UserError: outside 0 to 1, or below what the run's model passes on.
    """
    least = cfg.MODEL.FEATURE_ALIGN.SCORE_THRESH_TEST
    if not 0 <= score <= 1:
        raise UserError(f"score threshold {score:g}: expected a number from 0 to 1")
    if score < least:
        raise UserError(
            f"score threshold {score:g}: this run's model leaves out scores up to {least:g}; override "
            f"MODEL.FEATURE_ALIGN.SCORE_THRESH_TEST with {score:g}"
        )
