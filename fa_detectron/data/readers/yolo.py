"""Read YOLO labels: a .txt an image, a line a box, ``class cx cy w h`` in fractions of the image's width and height.

A line of a class and three or more points (Ultralytics' segments) counts with the box around its points. An image
without a label file has no box. Sizes come from the images themselves, turned as their EXIF says.
"""

import os

from fa_detectron.data.checks import MOST_PIXELS, report_images, seen_size
from fa_detectron.data.findings import Findings
from fa_detectron.data.paths import LINKS, Source, links_outside
from fa_detectron.data.records import AnnotatedSet, Annotation, ImageRecord, ReadOptions
from fa_detectron.errors import UserError

from .yolo_layout import find_layout, label_file

_MOST_BYTES = 64 << 20  # of a label file


def read_yolo(source: Source, options: ReadOptions, findings: Findings) -> AnnotatedSet:
    """Read one split of a YOLO set; its classes are those of data.yaml, in the order of their numbers.

    ``options.images_root`` is the set's root instead of the one that data.yaml names. See
    :func:`fa_detectron.data.readers.read_annotated_set`.
    """
    root, names, files = find_layout(source, options.images_root, findings)
    path = str(source)
    labels = {name: label_file(name) for name in files}
    outside = links_outside(root, labels.values())
    findings.refuse(path, f"label files that a link takes out of {root}", sorted(outside), LINKS)
    labelled = sum(os.path.isfile(os.path.join(root, label)) for label in labels.values())
    if not labelled:
        raise UserError(
            f"{path}: none of its {len(files)} images has a label file; looked for "
            f"{os.path.join(root, labels[files[0]]) if files else 'them'} and so on"
        )
    images, broken, unreadable, unlisted = [], [], [], []
    for name in files:
        image_path, label_path = os.path.join(root, name), os.path.join(root, labels[name])
        try:
            width, height = seen_size(image_path)
        except UserError as error:
            unreadable.append(str(error))
            continue
        if max(width, height) > MOST_PIXELS:
            unreadable.append(f"{image_path}: a side of more than {MOST_PIXELS} pixels")
            continue
        record = ImageRecord(image_path, name, width, height, [], label_path)
        if labels[name] not in outside:
            for number, annotation in _annotations(label_path, width, height, broken):
                if names and number not in names:
                    unlisted.append(f"line {annotation.index + 1} of {label_path}: class {number}")
                else:
                    annotation.label = names.get(number, str(number))
                    record.annotations.append(annotation)
        images.append(record)
    report_images(path, unreadable, [], findings)
    findings.refuse(path, "label lines that are no class number and box (class cx cy w h)", broken)
    findings.refuse(path, f"boxes of a class that 'names' does not list (it lists {len(names)} classes)", unlisted)
    if not names:
        found = {annotation.label for image in images for annotation in image.annotations}
        return AnnotatedSet(path, tuple(sorted(found, key=int)), images)
    return AnnotatedSet(path, tuple(names.values()), images)


def _annotations(path: str, width: int, height: int, broken: list[str]) -> list[tuple[int, Annotation]]:
    """(class number, box) of each line; those of unusable lines are left out, and said in ``broken``."""
    if not os.path.isfile(path):
        return []
    try:
        with open(path, "rb") as stream:
            data = stream.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise ValueError(f"more than {_MOST_BYTES >> 20} MiB")
        lines = data.decode("utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        broken.append(f"{path}: {getattr(error, 'strerror', None) or error}")
        return []
    found = []
    for index, line in enumerate(lines):
        words = line.split()
        if not words:
            continue
        box = _corners(words[1:])
        if box is None or len(words[0]) > 9 or not words[0].isascii() or not words[0].isdigit():
            broken.append(f"line {index + 1} of {path}: {line.strip()[:80]!r}")
            continue
        x1, y1, x2, y2 = box
        found.append((int(words[0]), Annotation("", (x1 * width, y1 * height, x2 * width, y2 * height), index)))
    return found


def _corners(words: list[str]) -> tuple[float, float, float, float] | None:
    """(x1, y1, x2, y2) in fractions, from cx cy w h or from the x y of three or more points; None for neither."""
    try:
        values = [float(word) for word in words]
    except ValueError:
        return None
    if len(values) == 4:
        x, y, w, h = values
        return x - w / 2, y - h / 2, x + w / 2, y + h / 2
    if len(values) < 6 or len(values) % 2:
        return None
    xs, ys = values[0::2], values[1::2]
    return min(xs), min(ys), max(xs), max(ys)
