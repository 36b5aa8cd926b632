"""The images of a set that was read: each exists, and is listed once."""

import os

from fa_detectron.data.findings import Findings
from fa_detectron.data.images.file import read_header
from fa_detectron.data.records import MOST_PIXELS, AnnotatedSet, Annotation, ImageRecord, ReadOptions
from fa_detectron.errors import UserError


def size_from_file(path: str, upright: bool, unreadable: list[str]) -> tuple[int, int] | None:
    """(width, height) of an image whose annotations do not have its size.

    Args:
        upright: the size after the EXIF orientation.
        unreadable: gets the message if the file cannot be read.

    Returns:
        (0, 0) if there is no such file, which :func:`check_image_list` reports; None if it cannot be read.
    """
    if not os.path.isfile(path):
        return 0, 0
    try:
        size = read_header(path).size(upright)
    except UserError as error:
        unreadable.append(str(error))
        return None
    if max(size) > MOST_PIXELS:
        unreadable.append(f"{path}: a side of more than {MOST_PIXELS} pixels")
        return None
    return size


def check_image_list(data: AnnotatedSet, options: ReadOptions, findings: Findings) -> None:
    """Report and drop images that do not exist; merge the boxes of images that are listed twice.

    Raises:
        UserError: images do not exist, and the findings are strict; or none of all exists.
    """
    missing = [image.file_name for image in data.images if not os.path.isfile(image.file_name)]
    if missing and options.skip_missing_images:
        if len(missing) == len(data.images):
            raise UserError(f"{data.path}: none of its {len(missing)} images exists, such as {missing[0]}")
        findings.problem(data.path, f"of {len(data.images)} images left out, since they do not exist", missing)
    else:
        findings.refuse(
            data.path,
            "images that do not exist",
            missing,
            "Name the folder of the images with --images, or leave these out with --skip-missing-images "
            "(DATASETS.SKIP_MISSING_IMAGES).",
        )
    gone = set(missing)
    images: dict[str, ImageRecord] = {}
    repeated = []
    for image in data.images:
        if image.file_name in gone:
            continue
        first = images.setdefault(image.file_name, image)
        if first is not image:
            repeated.append(f"{image.file_name}: image {first.image_id!r} and {image.image_id!r}")
            known = {_content(annotation) for annotation in first.annotations}
            first.annotations += [item for item in image.annotations if _content(item) not in known]
    data.images = list(images.values())
    findings.problem(data.path, "images listed twice: their boxes are merged", repeated)


def _content(annotation: Annotation) -> tuple[str, str, int]:
    return annotation.label, repr(annotation.box), annotation.iscrowd
