"""Read a CSV file of boxes: a header with the columns in any order, and one row per box with its corners in pixels.

Corners that are all between 0 and 1, or hardly beyond, are fractions of the image's sides. If a row has more than two
points (x1, y1 to x4, y4), the box around them counts. A row with only an image is an image without a box. A column
called split, set or subset has the names of the splits.
"""

from collections.abc import Callable, Sequence
from typing import Any

from fa_detectron.data.checks.boxes import like_fractions
from fa_detectron.data.findings import Findings
from fa_detectron.data.readers.builder import SetBuilder
from fa_detectron.data.readers.csv_columns import (
    CORNERS,
    crowd_columns,
    csv_splits,
    csv_table,
    find_columns,
    ignored_columns,
    points_of,
)
from fa_detectron.data.readers.shapes import Box, hull, numbers
from fa_detectron.data.records import AnnotatedSet, ImageRecord, ReadOptions
from fa_detectron.data.sources.source import NoSuchSplit, Source
from fa_detectron.data.sources.splits import is_name_of


def read_csv(source: Source, options: ReadOptions, findings: Findings) -> AnnotatedSet:
    """Read a CSV file of boxes, or the rows of one split; its classes are in alphabetical order."""
    builder = SetBuilder(source, options, findings)
    header, rows = csv_table(source.path)
    columns = {column: header.index(field) for column, field in find_columns(header).items()}
    box_of = _box_reader(header, columns)
    in_split = _split_reader(source, columns, csv_splits(header, rows), builder)
    crowd = crowd_columns(header)
    images: dict[str, ImageRecord | None] = {}
    for line, row in rows:
        if not any(row):
            continue
        row += [""] * (len(header) - len(row))
        where = f"line {line}"
        if len(row) > len(header):
            builder.refuse(f"rows with more fields than the header ({len(header)})", f"{where}: {len(row)} fields")
            continue
        if not in_split(row, where):
            continue
        name = row[columns["filename"]]
        if name not in images:
            width, height = (row[columns[side]] if side in columns else None for side in ("width", "height"))
            images[name] = builder.image(name, where, (width, height))
        image, (given, box) = images[name], box_of(row)
        if image and (given or row[columns["class"]]):
            marks = [builder.mark(row[position], header[position], where) for position in crowd]
            builder.box(image, row[columns["class"]], box, line, crowd=any(marks))
    _say_ignored(builder, header, source)
    data = builder.finish()
    _scale_fractions(data, builder, findings)
    return data


def _box_reader(header: list[str], columns: dict[str, int]) -> Callable[[list[str]], tuple[bool, Box | None]]:
    """A function from a row to (whether it has coordinates, their box or None if they cannot be used)."""
    points = points_of(header)

    def around(row: list[str]) -> tuple[bool, Box | None]:
        given = [(row[x], row[y]) for x, y in points if row[x] or row[y]]  # AutoML leaves two of four corners empty
        return bool(given), hull(given) if len(given) > 1 else None

    def corners(row: list[str]) -> tuple[bool, Box | None]:
        texts = [row[columns[column]] for column in CORNERS]
        values = numbers(texts)
        return any(texts), (values[0], values[1], values[2], values[3]) if values else None

    return around if points else corners


def _split_reader(
    source: Source, columns: dict[str, int], known: list[str], builder: SetBuilder
) -> Callable[[list[str], str], bool]:
    """A function that tells whether a row (and where it is, for messages) belongs to the source's split."""
    if not source.split:
        return lambda row, where: True
    if not any(is_name_of(name, source.split) for name in known):
        names = ", ".join(known) or "none"
        raise NoSuchSplit(f"{source.path}: has no split {source.split!r}; it has {names} (FILE.csv:SPLIT)")

    def belongs(row: list[str], where: str) -> bool:
        name = row[columns["split"]]
        if not name:
            builder.problem("rows that name no split, left out", where)
        return is_name_of(name, source.split)

    return belongs


def _say_ignored(builder: SetBuilder, header: Sequence[str], source: Source) -> None:
    scores, others = ignored_columns(header)
    if not source.split and "split" in (columns := find_columns(header)):
        others.append(columns["split"])
    if scores:
        builder.say(f"scores are not used, each box counts as ground truth: column {', '.join(map(repr, scores))}")
    if others:
        builder.say(f"columns that are not read: {', '.join(map(repr, others))}")


def _scale_fractions(data: AnnotatedSet, builder: SetBuilder, findings: Findings) -> None:
    """Convert fractions of the image's size to pixels; no set has all its boxes within one pixel."""
    annotations: list[tuple[ImageRecord, Any]] = [(image, a) for image in data.images for a in image.annotations]
    small = [(image, annotation) for image, annotation in annotations if like_fractions(annotation.box)]
    if annotations and len(small) == len(annotations):
        for image, annotation in annotations:
            x1, y1, x2, y2 = annotation.box
            annotation.box = (x1 * image.width, y1 * image.height, x2 * image.width, y2 * image.height)
        builder.say(
            "all corners lie between 0 and 1 or close to it: taken as fractions of the image's width and height"
        )
    elif 2 * len(small) > len(annotations):
        findings.refuse(
            data.path,
            "boxes in pixels, in a set whose other corners look like fractions of the image's size (0 to 1)",
            [image.where(annotation) for image, annotation in annotations if not like_fractions(annotation.box)],
        )
