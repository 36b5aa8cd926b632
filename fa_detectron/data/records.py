"""What the readers make of an annotated data set, before any check of its boxes."""

from dataclasses import dataclass
from typing import Any

from detectron2.config import CfgNode


@dataclass(frozen=True)
class ReadOptions:
    """How the files of a set are read; the same for every format.

    Attributes:
        images_root: folder of the images (--images); "" looks around the annotations.
        follow_links: read files that a symbolic link takes out of the set's own folder (--follow-links).
        skip_missing_images: leave out images that do not exist, instead of refusing the set (--skip-missing-images).
        upright: sizes that come from the images are those after their EXIF orientation.
    """

    images_root: str = ""
    follow_links: bool = False
    skip_missing_images: bool = False
    upright: bool = True

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "ReadOptions":
        data = cfg.DATASETS
        return cls(data.IMAGES_ROOT, data.FOLLOW_LINKS, data.SKIP_MISSING_IMAGES, cfg.INPUT.EXIF_ORIENTATION)


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
    image_id: int | str  # the user's own; 1 where the file has 1.0
    width: int
    height: int
    annotations: list[Annotation]
    source: str  # the file that the annotations stand in

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
