"""Sample pictures: ground truth and detections of an image side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.structures import BoxMode, Instances
from PIL import Image, ImageDraw, ImageFont

from fa_detectron.data.images.pixels import ImageReader
from fa_detectron.files import atomic_write

from .drawing import class_colour, draw_boxes

_SHORT_SIDE = 420  # pixels per panel, so that labels stay readable on small images
_LONG_SIDE = 1000
_TITLE = 26
_GAP = 8
_COLUMNS = 4
_PAPER = (250, 250, 250)
_INK = (30, 30, 30)


def _name(class_names: Sequence[str], index: int) -> str:
    return class_names[index] if index < len(class_names) else str(index)


def boxes_picture(
    image: Image.Image, boxes: np.ndarray, classes: Sequence[int], labels: Sequence[str], scale: float = 0.0
) -> Image.Image:
    """Boxes (B, 4) xyxy in pixels of ``image``. scale 0.0: one that keeps labels readable; a label "": none."""
    scale = scale or readable_scale(image)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    resized = image.resize(size, Image.Resampling.LANCZOS) if size != image.size else image
    return draw_boxes(resized, boxes * scale, labels, [class_colour(c) for c in classes])


def readable_scale(image: Image.Image, long_side: int = _LONG_SIDE) -> float:
    """Enlarges an image so small that labels would cover it, and reduces a large one to ``long_side`` pixels."""
    return min(max(1.0, _SHORT_SIDE / min(image.size)), long_side / max(image.size))


def captioned(
    image: Image.Image, boxes: np.ndarray, classes: Sequence[int], labels: Sequence[str], title: str, scale: float = 0.0
) -> Image.Image:
    """:func:`boxes_picture` below a title."""
    drawn = boxes_picture(image, boxes, classes, labels, scale)
    panel = Image.new("RGB", (drawn.width, drawn.height + _TITLE), _PAPER)
    panel.paste(drawn, (0, _TITLE))
    ImageDraw.Draw(panel).text((4, 4), title, font=ImageFont.load_default(15), fill=_INK)
    return panel


def arrange(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures row by row in one, at most four per row; an empty one if there are none."""
    rows = [pictures[i : i + _COLUMNS] for i in range(0, len(pictures), _COLUMNS)]
    width = max((sum(p.width + _GAP for p in row) for row in rows), default=1 + _GAP) - _GAP
    height = (sum(max(p.height for p in row) + _GAP for row in rows) or 1 + _GAP) - _GAP
    sheet = Image.new("RGB", (width, height), _PAPER)
    top = 0
    for row in rows:
        left = 0
        for picture in row:
            sheet.paste(picture, (left, top))
            left += picture.width + _GAP
        top += max(p.height for p in row) + _GAP
    return sheet


def _truth(record: Mapping[str, Any], class_names: Sequence[str]) -> tuple[np.ndarray, list[int], list[str]]:
    items = [a for a in record["annotations"] if not a.get("iscrowd", 0)]
    boxes = [BoxMode.convert(list(a["bbox"]), a["bbox_mode"], BoxMode.XYXY_ABS) for a in items]
    classes = [a["category_id"] for a in items]
    return np.array(boxes, dtype=float).reshape(-1, 4), classes, [_name(class_names, c) for c in classes]


def detection_picture(
    record: Mapping[str, Any],
    instances: Instances,
    class_names: Sequence[str],
    score_threshold: float,
    reader: ImageReader,
) -> Image.Image:
    """Draw one image's detections, beside its ground truth if it has one.

    Args:
        record: Detectron2's dataset dict; without "annotations", only detections are drawn.
        instances: pred_boxes (D, 4) xyxy in the original image's pixels, scores (D,), pred_classes (D,).
        score_threshold: detections below it are not drawn.
        reader: reads the image as the model sees it.
    """
    image = Image.fromarray(reader.read(record["file_name"]))
    instances = instances.to("cpu")
    instances = instances[instances.scores >= score_threshold]
    classes = instances.pred_classes.tolist()
    labels = [f"{_name(class_names, c)} {s:.2f}" for c, s in zip(classes, instances.scores.tolist())]
    boxes = instances.pred_boxes.tensor.detach().numpy().astype(float)  # (D, 4)
    found = f"detections ({len(boxes)} with score {score_threshold:g} or more)"
    panels = [captioned(image, boxes, classes, labels, found)]
    if "annotations" in record:
        truth, truth_classes, truth_labels = _truth(record, class_names)
        panels.insert(0, captioned(image, truth, truth_classes, truth_labels, f"ground truth ({len(truth)})"))
    return arrange(panels)


def save_detection_samples(
    dataset_dicts: Sequence[Mapping[str, Any]],
    outputs: Sequence[Mapping[str, Any]],
    metadata: Any,
    out_dir: str,
    n: int,
    reader: ImageReader,
    score_threshold: float = 0.5,
) -> list[str]:
    """Save pictures of the first ``n`` images: ground truth left, detections right.

    Args:
        dataset_dicts: Detectron2's dataset dicts, with "file_name".
        outputs: the model's outputs for them, in the same order: {"instances": Instances}.
        metadata: of the data set; its thing_classes name the classes.
        out_dir: made where absent; pictures of the same name there are replaced.
        reader: reads the images as the model sees them.

    Returns:
        The paths of the PNG files written.
    """
    class_names = metadata.get("thing_classes", [])
    folder = Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for i, (record, output) in enumerate(list(zip(dataset_dicts, outputs, strict=True))[:n]):
        picture = detection_picture(record, output["instances"], class_names, score_threshold, reader)
        # Numbered, because images of several folders may share a name.
        path = folder / f"{i:03d}_{Path(record['file_name']).stem}.png"
        with atomic_write(str(path), "wb") as stream:
            picture.save(stream, format="PNG")
        paths.append(str(path))
    return paths
