"""Checks of an annotated set, before training starts rather than hours into it."""

import math
import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

from fa_detectron.data.findings import NOTE, Findings
from fa_detectron.data.images.file import check_decodes, read_header
from fa_detectron.data.images.pixels import ImageReader
from fa_detectron.data.records import AnnotatedSet, ImageRecord
from fa_detectron.data.values import look
from fa_detectron.errors import UserError

# Rounding makes boxes stick out by up to a pixel in many sets: these are clipped. More is a mistake.
OVERSHOOT = 1.0
MOST_PIXELS = 1_000_000  # of a side of an image, so that all that is computed from it stays a number
TINY = 1.0  # pixels of a side, up to which a box is reported
HEADERS = 5000  # images whose header is read, tenths of a millisecond each
DECODED = 1000  # images that are read whole, milliseconds each
_AS_STORED = "as it is stored"
_READ_AS_STORED = (
    "read images as they are stored: INPUT.EXIF_ORIENTATION False, at the end of the command line (of check_data: "
    "after --opts) or in the config."
)


BAD_BOXES = ("stop", "clip", "skip")  # what --bad-boxes may be
# The words of box_problem that tell what kind of defect a box has.
_KINDS = ("empty", "inverted", "not finite", "leaves the image", "outside the image", "not four numbers", "too large")


def box_problem(box: Any, width: int, height: int) -> str | None:
    """What is wrong with a box (x1, y1, x2, y2) in an image of that size, in words; None for a good one."""
    if not isinstance(box, (tuple, list)) or len(box) != 4:
        return f"the box is not four numbers: {box!r:.80}"
    if not all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in box):
        return f"the box is not four numbers: {box!r:.80}"
    try:
        x1, y1, x2, y2 = (float(v) for v in box)
    except OverflowError:
        return "the box holds a number too large to be a pixel"
    shown = f"[x1 {x1:g}, y1 {y1:g}, x2 {x2:g}, y2 {y2:g}]"
    if not all(math.isfinite(v) for v in (x1, y1, x2, y2)):
        return f"the box {shown} is not finite"
    if x2 < x1 or y2 < y1:
        return f"the box {shown} is inverted (negative width or height)"
    if x2 == x1 or y2 == y1:
        return f"the box {shown} is empty (zero width or height)"
    if x1 < -OVERSHOOT or y1 < -OVERSHOOT or x2 > width + OVERSHOOT or y2 > height + OVERSHOOT:
        return f"the box {shown} leaves the image of {width}x{height} pixels"
    if min(x2, width) <= max(x1, 0) or min(y2, height) <= max(y1, 0):
        return f"the box {shown} lies outside the image of {width}x{height} pixels"
    return None


def clean_boxes(data: AnnotatedSet, bad_boxes: str, findings: Findings) -> None:
    """Check every box of a set (in place) and report what is wrong.

    Boxes that stick out of their image by a pixel or less are always clipped. Afterwards every annotation's box is a
    tuple of four floats within its image, of positive width and height.

    Args:
        bad_boxes: "stop" refuses bad boxes; "clip" clips those that leave their image and leaves out those that cannot
            be clipped (empty, inverted, wholly outside, not numbers); "skip" leaves out all bad ones.
    """
    left_out, tiny, cut = [], [], []
    rounded, fitting = 0, 0
    for image in data.images:
        kept = []
        for annotation in image.annotations:
            problem = box_problem(annotation.box, image.width, image.height)
            fitting += bool(problem) and _fits_as_stored(annotation.box, image)
            if problem and bad_boxes == "clip" and "leaves the image" in problem and _overlaps(annotation.box, image):
                cut.append(f"{image.where(annotation)}: {problem}")
            elif problem:
                left_out.append(f"{image.where(annotation)}: {problem}")
                continue
            x1, y1, x2, y2 = (float(v) for v in annotation.box)
            box = (max(x1, 0.0), max(y1, 0.0), min(x2, float(image.width)), min(y2, float(image.height)))
            if problem:
                annotation.area = 0.0  # that of the whole object does not hold
            elif box != (x1, y1, x2, y2):
                rounded += 1
            if box[2] - box[0] <= TINY or box[3] - box[1] <= TINY:
                tiny.append(f"{image.where(annotation)}: {box[2] - box[0]:g}x{box[3] - box[1]:g} pixels")
            annotation.box = box
            kept.append(annotation)
        image.annotations = kept
    kinds = Counter(kind for text in left_out for kind in _KINDS if kind in text.rpartition("): ")[2])
    of_kind = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    hint = ""
    if fitting:
        turned = f"{fitting} of them fit the image before the turn that its EXIF orientation asks for."
        hint = f"{turned} If the boxes are those of the stored pixels, {_READ_AS_STORED}"
    if bad_boxes == "stop":
        remedy = (
            "Repair them, clip them with --bad-boxes clip or leave them out with --bad-boxes skip (DATASETS.BAD_BOXES)."
        )
        remedy = f"{hint}\n{remedy}" if hint else remedy
        findings.refuse(data.path, f"bad boxes ({of_kind})", left_out, remedy)
    findings.problem(data.path, f"bad boxes left out ({of_kind})", left_out if bad_boxes != "stop" else (), hint)
    findings.problem(data.path, "boxes clipped that leave their image", cut, hint)
    findings.problem(data.path, "boxes with a side of a pixel or less", tiny)
    if rounded:
        findings.say(NOTE, data.path, f"{rounded} boxes stick out of their image by a pixel or less (they are clipped)")


