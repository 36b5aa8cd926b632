"""The first training batches as the detector sees them: augmented, with their boxes."""

import logging
import os
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from PIL import Image
from torch.utils.data import DataLoader

from fa_detectron.files import atomic_write

from .samples import captioned
from .sheet import arrange

_logger = logging.getLogger(__name__)
_LONG_SIDE = 320  # pixels of a picture


def save_train_batches(cfg: CfgNode, loader: DataLoader) -> None:
    """Draw the first INPUT.SAMPLE_PICTURES training samples into OUTPUT_DIR/train_batches.jpg, batch after batch.

    A sample follows from the seed and its number, so these are those that the loader will give.

    Args:
        cfg: of the run.
        loader: of :func:`fa_detectron.data.training.stream.build_train_loader`.
    """
    count, path = cfg.INPUT.SAMPLE_PICTURES, os.path.join(cfg.OUTPUT_DIR, "train_batches.jpg")
    if count <= 0:
        return
    names = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).get("thing_classes", ())
    numbers = (number for batch in loader.batch_sampler for number in batch)
    pictures = [_picture(loader.dataset[number], names, cfg.INPUT.FORMAT) for number in islice(numbers, count)]
    with atomic_write(path, "wb") as file:
        arrange(pictures).save(file, format="JPEG", quality=90)
    _logger.info("the first %d training images, augmented, with their boxes: %s", len(pictures), path)


def _picture(sample: dict[str, Any], class_names: Sequence[str], colour: str) -> Image.Image:
    pixels = sample["image"].permute(1, 2, 0).numpy()
    image = Image.fromarray(pixels if colour == "RGB" else pixels[:, :, ::-1])
    instances = sample["instances"]
    classes = instances.gt_classes.tolist()
    labels = [class_names[c] if c < len(class_names) else str(c) for c in classes]
    title = Path(str(sample["file_name"])).name
    title = f"{title if len(title) < 24 else '...' + title[-20:]}  {image.width} x {image.height}"
    boxes = instances.gt_boxes.tensor.numpy().astype(float)
    return captioned(image, boxes, classes, labels, title, _LONG_SIDE / max(image.size))
