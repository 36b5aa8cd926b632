"""Coordinates that are fractions of an image's sides where pixels are expected."""

from typing import Any

from fa_detectron.data.findings import Findings
from fa_detectron.data.records import AnnotatedSet

_SMALLEST_SIDE = 4  # pixels of an image, below which boxes of about a pixel are plausible


def like_fractions(box: Any) -> bool:
    """Whether a box (x1, y1, x2, y2) looks like fractions of its image's sides, a little beyond it at most.

    In pixels it would be hardly larger than one, in the upper left corner.
    """
    return isinstance(box, tuple) and all(isinstance(value, (int, float)) and -1 <= value <= 1.5 for value in box)


def refuse_fractions(data: AnnotatedSet, findings: Findings) -> None:
    """Refuse a set that was read in pixels and all of whose boxes look like fractions."""
    boxes = [(image, annotation) for image in data.images for annotation in image.annotations]
    if not all(like_fractions(a.box) and min(image.width, image.height) >= _SMALLEST_SIDE for image, a in boxes):
        return
    if any(value % 1 for _, annotation in boxes for value in annotation.box):
        findings.refuse(
            data.path,
            "boxes (all that there are) look like fractions of their image's sides, and are read in pixels",
            [image.where(annotation) for image, annotation in boxes],
            "Multiply the fractions by the image's width and height.",
        )
