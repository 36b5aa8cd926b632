"""From an image file, a PIL image, an array or a tensor to the pixels that a detector sees.

Training, evaluation, prediction, the data checks and all pictures read through :class:`ImageReader`.
"""

import logging
import math
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.utils.logger import log_first_n
from PIL import Image

from fa_detectron.data.images.file import image_problem, pil_values, read_values
from fa_detectron.errors import UnreadableImage, UserError

ImageLike = str | os.PathLike | np.ndarray | torch.Tensor | Image.Image


@dataclass(frozen=True)
class ImageReader:
    """Converts any image to (H, W, 3) uint8 RGB.

    Images of up to 8 bits per channel (colour, grey, palette, CMYK) keep their values; transparency is dropped. Images
    of more bits ("deep" ones: 16 or 32 bits, floating point) are scaled by ``value_range``; NaN becomes 0.

    Attributes:
        value_range: the values (low, high) of deep images that become 0 and 255; others are clipped. None refuses deep
            images.
        upright: rotate images by their EXIF orientation; False takes them as they are stored.
    """

    value_range: tuple[float, float] | None = None
    upright: bool = True

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "ImageReader":
        """The reader of a run: INPUT.PIXEL_RANGE and INPUT.EXIF_ORIENTATION.

        Raises:
            UserError: the range is not two numbers in ascending order.
        """
        found = cfg.INPUT.PIXEL_RANGE
        if not found:
            return cls(None, cfg.INPUT.EXIF_ORIENTATION)
        numbers = len(found) == 2 and all(isinstance(v, (int, float)) and math.isfinite(v) for v in found)
        if not numbers or found[0] >= found[1]:
            raise UserError(f"INPUT.PIXEL_RANGE is {found}, but must be [] or [LOW, HIGH], two numbers, LOW < HIGH")
        return cls((float(found[0]), float(found[1])), cfg.INPUT.EXIF_ORIENTATION)

    def values(self, path: str | os.PathLike) -> np.ndarray:
        """The values before they are scaled: see :func:`read_values`."""
        return read_values(path, self.upright)

    def read(self, path: str | os.PathLike) -> np.ndarray:
        """Read an image file, of an animation the first picture.

        Returns:
            (H, W, 3) uint8 RGB.

        Raises:
            UnreadableImage: not an image, damaged, or a deep image without ``value_range``.
        """
        return self._rgb(self.values(path), os.fspath(path))

    def to_rgb(self, image: ImageLike, colour: str = "RGB", name: str = "image") -> np.ndarray:
        """Any kind of image as (H, W, 3) uint8 RGB.

        Args:
            image: a file's path; a PIL image, treated like its file (a colour image of 16 bits per channel must not be
                loaded: see :func:`pil_values`); a numpy array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4); a tensor
                (C, H, W) or (H, W). uint8 keeps its values; other numbers are those of an image file, and scaled by
                ``value_range``. Without it, floating point from 0 to 1 becomes 0 to 255.
            colour: order of the channels of arrays and tensors, "RGB" or "BGR" (OpenCV's); a fourth one is dropped.
            name: of the image, for messages.

        Raises:
            UserError: none of these.
        """
        if isinstance(image, (str, os.PathLike)):
            return self.read(image)
        if isinstance(image, Image.Image):
            try:
                return self._rgb(pil_values(image, name, self.upright), name)
            except UserError:
                raise
            except Exception as error:  # a PIL image reads its file only when its pixels are needed
                raise UnreadableImage(f"{name}: {image_problem(error)}") from None
        if isinstance(image, torch.Tensor):
            image = image.detach().cpu()
            array = (image.movedim(0, -1) if image.ndim == 3 else image).numpy()
            layout = "(C, H, W) or (H, W)"
        elif isinstance(image, np.ndarray):
            array, layout = image, "(H, W, C) or (H, W)"
        else:
            raise UserError(f"{name}: expected a path, PIL image, numpy array or tensor, got {type(image).__name__}")
        if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)) or 0 in array.shape:
            shape = tuple(image.shape)
            raise UserError(f"{name}: expected the shape {layout} with 1, 3 or 4 channels and some pixels, got {shape}")
        if not (np.issubdtype(array.dtype, np.integer) or np.issubdtype(array.dtype, np.floating)):
            raise UserError(f"{name}: pixels must be integers or floating-point numbers, they are {array.dtype}")
        if array.ndim == 3:
            array = array[:, :, :3]
            array = array[:, :, ::-1] if colour == "BGR" else array
        if self.value_range is None and np.issubdtype(array.dtype, np.floating) and _within_one(array):
            return ImageReader((0.0, 1.0))._rgb(array, name)
        return self._rgb(array, name)

    def _rgb(self, values: np.ndarray, name: str) -> np.ndarray:
        """(H, W), (H, W, 1) or (H, W, 3) of any dtype as (H, W, 3) uint8, contiguous and writable."""
        if values.dtype != np.uint8:
            values = self._scaled(values, name)
        elif self.value_range is not None:
            text = "%s has 8 bits a channel and is taken as it is; INPUT.PIXEL_RANGE scales only images of more bits"
            log_first_n(logging.WARNING, text % name, 1, name=__name__)
        if values.ndim == 2:
            values = values[:, :, None]
        if values.shape[2] == 1:
            return np.repeat(values, 3, axis=2)
        return np.require(values, requirements=["C", "W"])

    def _scaled(self, values: np.ndarray, name: str) -> np.ndarray:
        if self.value_range is None:
            raise UnreadableImage(
                f"{name}: its pixels are {values.dtype}, {_span(values)}, and INPUT.PIXEL_RANGE, which says what is "
                "black and what is white, is empty: the run was trained on images of 8 bits. Convert the image to 8 "
                'bits as those were, or give the range, as INPUT.PIXEL_RANGE "[LOW, HIGH]"'
            )
        scaled = scale_values(values, *self.value_range)
        if scaled.min() == scaled.max() in (0, 255) and values.min() != values.max():
            low, high = self.value_range
            text = f"{name}: all its pixels ({_span(values)}) lie outside INPUT.PIXEL_RANGE {low:.7g} to {high:.7g}"
            log_first_n(logging.WARNING, f"{text}, so it is blank. Is it of the same kind as the training set?", 3)
        return scaled


def scale_values(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Map ``low`` to 0 and ``high`` to 255, clip, round to uint8; NaN becomes 0."""
    if values.dtype == np.uint16:
        return scale_values(np.arange(65536.0), low, high)[values]
    share = (values.astype(np.float64) - low) / (high - low)
    return np.rint(np.clip(np.nan_to_num(share, nan=0.0), 0, 1) * 255).astype(np.uint8)


def _within_one(array: np.ndarray) -> bool:
    return bool(array.min() >= 0 and array.max() <= 1)  # False for NaN as well


def _span(values: np.ndarray) -> str:
    if not np.isfinite(values).any():
        return "none of them a finite number"
    finite = values[np.isfinite(values)]
    return f"values {finite.min():.7g} to {finite.max():.7g}"


def check_colour(colour: Any) -> str:
    """``colour`` if it is "RGB" or "BGR".

    Raises:
        UserError: it is neither.
    """
    if colour not in ("RGB", "BGR"):
        raise UserError(f"colour {colour!r}: expected RGB or BGR")
    return colour