def _fits_as_stored(box: Any, image: ImageRecord) -> bool:
    """Whether a box that is bad in an upright image is a good one of the image as it is stored."""
    if image.width == image.height or box_problem(box, image.height, image.width):
        return False
    try:
        header = read_header(image.file_name)
    except UserError:
        return False
    return header.orientation >= 5 and header.stored == (image.height, image.width)


def _overlaps(box: tuple[float, float, float, float], image: ImageRecord) -> bool:
    x1, y1, x2, y2 = box
    return min(x2, image.width) > max(x1, 0) and min(y2, image.height) > max(y1, 0)


def check_classes(data: AnnotatedSet, class_names: Sequence[str], findings: Findings) -> None:
    """Refuse a set with boxes of classes that the model does not have.

    Raises:
        UserError: names these classes, with their counts of boxes.
    """
    known, unknown = set(class_names), {}
    looks = {look(name): name for name in class_names}
    for image in data.images:
        for annotation in image.annotations:
            if annotation.label not in known:
                unknown.setdefault(annotation.label, []).append(image.where(annotation))
    items = [
        f"{label!r}: {len(where)} boxes, first: {where[0]}"
        + (f" (did you mean {looks[look(label)]!r}?)" if look(label) in looks else "")
        for label, where in sorted(unknown.items())
    ]
    findings.refuse(
        data.path,
        f"classes that are not among the {len(class_names)} classes of the training set "
        f"({', '.join(class_names[:20])}{', ...' if len(class_names) > 20 else ''})",
        items,
        "Rename them, or add them to the training set (DATASETS.CLASS_NAMES, where it is set by hand).",
    )


def check_images_exist(path: str, file_names: Sequence[str], findings: Findings) -> None:
    """Refuse the images of the set ``path`` which do not exist."""
    missing = [name for name in file_names if not os.path.isfile(name)]
    findings.refuse(path, "images that do not exist", missing, "Name the folder of the images with --images.")


def size_problem(file_name: str, width: int, height: int, reader: ImageReader) -> str | None:
    """Compare an image's size, from its header, with the annotated one; in words, None where they agree.

    Raises:
        UserError: the image cannot be read.
    """
    header = read_header(file_name)
    found, annotated = header.size(reader.upright), f"annotated as {width}x{height}"
    if found == (width, height):
        return None
    if reader.upright and header.stored == (width, height):
        return f"{file_name}: {annotated}, {_AS_STORED}; its EXIF orientation {header.orientation} turns it"
    return f"{file_name}: is {found[0]}x{found[1]}, {annotated}"


def spread(count: int, limit: int) -> range:
    """At most ``limit`` of the indices below ``count``, evenly spread."""
    return range(0, count, max(1, math.ceil(count / limit)))


def check_image_files(
    path: str, images: Sequence[tuple[str, int, int]], reader: ImageReader, findings: Findings
) -> None:
    """Check that images can be read and have the size that their annotation says.

    Up to HEADERS headers are compared and up to DECODED images read whole; of larger sets evenly spread ones.

    Args:
        path: the set, for the message.
        images: (file, width, height) of each, as annotated.
        reader: says whether sizes are those after the EXIF orientation.

    Raises:
        UserError: names the unreadable and the differently sized images.
    """
    unreadable, differing = [], []
    decoded = set(spread(len(images), DECODED))
    for index in sorted(decoded.union(spread(len(images), HEADERS))):
        file_name, width, height = images[index]
        try:
            problem = size_problem(file_name, width, height, reader)
            if problem:
                differing.append(problem)
            elif index in decoded:
                check_decodes(file_name)
        except UserError as error:
            unreadable.append(str(error))
    report_images(path, unreadable, differing, findings)


def report_images(path: str, unreadable: Sequence[str], differing: Sequence[str], findings: Findings) -> None:
    """The complaints about images of a set; ``differing`` holds what :func:`size_problem` says."""
    findings.refuse(path, "images that cannot be read", unreadable)
    findings.refuse(
        path,
        "images annotated at their stored size, before the turn that their EXIF orientation asks for",
        [text for text in differing if _AS_STORED in text],
        f"If the boxes are those of the stored pixels, too, {_READ_AS_STORED}",
    )
    others = [text for text in differing if _AS_STORED not in text]
    findings.refuse(path, "images of another size than annotated (width x height)", others)


def all_crowd(record: dict[str, Any]) -> bool:
    """Whether an image (of Detectron2's dataset dicts) has boxes, and each is a crowd box.

    Without them it would be background that holds objects: no training uses it.
    """
    annotations = record.get("annotations", ())
    return bool(annotations) and all(annotation.get("iscrowd", 0) for annotation in annotations)


def class_counts(records: Sequence[dict[str, Any]], num_classes: int) -> list[tuple[int, int]]:
    """(boxes, images) of every class in Detectron2's dataset dicts; crowd boxes do not count.

    Raises:
        UserError: a class number lies outside 0 .. num_classes - 1.
    """
    boxes, images = [0] * num_classes, [0] * num_classes
    for record in records:
        labels = [a["category_id"] for a in record.get("annotations", []) if not a.get("iscrowd", 0)]
        for label in labels:
            if not 0 <= label < num_classes:
                raise UserError(
                    f"image {record.get('image_id')!r} ({record.get('file_name')}): a box has class number {label}, "
                    f"and there are {num_classes} classes, 0 to {num_classes - 1}"
                )
            boxes[label] += 1
        for label in set(labels):
            images[label] += 1
    return list(zip(boxes, images))


def nothing_to_learn(images: int) -> str:
    """What there is to say of a training set none of whose boxes counts."""
    return f"none of its {images} images has a box to learn from (crowd and difficult ones do not count)."
