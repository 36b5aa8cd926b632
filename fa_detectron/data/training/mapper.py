"""From a record of a data set to the model's input."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.data.detection_utils import SizeMismatchError, check_image_size

from fa_detectron.data.images.pixels import ImageReader, check_colour
from fa_detectron.data.training.augmentation import mosaic, train_augmentations, visible_shares, xyxy_boxes
from fa_detectron.errors import UnreadableImage, UserError


class DetectionMapper(DatasetMapper):
    """Detectron2's mapper for boxes, with the project's reader of images, its augmentations, and errors that name the
    image's file: not every image is checked before training, and files change.

    In evaluation the annotations stay as they are, in pixels of the original image.
    """

    def __init__(self, cfg: CfgNode, is_train: bool) -> None:
        super().__init__(cfg, is_train)
        self._reader, self._colour = ImageReader.from_config(cfg), check_colour(cfg.INPUT.FORMAT)
        self._min_visible = cfg.INPUT.MIN_VISIBLE

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        options = super().from_config(cfg, is_train)
        if is_train:
            options["augmentations"] = train_augmentations(cfg, options["augmentations"])
        return options

    def __call__(self, dataset_dict: dict[str, Any], others: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
        """Detectron2's dataset dict with "image", (3, H, W) uint8, augmented, and in training "instances".

        Args:
            others: three more, which are combined with the image into a mosaic.

        Raises:
            UserError: the image cannot be read, or has another size than annotated.
        """
        item = copy.deepcopy(dataset_dict)
        image = self._read(item)
        if others:
            parts = [(self._read(other), other.get("annotations", [])) for other in copy.deepcopy(list(others))]
            image, item["annotations"] = mosaic([(image, item.get("annotations", [])), *parts], self._min_visible)
        boxes = xyxy_boxes(item.get("annotations", [])) if self.is_train else None
        augmented = T.AugInput(image, boxes=boxes)
        transforms = self.augmentations(augmented)
        pixels = augmented.image if self._colour == "RGB" else augmented.image[:, :, ::-1]
        item["image"] = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
        if self.is_train and "annotations" in item:
            self._transform_annotations(item, transforms, pixels.shape[:2])
        return item

    def _read(self, item: dict[str, Any]) -> np.ndarray:
        """The image of a dataset dict, (H, W, 3) RGB."""
        try:
            image = self._reader.read(item["file_name"])
            check_image_size(item, image)
        except SizeMismatchError as error:
            raise UserError(f"image {item['file_name']}: {error}") from None
        except UnreadableImage as error:  # a data loader's worker passes on only the name of a UserError
            raise UserError(f"image {error}") from None
        return image

    def _transform_annotations(self, item: dict[str, Any], transforms: T.Transform, size: tuple[int, int]) -> None:
        """Detectron2's, without boxes of which a crop leaves less than INPUT.MIN_VISIBLE."""
        annotations = item["annotations"]
        if self._min_visible > 0 and annotations:
            shares = visible_shares(transforms.apply_box(xyxy_boxes(annotations)), *size)
            item["annotations"] = [a for a, share in zip(annotations, shares) if share >= self._min_visible]
        super()._transform_annotations(item, transforms, size)
