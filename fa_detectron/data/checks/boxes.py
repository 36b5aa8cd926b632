"""Checks of the boxes of an annotated set."""

import math
from collections import Counter
from typing import Any, NamedTuple

from fa_detectron.data.findings import NOTE, Findings
from fa_detectron.data.images.file import read_header
from fa_detectron.data.records import AnnotatedSet, ImageRecord
from fa_detectron.errors import UserError

# In many sets, rounding makes boxes leave their image by up to a pixel: these are clipped. More is a mistake.
OVERSHOOT = 1.0
TINY = 1.0  # pixels; boxes with a side up to this are reported
BAD_BOXES = ("stop", "clip", "skip")  # the values of --bad-boxes
READ_AS_STORED = "read images as they are stored: INPUT.EXIF_ORIENTATION False, on the command line or in the config."
_LEAVES = "leaves the image"
_SMALLEST_SIDE = 4  # pixels of an image; in smaller ones, boxes of about a pixel are plausible


class BoxProblem(NamedTuple):
    kind: str
    text: str  # a sentence

    def __str__(self) -> str:
        return self.text


def box_problem(box: Any, width: int, height: int) -> BoxProblem | None:
    """What is wrong with a box (x1, y1, x2, y2) in pixels of an image of that size; None for a good one."""
    if not isinstance(box, (tuple, list)) or len(box) != 4:
        return BoxProblem("not four numbers", f"the box is not four numbers: {box!r:.80}")
    if not all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in box):
        return BoxProblem("not four numbers", f"the box is not four numbers: {box!r:.80}")
    try:
        x1, y1, x2, y2 = (float(v) for v in box)
    except OverflowError:
        return BoxProblem("too large", "the box holds a number too large to be a pixel")
    shown = f"[x1 {x1:g}, y1 {y1:g}, x2 {x2:g}, y2 {y2:g}]"
    if not all(math.isfinite(v) for v in (x1, y1, x2, y2)):
        return BoxProblem("not finite", f"the box {shown} is not finite")
    if x2 < x1 or y2 < y1:
        return BoxProblem("inverted", f"the box {shown} is inverted (negative width or height)")
    if x2 == x1 or y2 == y1:
        return BoxProblem("empty", f"the box {shown} is empty (zero width or height)")
    if x1 < -OVERSHOOT or y1 < -OVERSHOOT or x2 > width + OVERSHOOT or y2 > height + OVERSHOOT:
        return BoxProblem(_LEAVES, f"the box {shown} leaves the image of {width}x{height} pixels")
    if not _overlaps((x1, y1, x2, y2), width, height):
        return BoxProblem("outside the image", f"the box {shown} lies outside the image of {width}x{height} pixels")
    return None


def clean_boxes(data: AnnotatedSet, bad_boxes: str, findings: Findings) -> None:
    """Check every box of a set (in place) and report what is wrong.

    Boxes that leave their image by a pixel or less are always clipped. Afterwards every annotation's box is a tuple of
    four floats within its image, of positive width and height.

    Args:
        bad_boxes: "stop" refuses bad boxes; "clip" clips those that leave their image and drops those that cannot be
            clipped (empty, inverted, completely outside, not numbers); "skip" drops all bad ones.
    """
    left_out, tiny, cut = [], [], []
    kinds: Counter[str] = Counter()
    rounded, fitting = 0, 0
    for image in data.images:
        kept = []
        for annotation in image.annotations:
            problem = box_problem(annotation.box, image.width, image.height)
            fitting += bool(problem) and _fits_as_stored(annotation.box, image)
            clip = problem and bad_boxes == "clip" and problem.kind == _LEAVES
            if clip and _overlaps(annotation.box, image.width, image.height):
                cut.append(f"{image.where(annotation)}: {problem}")
            elif problem:
                kinds[problem.kind] += 1
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
    of_kind = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    hint = ""
    if fitting:
        turned = f"{fitting} of them fit the image before the rotation by its EXIF orientation."
        hint = f"{turned} If the boxes are those of the stored pixels, {READ_AS_STORED}"
    if bad_boxes == "stop":
        remedy = "Correct, clip (--bad-boxes clip) or drop them (--bad-boxes skip; DATASETS.BAD_BOXES)."
        findings.refuse(data.path, f"bad boxes ({of_kind})", left_out, f"{hint}\n{remedy}" if hint else remedy)
    findings.problem(data.path, f"bad boxes left out ({of_kind})", left_out if bad_boxes != "stop" else (), hint)
    findings.problem(data.path, "boxes clipped that leave their image", cut, hint)
    findings.problem(data.path, "boxes with a side of a pixel or less", tiny)
    if rounded:
        findings.say(NOTE, data.path, f"{rounded} boxes leave their image by a pixel or less (they are clipped)")


def _fits_as_stored(box: Any, image: ImageRecord) -> bool:
    """Whether a box that is bad in an upright image is a good one in the image as it is stored."""
    if image.width == image.height or box_problem(box, image.height, image.width):
        return False
    try:
        header = read_header(image.file_name)
    except UserError:
        return False
    return header.orientation >= 5 and header.stored == (image.height, image.width)


def _overlaps(box: tuple[float, float, float, float], width: int, height: int) -> bool:
    x1, y1, x2, y2 = box
    return min(x2, width) > max(x1, 0) and min(y2, height) > max(y1, 0)


def repeated_boxes(data: AnnotatedSet) -> list[str]:
    """Messages about boxes that an image has twice, with the same class."""
    found = []
    for image in data.images:
        seen = set()
        for annotation in image.annotations:
            key = (annotation.label, annotation.box, annotation.iscrowd)
            if key in seen:
                found.append(f"{image.where(annotation)}: {', '.join(f'{v:g}' for v in annotation.box)}")
            seen.add(key)
    return found


def like_fractions(box: Any) -> bool:
    """Whether a box (x1, y1, x2, y2) looks like fractions of its image's sides, possibly a little outside it.

    In pixels it would be hardly larger than one, in the upper left corner.
    """
    return isinstance(box, tuple) and all(isinstance(value, (int, float)) and -1 <= value <= 1.5 for value in box)


def refuse_fractions(data: AnnotatedSet, findings: Findings) -> None:
    """Refuse a set that was read in pixels if all of its boxes look like fractions."""
    boxes = [(image, annotation) for image in data.images for annotation in image.annotations]
    if not all(like_fractions(a.box) and min(image.width, image.height) >= _SMALLEST_SIDE for image, a in boxes):
        return
    if any(value % 1 for _, annotation in boxes for value in annotation.box):
        findings.refuse(
            data.path,
            "boxes (all boxes of the set) look like fractions of their image's sides, and are read in pixels",
            [image.where(annotation) for image, annotation in boxes],
            "Multiply the fractions by the image's width and height.",
        )


def nothing_to_learn(images: int) -> str:
    """The message about a training set without a box that counts."""
    return f"none of its {images} images has a box to learn from (crowd and difficult ones do not count)."
