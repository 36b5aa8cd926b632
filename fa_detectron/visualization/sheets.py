"""Sheets of small pictures: the images of a set with their boxes, and the first training batches."""

import logging
import os
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from PIL import Image
from torch.utils.data import DataLoader

from fa_detectron.data.images.pixels import ImageReader
from fa_detectron.data.records import AnnotatedSet, ImageRecord
from fa_detectron.files import atomic_write
from fa_detectron.visualization.samples import arrange, captioned

_logger = logging.getLogger(__name__)
_WIDTH, _HEIGHT = 320, 280  # pixels per picture of a set, at most
_LONG_SIDE = 320  # pixels per picture of a batch


def picture_sheet(
    data: AnnotatedSet, reader: ImageReader, unreadable: set[str] | frozenset[str] = frozenset(), count: int = 12
) -> Image.Image:
    """Draw evenly spread images of a checked set with their boxes, preferring images that have some.

    Args:
        data: boxes as :func:`fa_detectron.data.checks.boxes.clean_boxes` leaves them.
        reader: reads the images as a detector sees them.
        unreadable: files to leave out.
        count: pictures, at most.

    Returns:
        An RGB picture; an empty one if no image can be shown.
    """
    readable = [image for image in data.images if image.file_name not in unreadable]
    images = [image for image in readable if image.annotations] or readable
    chosen = [images[i * len(images) // count] for i in range(count)] if len(images) > count else images
    return arrange([_record_picture(image, data.classes, reader) for image in chosen])


def _record_picture(record: ImageRecord, class_names: Sequence[str], reader: ImageReader) -> Image.Image:
    image = Image.fromarray(reader.read(record.file_name))
    boxes = np.array([a.box for a in record.annotations], dtype=float).reshape(-1, 4)  # (B, 4) xyxy pixels
    classes = [class_names.index(a.label) for a in record.annotations]
    labels = [f"{a.label} (crowd)" if a.iscrowd else a.label for a in record.annotations]
    scale = min(_WIDTH / image.width, _HEIGHT / image.height)
    return captioned(image, boxes, classes, labels, _shortened(str(record.image_id), 40), scale)


def save_train_batches(cfg: CfgNode, loader: DataLoader) -> None:
    """Draw the first INPUT.SAMPLE_PICTURES training samples, augmented, into OUTPUT_DIR/train_batches.jpg.

    A sample follows from the seed and its number, so these are the ones that the loader will give.

    Args:
        cfg: the run's config.
        loader: of :func:`fa_detectron.data.training.stream.build_train_loader`.
    """
    count, path = cfg.INPUT.SAMPLE_PICTURES, os.path.join(cfg.OUTPUT_DIR, "train_batches.jpg")
    if count <= 0:
        return
    names = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).get("thing_classes", ())
    numbers = (number for batch in loader.batch_sampler for number in batch)
    pictures = [_sample_picture(loader.dataset[number], names, cfg.INPUT.FORMAT) for number in islice(numbers, count)]
    with atomic_write(path, "wb") as file:
        arrange(pictures).save(file, format="JPEG", quality=90)
    _logger.info("the first %d training images, augmented, with their boxes: %s", len(pictures), path)


def _sample_picture(sample: dict[str, Any], class_names: Sequence[str], colour: str) -> Image.Image:
    pixels = sample["image"].permute(1, 2, 0).numpy()
    image = Image.fromarray(pixels if colour == "RGB" else pixels[:, :, ::-1])
    instances = sample["instances"]
    classes = instances.gt_classes.tolist()
    labels = [class_names[c] if c < len(class_names) else str(c) for c in classes]
    title = f"{_shortened(Path(str(sample['file_name'])).name, 24)}  {image.width} x {image.height}"
    boxes = instances.gt_boxes.tensor.numpy().astype(float)
    return captioned(image, boxes, classes, labels, title, _LONG_SIDE / max(image.size))


def _shortened(title: str, length: int) -> str:
    return title if len(title) < length else f"...{title[4 - length :]}"
