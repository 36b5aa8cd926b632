"""Pictures for the page: ground truth and detections of an image, and any picture as a data URI."""

import base64
import io
import os
from dataclasses import dataclass

from PIL import Image

from fa_detectron.visualization import boxes_picture, readable_scale

from .findings import Findings

_LONG_SIDE = 640  # pixels, half of the page's width on a fine screen


@dataclass(frozen=True)
class Picture:
    """A picture of the page: ``uri`` has all of it; width and height in pixels; ``text`` says what is on it."""

    uri: str
    width: int
    height: int
    text: str


@dataclass(frozen=True)
class ImageView:
    """An image of the set: its file's name, a sentence on it, and its pictures."""

    name: str
    note: str
    pictures: tuple[Picture, ...]


def as_picture(image: Image.Image, text: str) -> Picture:
    """Encode as JPEG inside a data URI."""
    stream = io.BytesIO()
    image.convert("RGB").save(stream, format="JPEG", quality=82, optimize=True)
    encoded = base64.b64encode(stream.getvalue()).decode("ascii")
    return Picture(f"data:image/jpeg;base64,{encoded}", image.width, image.height, text)


def sample_view(findings: Findings, index: int) -> ImageView:
    """Every box with its class, every detection from the threshold on with its score."""
    names = findings.class_names
    found = findings.instances[index]
    found = found[found.scores >= findings.threshold]
    classes = found.pred_classes.tolist()
    labels = [f"{names[c]} {s:.2f}" for c, s in zip(classes, found.scores.tolist())]
    image = Image.fromarray(findings.reader.read(findings.records[index]["file_name"]))
    right = boxes_picture(
        image, found.pred_boxes.tensor.numpy().astype(float), classes, labels, readable_scale(image, _LONG_SIDE)
    )
    pictures = [as_picture(right, f"detections ({len(classes)})")]
    if findings.has_truth:
        truth = findings.matched[index].truth
        boxes, classes = truth.boxes[~truth.crowd], truth.classes[~truth.crowd].tolist()
        left = boxes_picture(
            image, boxes.numpy().astype(float), classes, [names[c] for c in classes], readable_scale(image, _LONG_SIDE)
        )
        pictures.insert(0, as_picture(left, f"ground truth ({len(classes)})"))
    return ImageView(_name(findings, index), "", tuple(pictures))


def error_view(findings: Findings, index: int) -> ImageView:
    """All boxes and detections, of which only what went wrong has a label."""
    matched, result, names = findings.matched[index], findings.outcomes[index], findings.class_names
    truth = matched.truth
    classes, taken = truth.classes.tolist(), dict((box, detection) for detection, box in result.confused)
    boxes = (~truth.crowd).nonzero().squeeze(1).tolist()
    left_labels = []
    for box in boxes:
        if box in taken:
            left_labels.append(f"{names[classes[box]]}, taken for {names[int(matched.classes[taken[box]])]}")
        else:
            left_labels.append(f"missed: {names[classes[box]]}" if box in result.missed else "")
    confused = dict(result.confused)
    kept = (~matched.ignored & (matched.scores >= findings.threshold)).nonzero().squeeze(1).tolist()
    right_labels = []
    for detection in kept:
        label = f"{names[int(matched.classes[detection])]} {float(matched.scores[detection]):.2f}"
        if detection in confused:
            right_labels.append(f"{label}, is {names[classes[confused[detection]]]}")
        else:
            right_labels.append(f"false: {label}" if detection in result.false else "")
    image = Image.fromarray(findings.reader.read(findings.records[index]["file_name"]))
    pictures = []
    for title, corners, of, labels in (
        ("ground truth", truth.boxes[boxes], [classes[box] for box in boxes], left_labels),
        ("detections", matched.boxes[kept], matched.classes[kept].tolist(), right_labels),
    ):
        drawn = boxes_picture(image, corners.numpy().astype(float), of, labels, readable_scale(image, _LONG_SIDE))
        pictures.append(as_picture(drawn, f"{title} ({len(of)})"))
    counts = [
        (len(result.hits), "right"),
        (len(result.missed), "missed"),
        (len(result.false), "false"),
        (len(result.confused), "of another class"),
    ]
    words = ", ".join(f"{count} {word}" for count, word in counts if count or word == "right")
    return ImageView(_name(findings, index), f"F1 {result.f1:.2f}: {words}", tuple(pictures))


def _name(findings: Findings, index: int) -> str:
    return os.path.basename(findings.records[index]["file_name"])
