"""Any image as an (H, W, 3) uint8 array in RGB order, or a clear refusal."""

import os
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from fa_detectron.errors import UserError
from fa_detectron.image_files import UnreadableImage, open_image

ImageLike = str | os.PathLike | np.ndarray | torch.Tensor | Image.Image


def read_image(path: str | os.PathLike) -> np.ndarray:
    """Read an image file, turned as its EXIF orientation says; the first picture of an animation.

    Grey images and palettes become RGB, transparency is dropped (as in training), 16 bits a channel are scaled to 8
    by their full range, whatever the image's own darkest and brightest pixels are.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        UnreadableImage: the file is no image, is damaged, or has pixels of a kind without a known range.
    """
    path = os.fspath(path)
    try:
        with open_image(path) as stored:
            return _from_pil(ImageOps.exif_transpose(stored), path)
    except UserError:
        raise
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise UnreadableImage(f"{path}: {error.strerror}") from None
    except UnidentifiedImageError:
        raise UnreadableImage(f"{path}: not an image, whatever its name says") from None
    except Exception as error:  # Pillow's decoders raise many types on damaged files
        raise UnreadableImage(f"{path}: damaged image ({error})") from None


def to_rgb(image: ImageLike, colour: str = "RGB", name: str = "image") -> np.ndarray:
    """Any kind of image as an (H, W, 3) uint8 RGB array.

    Args:
        image: a file's path; a PIL image (taken as it stands, without its EXIF orientation); a numpy array (H, W),
            (H, W, 1), (H, W, 3) or (H, W, 4); a tensor with these channels first, (C, H, W), or (H, W). Arrays and
            tensors are uint8, uint16 (scaled by the full range), or floating with values 0 to 1.
        colour: order of the channels of arrays and tensors, "RGB" or "BGR" (OpenCV's); a fourth one is dropped.
        name: of the image in messages.

    Raises:
        UserError: not one of these.
    """
    if isinstance(image, (str, os.PathLike)):
        return read_image(image)
    if isinstance(image, Image.Image):
        return _from_pil(image, name)
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
    return _channels(_to_uint8(array, name), colour)


def _from_pil(image: Image.Image, name: str) -> np.ndarray:
    if image.mode.startswith("I;16") or image.mode == "I":
        array = np.asarray(image)  # Pillow's own conversion would clip everything above 255
        if array.min() < 0 or array.max() > 65535:
            raise UnreadableImage(
                f"{name}: 32 bits a pixel, values {array.min()} to {array.max()}; save it with 8 or 16"
            )
        return _channels(_to_uint8(array.astype(np.uint16), name), "RGB")
    if image.mode == "F":
        return _channels(_to_uint8(np.asarray(image), name), "RGB")
    return np.array(image.convert("RGB"))


def _to_uint8(array: np.ndarray, name: str) -> np.ndarray:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.uint16:
        return ((array.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    if not np.issubdtype(array.dtype, np.floating):
        raise UserError(f"{name}: pixels must be uint8, uint16 or floating, they are {array.dtype}")
    low, high = float(array.min()), float(array.max())
    if not (low >= 0 and high <= 1):  # false for NaN as well
        raise UnreadableImage(
            f"{name}: floating-point pixels must lie between 0 and 1, they range from {low:g} to {high:g}; "
            "convert the image to uint8"
        )
    return np.rint(array * 255).astype(np.uint8)


def _channels(array: np.ndarray, colour: str) -> np.ndarray:
    """(H, W), (H, W, 1), (H, W, 3) or (H, W, 4) as (H, W, 3) RGB."""
    if array.ndim == 2:
        array = array[:, :, None]
    if array.shape[2] == 1:
        return np.repeat(array, 3, axis=2)
    array = array[:, :, :3]
    return np.ascontiguousarray(array[:, :, ::-1] if colour == "BGR" else array)


def check_colour(colour: Any) -> str:
    """``colour`` if it is "RGB" or "BGR".

    Raises:
        UserError: it is neither.
    """
    if colour not in ("RGB", "BGR"):
        raise UserError(f"colour {colour!r}: expected RGB or BGR")
    return colour
