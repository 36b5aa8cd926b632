"""An image file's size, depth and stored values, before they are scaled to 8 bits."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import EpsImagePlugin, Image, UnidentifiedImageError

from fa_detectron.data.images.deep import (
    HEIGHT,
    ORIENTATION,
    SAMPLE_FORMAT,
    WIDTH,
    decode_by_opencv,
    is_deep_colour,
    tiff_tags,
)
from fa_detectron.errors import UnreadableImage, UserError

# Pillow passes EPS files, whatever their name, to Ghostscript, which runs them: EPS is a programming language.
EpsImagePlugin.gs_binary = False

_MAY_TURN = {"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"}  # entries that may hold an orientation


@dataclass(frozen=True)
class ImageHeader:
    """The header of a file.

    Attributes:
        stored: (width, height) in pixels, as stored.
        orientation: 1 to 8, as in EXIF; from 5 on, width and height are swapped.
        deep: whether a channel has more than 8 bits.
    """

    stored: tuple[int, int]
    orientation: int
    deep: bool

    def size(self, upright: bool) -> tuple[int, int]:
        """(width, height) in pixels; ``upright``: after applying the orientation."""
        return self.stored[::-1] if upright and self.orientation >= 5 else self.stored


@contextlib.contextmanager
def open_image(path: str | os.PathLike) -> Iterator[Image.Image]:
    """``PIL.Image.open``, which reads only the header, except for files that are programs.

    Raises:
        UnreadableImage: an EPS file.
        Exception: nearly any, for a broken file.
    """
    # Given a path, Pillow maps plain TIFF files into memory, wrongly if they have an orientation.
    with open(path, "rb") as file, Image.open(file) as image:
        if image.format == "EPS":
            raise UnreadableImage(
                f"{os.fspath(path)}: an EPS file, which is a program and no picture; convert it to PNG or JPEG"
            )
        yield image


def image_problem(error: Exception) -> str:
    """The message about an image that could not be read."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image, whatever its name says"
    if isinstance(error, (FileNotFoundError, IsADirectoryError, PermissionError)):
        return str(error.strerror)
    return f"damaged image ({error or type(error).__name__})"


def read_header(path: str | os.PathLike) -> ImageHeader:
    """Size, orientation and depth, without decoding the pixels.

    Raises:
        UserError: no such file, or not a readable image.
    """
    path = os.fspath(path)
    with _errors_named(path):
        stat = os.stat(path)
        return _read_header(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(100_000)  # readers, checks and the range of the pixels each ask for it
def _read_header(path: str, changed: int, size: int) -> ImageHeader:
    """``changed``, ``size``: of the file, so that a new one is read anew."""
    try:
        with open_image(path) as image:
            # getexif() would decode a whole PNG.
            plain = image.format == "PNG" and not _MAY_TURN & image.info.keys()
            orientation = 1 if plain else _orientation(image)
            deep = is_deep_colour(image) or image.mode[0] in "IF"
            # Pillow's size of a TIFF is the upright one.
            upright_already = image.format == "TIFF" and orientation >= 5
            return ImageHeader(image.size[::-1] if upright_already else image.size, orientation, deep)
    except UnidentifiedImageError:
        tags = tiff_tags(path)
        if tags is None:
            raise
        return ImageHeader((tags[WIDTH], tags[HEIGHT]), _valid(tags.get(ORIENTATION)), True)


def read_values(path: str | os.PathLike, upright: bool) -> np.ndarray:
    """An image's values, of an animation or a stack those of the first picture; transparency is dropped.

    Args:
        path: the file.
        upright: rotate it by its EXIF orientation.

    Returns:
        (H, W, 3) uint8 RGB for colour, grey and palette images of up to 8 bits; else the stored numbers in another
        dtype, (H, W) or (H, W, 3) RGB.

    Raises:
        UserError: no such file, not an image, damaged, or of an unsupported kind.
    """
    path = os.fspath(path)
    with _errors_named(path):
        try:
            with open_image(path) as image:
                return pil_values(image, path, upright)
        except UnidentifiedImageError:
            tags = tiff_tags(path)
            if tags is None:
                raise
            with open(path, "rb") as file:
                values = decode_by_opencv(file.read(), path, tags)
            return values if upright else _turn_back(values, tags.get(ORIENTATION, 1))


def check_decodes(path: str) -> None:
    """Read a whole file, a JPEG at an eighth of its size: as thorough as :func:`read_values`, and faster.

    Raises:
        UserError: as :func:`read_values` does.
    """
    with _errors_named(path), contextlib.suppress(UnidentifiedImageError), open_image(path) as image:
        if image.format in ("JPEG", "MPO"):
            image.draft("L", (1, 1))
            image.load()
            return
    read_values(path, upright=True)


@contextlib.contextmanager
def _errors_named(path: str) -> Iterator[None]:
    """Turn any error of a decoder into an UnreadableImage that names the file."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # Pillow's decoders raise many types on broken files
        raise UnreadableImage(f"{path}: {image_problem(error)}") from None


def pil_values(image: Image.Image, name: str, upright: bool) -> np.ndarray:
    """:func:`read_values` of a PIL image, from a file or made in memory; errors are Pillow's.

    Args:
        image: a colour image of more than 8 bits must not be loaded yet, since Pillow drops the low bytes. This is
            detected for a loaded TIFF, but cannot be for a loaded PNG.
        name: of the image, for messages.
        upright: rotate it by its EXIF orientation.
    """
    deep_colour = is_deep_colour(image)
    tags = image.tag_v2 if image.format == "TIFF" and hasattr(image, "tag_v2") else None
    content = b""
    source: Any = image  # that of a file has its decoder's tiles, its stream and its name
    if deep_colour:
        if not source.tile or image.tell():  # loaded, or not the file's first picture
            raise UnreadableImage(f"{name}: Pillow reduces this image to 8 bits per channel; give its file's path")
        source.fp.seek(0)
        content = source.fp.read()
    orientation = _orientation(image)
    if tags is not None and orientation >= 5 and source.tile and getattr(image, "filename", "") and not image.tell():
        return read_values(source.filename, upright)  # see open_image
    if deep_colour:
        values = decode_by_opencv(content, name, tags)
    elif image.mode[0] in "IF":
        values = np.asarray(image)
        if image.mode == "I" and tags is not None and tags.get(SAMPLE_FORMAT, (1,))[0] == 1:
            values = values.view(np.uint32)  # Pillow's 32 bits have a sign
    else:
        values = np.asarray(image.convert("RGB"))
    if tags is not None:  # Pillow and OpenCV rotate TIFF files themselves
        return values if upright else _turn_back(values, orientation)
    return _turn(values, orientation) if upright else values


def _orientation(image: Image.Image) -> int:
    try:
        found = image.getexif().get(ORIENTATION)
    except Exception:  # broken metadata of a good image
        return 1
    return _valid(found)


def _valid(orientation: Any) -> int:
    return orientation if orientation in range(1, 9) else 1


def _turn(values: np.ndarray, orientation: int) -> np.ndarray:
    """Rotate (H, W, ...) by an EXIF orientation."""
    if orientation in (2, 3):
        values = values[:, ::-1]
    if orientation in (3, 4):
        values = values[::-1]
    if orientation >= 5:
        values = values.swapaxes(0, 1)
    if orientation in (6, 7):
        values = values[:, ::-1]
    if orientation in (7, 8):
        values = values[::-1]
    return values


def _turn_back(values: np.ndarray, orientation: int) -> np.ndarray:
    return _turn(values, {6: 8, 8: 6}.get(orientation, orientation))  # the others are their own inverses
