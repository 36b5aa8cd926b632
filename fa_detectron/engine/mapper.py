"""Detectron2's mapper from a record of a data set to the model's input, with the file named where it fails."""

import struct
from typing import Any

from detectron2.data import DatasetMapper
from PIL import Image

import fa_detectron.image_files  # noqa: F401  Detectron2 opens images itself: no file may run
from fa_detectron.errors import UserError

# Of Pillow and Detectron2 over an image: missing, broken, of another size than annotated, a decompression bomb.
_OVER_AN_IMAGE = (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError)


class NamingMapper(DatasetMapper):
    """DatasetMapper whose errors over an image are a user's error and name the image's file.

    The data is checked before training, but not every pixel of every image, and files change.
    """

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        try:
            return super().__call__(dataset_dict)
        except _OVER_AN_IMAGE as error:
            raise UserError(f"image {dataset_dict['file_name']}: {error}") from None
