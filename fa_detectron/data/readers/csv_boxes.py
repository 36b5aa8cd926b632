"""Read a CSV file of boxes: a header with the columns in any order, and a row a box with its corners in pixels.

Corners that all lie between 0 and 1 are fractions of the image. A row with an image alone is an image without a box.
"""

from fa_detectron.data.csv_columns import CORNERS, find_columns
from fa_detectron.data.findings import Findings
from fa_detectron.data.glance import csv_rows
from fa_detectron.data.paths import Source
from fa_detectron.data.records import AnnotatedSet, ImageRecord, ReadOptions
from fa_detectron.data.text_files import read_text

from .builder import SetBuilder
from .shapes import numbers


def read_csv(source: Source, options: ReadOptions, findings: Findings) -> AnnotatedSet:
    """Read a CSV file of boxes; its classes are in alphabetical order.

    See :func:`fa_detectron.data.readers.read_annotated_set`.
    """
    builder = SetBuilder(source, options, findings)
    rows = csv_rows(source.path, read_text(source.path).splitlines())
    header = next(rows)
    columns = {column: header.index(field) for column, field in find_columns(header).items()}
    images: dict[str, ImageRecord | None] = {}
    for index, row in enumerate(rows):
        if not any(row):
            continue
        row += [""] * (len(header) - len(row))
        where = f"line {index + 2}"
        if len(row) > len(header):
            builder.refuse(f"rows with more fields than the header ({len(header)})", f"{where}: {len(row)} fields")
            continue
        name = row[columns["filename"]]
        if name not in images:
            size = tuple(row[columns[side]] if side in columns else None for side in ("width", "height"))
            images[name] = builder.image(name, where, size)
        image, corners = images[name], [row[columns[column]] for column in CORNERS]
        if image and (any(corners) or row[columns["class"]]):
            builder.box(image, row[columns["class"]], tuple(values) if (values := numbers(corners)) else None, index)
    data = builder.finish()
    _scale_fractions(data, builder)
    return data


def _scale_fractions(data: AnnotatedSet, builder: SetBuilder) -> None:
    """Fractions of the image's size to pixels; a set whose boxes are all within one pixel does not exist."""
    annotations = [(image, annotation) for image in data.images for annotation in image.annotations]
    if annotations and all(0 <= value <= 1 for _, annotation in annotations for value in annotation.box):
        for image, annotation in annotations:
            x1, y1, x2, y2 = annotation.box
            annotation.box = (x1 * image.width, y1 * image.height, x2 * image.width, y2 * image.height)
        builder.say("all corners lie between 0 and 1: taken as fractions of the image's width and height")
