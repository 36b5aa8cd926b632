"""OpenCV, an optional package (the extra "video"): videos, cameras, and colour images of more than 8 bits."""

import os
from typing import Any

from fa_detectron.errors import UserError


def import_cv2(what: str) -> Any:
    """The module ``cv2``, silenced: our own messages name the file.

    Args:
        what: needs it, in the plural, for the message.

    Raises:
        UserError: it is not installed.
    """
    try:
        import cv2
    except ImportError:
        raise UserError(f"{what} need OpenCV: pip install opencv-python-headless") from None
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    return cv2
