"""The first training batches as the detector sees them: augmented, with their boxes."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image
from torch.utils.data import DataLoader

from fa_detectron.files import atomic_write

from .samples import captioned
from .sheet import arrange

_LONG_SIDE = 320  # pixels of a picture


def save_train_batches(loader: DataLoader, count: int, path: str, class_names: Sequence[str], colour: str) -> None:
    """Draw the first ``count`` training samples into one JPEG, a batch a row, or several for small batches.

    A sample follows from the seed and its number, so these are those that the loader will give.

    Args:
        loader: of :func:`fa_detectron.data.stream.build_train_loader`.
        colour: order of the samples' channels, "RGB" or "BGR".
    """
    numbers = (number for batch in loader.batch_sampler for number in batch)
    pictures = [_picture(loader.dataset[number], class_names, colour) for number in islice(numbers, count)]
    size = loader.batch_sampler.size
    with atomic_write(path, "wb") as file:
        arrange(pictures, size if size >= 4 else 4 // size * size).save(file, format="JPEG", quality=90)


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
