"""Decoding by OpenCV of images that Pillow cannot decode completely.

Pillow reduces colour images of 16 bits per channel to their high bytes, and does not support several kinds of TIFF:
32-bit or floating-point colour, 64-bit floating point.
"""

import numpy as np
from PIL import Image, TiffImagePlugin

from fa_detectron.errors import UnreadableImage
from fa_detectron.opencv import import_cv2

ORIENTATION = 0x0112  # EXIF's number, and TIFF's tag, as are:
WIDTH, HEIGHT, _BITS, _PHOTOMETRIC, _SAMPLES, _PLANES, SAMPLE_FORMAT = 256, 257, 258, 262, 277, 284, 339


def is_deep_colour(image: Image.Image) -> bool:
    """Whether the file has several channels of more than 8 bits, which Pillow would reduce to 8."""
    if image.mode[0] in "IF":
        return False
    if image.format == "TIFF" and hasattr(image, "tag_v2"):
        return max(image.tag_v2.get(_BITS, (8,))) > 8
    tiles = getattr(image, "tile", None)
    if not tiles:  # made in memory, or loaded
        return False
    arguments = tiles[0][3]  # of the decoder
    if image.format == "PPM":
        return isinstance(arguments, tuple) and arguments[-1] > 255
    return ";16B" in str(arguments)  # PNG, SGI


def tiff_tags(path: str) -> TiffImagePlugin.ImageFileDirectory_v2 | None:
    """The tags of the first picture in a TIFF file that Pillow cannot decode; None for another file.

    Raises:
        Image.DecompressionBombError: more pixels than Pillow accepts.
    """
    with open(path, "rb") as file:
        start = file.read(8)
        if start[:4] not in (b"II*\0", b"MM\0*"):
            return None
        tags = TiffImagePlugin.ImageFileDirectory_v2(start)
        file.seek(tags.next)
        tags.load(file)
        size = int(tags[WIDTH]), int(tags[HEIGHT])
    most = Image.MAX_IMAGE_PIXELS
    if most is not None and size[0] * size[1] > 2 * most:
        raise Image.DecompressionBombError(f"{size[0]} x {size[1]} pixels could be a decompression bomb")
    return tags


def decode_by_opencv(content: bytes, name: str, tags: TiffImagePlugin.ImageFileDirectory_v2 | None) -> np.ndarray:
    """(H, W) or (H, W, 3) RGB of a whole file of more than 8 bits per channel.

    Args:
        tags: of a TIFF file.
    """
    bits = None
    if tags is not None:
        # What is not refused here, OpenCV silently misinterprets.
        samples, bits = tags.get(_SAMPLES, 1), max(tags.get(_BITS, (1,)))
        if samples > 1 and tags.get(_PLANES, 1) != 1:
            raise UnreadableImage(f"{name}: a TIFF file with separate colour planes; save it with interleaved channels")
        if samples not in (1, 3, 4) or tags.get(_PHOTOMETRIC) not in (1, 2):
            raise UnreadableImage(
                f"{name}: a TIFF file of {samples} channels of {bits} bits, neither grey nor RGB; convert it"
            )
    cv2 = import_cv2(f"{name}: colour images of more than 8 bits and some kinds of TIFF")
    try:
        values = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        values = None
    if values is None or values.dtype == np.uint8 or bits not in (None, values.dtype.itemsize * 8):
        raise UnreadableImage(f"{name}: damaged, or of a kind that OpenCV {cv2.__version__} cannot decode")
    return values[:, :, 2::-1] if values.ndim == 3 else values  # BGR or BGRA
