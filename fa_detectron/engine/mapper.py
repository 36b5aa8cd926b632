"""From a record of a data set to the model's input."""

import copy
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.data.detection_utils import SizeMismatchError, check_image_size

from fa_detectron.data.pixels import ImageReader, check_colour
from fa_detectron.errors import UnreadableImage, UserError


class DetectionMapper(DatasetMapper):
    """Detectron2's mapper for boxes, with the project's way of reading pixels and errors that name the image's file.

    The data is checked before training, but not every pixel of every image, and files change.
    """

    def __init__(self, cfg: CfgNode, is_train: bool) -> None:
        super().__init__(cfg, is_train)
        self._reader, self._colour = ImageReader.from_config(cfg), check_colour(cfg.INPUT.FORMAT)

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Read, augment: Detectron2's dataset dict with "image", (3, H, W) uint8, and in training "instances".

        Raises:
            UserError: the image cannot be read, or has another size than annotated.
        """
        item = copy.deepcopy(dataset_dict)
        try:
            image = self._reader.read(item["file_name"])  # (H, W, 3) RGB
            check_image_size(item, image)
        except SizeMismatchError as error:
            raise UserError(f"image {item['file_name']}: {error}") from None
        except UnreadableImage as error:  # a data loader's worker passes on the name of a UserError alone
            raise UserError(f"image {error}") from None
        augmented = T.AugInput(image if self._colour == "RGB" else image[:, :, ::-1])
        transforms = self.augmentations(augmented)
        item["image"] = torch.from_numpy(np.ascontiguousarray(augmented.image.transpose(2, 0, 1)))
        if not self.is_train:
            item.pop("annotations", None)
        elif "annotations" in item:
            self._transform_annotations(item, transforms, augmented.image.shape[:2])
        return item
