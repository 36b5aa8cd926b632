"""Opening image files of unknown origin."""

import os

from PIL import EpsImagePlugin, Image

from fa_detectron.errors import UserError

# Pillow looks at a file's content, not at its name, and hands what turns out to be an EPS file to Ghostscript, which
# runs it: EPS is a programming language. Not here, nor where Detectron2 opens an image itself.
EpsImagePlugin.gs_binary = False


class UnreadableImage(UserError):
    """A file that is no image, or a damaged one."""


def open_image(path: str | os.PathLike) -> Image.Image:
    """``PIL.Image.open``, which reads the header alone, without files that are programs.

    Raises:
        UnreadableImage: an EPS file.
        Exception: nearly any, over a broken file.
    """
    image = Image.open(path)
    if image.format == "EPS":
        image.close()
        raise UnreadableImage(
            f"{os.fspath(path)}: an EPS file, which is a program and no picture; convert it to PNG or JPEG"
        )
    return image
