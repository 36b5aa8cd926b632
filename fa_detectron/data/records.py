"""An annotated set as the readers return it, before any check of its boxes."""

import os
from dataclasses import dataclass
from typing import Any

from detectron2.config import CfgNode

from fa_detectron.errors import UserError

MOST_PIXELS = 1_000_000  # per side of an image, so that everything computed from it stays finite


@dataclass(frozen=True)
class ReadOptions:
    """How the files of a set are read, in every format.

    Attributes:
        images_root: folder of the images (--images); "" searches around the annotations.
        follow_links: read files that a symbolic link takes out of the set's own folder (--follow-links).
        skip_missing_images: leave out images that do not exist instead of refusing the set (--skip-missing-images).
        upright: image sizes are those after the EXIF orientation.
    """

    images_root: str = ""
    follow_links: bool = False
    skip_missing_images: bool = False
    upright: bool = True

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "ReadOptions":
        data = cfg.DATASETS
        return cls(data.IMAGES_ROOT, data.FOLLOW_LINKS, data.SKIP_MISSING_IMAGES, cfg.INPUT.EXIF_ORIENTATION)

    def images_folder(self) -> str:
        """The absolute path of ``images_root``; "" if there is none. Raises UserError if it does not exist."""
        if not self.images_root:
            return ""
        folder = os.path.abspath(os.path.expanduser(self.images_root))
        if not os.path.isdir(folder):
            raise UserError(f"--images (DATASETS.IMAGES_ROOT): no such folder: {folder}")
        return folder


@dataclass
class Annotation:
    """One box of an image."""

    label: str
    box: Any  # (x1, y1, x2, y2) in pixels as in the file; clean_boxes leaves a tuple of floats
    index: int  # position in its file, from 0
    area: float = 0.0  # pixels of the object, for COCO's size ranges; 0 means the box's area
    iscrowd: int = 0  # 1: left out of training, and neither hit nor miss in the evaluation


@dataclass
class ImageRecord:
    file_name: str  # absolute
    image_id: int | str  # the user's own; 1 where the file has 1.0
    width: int
    height: int
    annotations: list[Annotation]
    source: str  # the file with its annotations

    def where(self, annotation: Annotation) -> str:
        """Which box of which file this is, for messages."""
        return f"annotation {annotation.index} in {self.source} (image {self.image_id!r}, class {annotation.label!r})"


@dataclass
class AnnotatedSet:
    path: str  # as messages name it
    classes: tuple[str, ...]  # in the order of the class numbers
    images: list[ImageRecord]
    category_ids: tuple[int | str, ...] | None = None  # of the classes, in their order; None: the format has no ids
    format: str = ""  # in words, as in "CVAT XML"
    has_id_zero: bool = False  # a COCO file with an annotation of id 0

    @property
    def summary(self) -> str:
        """What was read, in a line."""
        return f"read as {self.format}, {len(self.images)} images, {len(self.classes)} classes"
