"""Detectron2's mapper from a record of a data set to the model's input, with the file named where it fails."""

from typing import Any

from detectron2.data import DatasetMapper

from fa_detectron.errors import UserError


class NamingMapper(DatasetMapper):
    """DatasetMapper whose errors over an image are a user's error and name the image's file.

    The data is checked before training, but not every pixel of every image, and files change.
    """

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        try:
            return super().__call__(dataset_dict)
        except (OSError, ValueError, SyntaxError) as error:  # SyntaxError: Pillow's, over a broken PNG
            raise UserError(f"image {dataset_dict['file_name']}: {error}") from None
