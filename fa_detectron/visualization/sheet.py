"""A sheet of annotated images, small and side by side: what a data set looks like at a glance."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from fa_detectron.data.images.pixels import ImageReader
from fa_detectron.data.records import AnnotatedSet, ImageRecord

from .samples import captioned

_WIDTH, _HEIGHT = 320, 280  # pixels of a picture, at most
_GAP = 8
_COLUMNS = 4
_PAPER = (250, 250, 250)


def picture_sheet(
    data: AnnotatedSet, reader: ImageReader, unreadable: set[str] | frozenset[str] = frozenset(), count: int = 12
) -> Image.Image:
    """Draw evenly spread images of a checked set with their boxes; those with boxes come first.

    Args:
        data: boxes as :func:`fa_detectron.data.checks.boxes.clean_boxes` leaves them.
        reader: reads the images as a detector sees them.
        unreadable: files to leave out.
        count: pictures, at most.

    Returns:
        An RGB picture; an empty one where no image can be shown.
    """
    readable = [image for image in data.images if image.file_name not in unreadable]
    images = [image for image in readable if image.annotations] or readable
    chosen = [images[i * len(images) // count] for i in range(count)] if len(images) > count else images
    return arrange([_picture(image, data.classes, reader) for image in chosen])


def arrange(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures row by row in one; an empty one where there are none."""
    rows = [pictures[i : i + _COLUMNS] for i in range(0, len(pictures), _COLUMNS)]
    width = max((sum(p.width + _GAP for p in row) for row in rows), default=1)
    height = sum(max(p.height for p in row) + _GAP for row in rows) or 1
    sheet = Image.new("RGB", (width, height), _PAPER)
    top = 0
    for row in rows:
        left = 0
        for picture in row:
            sheet.paste(picture, (left, top))
            left += picture.width + _GAP
        top += max(p.height for p in row) + _GAP
    return sheet


def _picture(record: ImageRecord, class_names: Sequence[str], reader: ImageReader) -> Image.Image:
    image = Image.fromarray(reader.read(record.file_name))
    boxes = np.array([a.box for a in record.annotations], dtype=float).reshape(-1, 4)  # (B, 4) xyxy pixels
    classes = [class_names.index(a.label) for a in record.annotations]
    labels = [f"{a.label} (crowd)" if a.iscrowd else a.label for a in record.annotations]
    scale = min(_WIDTH / image.width, _HEIGHT / image.height)
    title = str(record.image_id)
    return captioned(image, boxes, classes, labels, title if len(title) < 40 else f"...{title[-36:]}", scale)
