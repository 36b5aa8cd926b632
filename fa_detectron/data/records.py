"""What the readers make of an annotated data set, before any check of its boxes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fa_detectron.errors import UserError

# What a reader calls with (path, what, items, remedy) for entries that it cannot use: `refuse` raises, which is what
# training wants; fa_detectron.check_data notes them and lets the reader go on without them.
Complain = Callable[..., None]

SHOWN = 10  # items that an error message names before it only counts


@dataclass
class Annotation:
    """One box of an image."""

    label: str
    box: Any  # (x1, y1, x2, y2) in pixels as the file has it; checks.clean_boxes leaves a tuple of floats
    index: int  # position in its file, from 0
    area: float = 0.0  # pixels of the object, for COCO's size ranges; 0 takes the box's area
    iscrowd: int = 0  # 1: left out of training, and neither hit nor miss in the evaluation


@dataclass
class ImageRecord:
    file_name: str  # absolute
    image_id: int | str
    width: int
    height: int
    annotations: list[Annotation]
    source: str  # the file that the annotations stand in

    def where(self, annotation: Annotation) -> str:
        """Say in words which box of which file this is."""
        return f"annotation {annotation.index} in {self.source} (image {self.image_id!r}, class {annotation.label!r})"


@dataclass
class AnnotatedSet:
    path: str
    classes: tuple[str, ...]  # in the order of the class numbers
    images: list[ImageRecord]


def listing(items: Sequence[str]) -> str:
    """The first items, one a line, and the count of those left out."""
    lines = [f"  {item}" for item in items[:SHOWN]]
    if len(items) > SHOWN:
        lines.append(f"  ... and {len(items) - SHOWN} more")
    return "\n".join(lines)


def refuse(path: str, what: str, items: Sequence[str], remedy: str = "") -> None:
    """Raise UserError unless ``items`` is empty; the message has their count and the first of them."""
    if items:
        raise UserError(f"{path}: {len(items)} {what}:\n{listing(items)}" + (f"\n{remedy}" if remedy else ""))
