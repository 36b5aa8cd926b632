"""What an image file holds: its size, its depth and its values as they are, before they become 8 bits."""

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

# Pillow looks at a file's content, not at its name, and hands what turns out to be an EPS file to Ghostscript, which
# runs it: EPS is a programming language. Not here.
EpsImagePlugin.gs_binary = False

_MAY_TURN = {"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"}  # entries that may hold an orientation


@dataclass(frozen=True)
class ImageHeader:
    """What a file's first bytes tell.

    Attributes:
        stored: (width, height) in pixels, as they are stored.
        orientation: 1 to 8, as EXIF has it; from 5 on, width and height change places.
        deep: whether a channel has more than 8 bits.
    """

    stored: tuple[int, int]
    orientation: int
    deep: bool

    def size(self, upright: bool) -> tuple[int, int]:
        """(width, height) in pixels; ``upright``: after the orientation."""
        return self.stored[::-1] if upright and self.orientation >= 5 else self.stored


@contextlib.contextmanager
def open_image(path: str | os.PathLike) -> Iterator[Image.Image]:
    """``PIL.Image.open``, which reads the header alone, without files that are programs.

    Raises:
        UnreadableImage: an EPS file.
        Exception: nearly any, over a broken file.
    """
    # Given a path, Pillow maps plain TIFF files into memory, and those that have an orientation wrongly.
    with open(path, "rb") as file, Image.open(file) as image:
        if image.format == "EPS":
            raise UnreadableImage(
                f"{os.fspath(path)}: an EPS file, which is a program and no picture; convert it to PNG or JPEG"
            )
        yield image


def image_problem(error: Exception) -> str:
    """Why an image could not be read, in words."""
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
            # A PNG would be decoded as a whole by getexif().
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
    """An image's values, the first picture of an animation or a stack; transparency is dropped.

    Args:
        path: the file.
        upright: turn it as its EXIF orientation says.

    Returns:
        (H, W, 3) uint8 RGB for images of up to 8 bits, whether colour, grey or palette; else the stored numbers in
        another dtype, (H, W) or (H, W, 3) RGB.

    Raises:
        UserError: no such file, no image, a damaged one, or a kind that nothing here can decode.
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
        UserError: as there.
    """
    with _errors_named(path), contextlib.suppress(UnidentifiedImageError), open_image(path) as image:
        if image.format in ("JPEG", "MPO"):
            image.draft("L", (1, 1))
            image.load()
            return
    read_values(path, upright=True)


@contextlib.contextmanager
def _errors_named(path: str) -> Iterator[None]:
    """Whatever a decoder raises, as an UnreadableImage that names the file."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # Pillow's decoders raise many types on broken files
        raise UnreadableImage(f"{path}: {image_problem(error)}") from None


def pil_values(image: Image.Image, name: str, upright: bool) -> np.ndarray:
    """The same of a PIL image, opened from a file or made; errors are Pillow's.

    Args:
        image: colour images of more than 8 bits must not have been loaded, for Pillow drops their low bytes. Of a
            loaded TIFF this is noticed, of a loaded PNG it cannot be.
        name: of the image in messages.
        upright: as above.
    """
    deep_colour = is_deep_colour(image)
    tags = image.tag_v2 if image.format == "TIFF" and hasattr(image, "tag_v2") else None
    content = b""
    if deep_colour:
        if not image.tile or image.tell():  # loaded, or not the file's first picture
            raise UnreadableImage(f"{name}: Pillow reduces this image to 8 bits per channel; give its file's path")
        image.fp.seek(0)
        content = image.fp.read()
    orientation = _orientation(image)
    if tags is not None and orientation >= 5 and image.tile and getattr(image, "filename", "") and not image.tell():
        return read_values(image.filename, upright)  # see open_image
    if deep_colour:
        values = decode_by_opencv(content, name, tags)
    elif image.mode[0] in "IF":
        values = np.asarray(image)
        if image.mode == "I" and tags is not None and tags.get(SAMPLE_FORMAT, (1,))[0] == 1:
            values = values.view(np.uint32)  # Pillow's 32 bits have a sign
    else:
        values = np.asarray(image.convert("RGB"))
    if tags is not None:  # Pillow and OpenCV turn TIFF files by themselves
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
    """Turn (H, W, ...) as an EXIF orientation says."""
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
