"""The columns of a CSV file of boxes: their names, and the splits that they contain."""

import re
from collections.abc import Iterable, Sequence

from fa_detectron.data.readers.files import read_text
from fa_detectron.data.sources.outline import csv_rows
from fa_detectron.data.sources.splits import is_split

COLUMNS: dict[str, tuple[str, ...]] = {
    "filename": (
        *("filename", "file", "image", "path", "filepath"),
        *("imagepath", "imagename", "imagefile", "img", "imageid"),
    ),
    "class": ("class", "label", "classname", "labelname", "category", "categoryname", "name", "object"),
    "xmin": ("xmin", "x0", "x1", "left", "xtl", "minx", "bboxx1"),
    "ymin": ("ymin", "y0", "y1", "top", "ytl", "miny", "bboxy1"),
    "xmax": ("xmax", "x2", "x1", "right", "xbr", "maxx", "bboxx2"),
    "ymax": ("ymax", "y2", "y1", "bottom", "ybr", "maxy", "bboxy2"),
    "width": ("width", "imagewidth", "imgwidth"),
    "height": ("height", "imageheight", "imgheight"),
    "split": ("split", "set", "subset", "mluse"),
}
CORNERS = ("xmin", "ymin", "xmax", "ymax")
_CROWD = ("iscrowd", "crowd", "difficult", "isgroupof", "groupof", "ignore")
_SCORE = ("confidence", "score", "conf")
_NUMBERED = re.compile(r"(?:bbox)?([xy])(\d+)")
_NAMED = re.compile(r"([xy])(?:min|max)")


def _plain(field: str) -> str:
    return re.sub(r"[\s_.-]", "", field.casefold())


def find_columns(header: Iterable[str]) -> dict[str, str]:
    """The fields of a header by the columns of COLUMNS; case, spaces and underscores do not matter."""
    plain = {_plain(field): field for field in header}
    found = {}
    for column, names in COLUMNS.items():
        name = next((name for name in names if name in plain), None)
        if name is not None:
            found[column] = plain.pop(name)  # x1 is xmax beside x0, and xmin beside x2
    return found


def points_of(header: Sequence[str]) -> list[tuple[int, int]]:
    """The positions of the (x, y) columns if a box has more than two points; else [].

    They are x1, y1 to x4, y4; or, as in Google's AutoML, x_min, y_min, x_max and y_max, each of them twice.
    """
    for pattern in (_NUMBERED, _NAMED):
        sides = {"x": [], "y": []}
        for position, field in enumerate(header):
            if match := pattern.fullmatch(_plain(field)):
                sides[match[1]].append((match[2] if pattern is _NUMBERED else "", position))
        xs, ys = sorted(sides["x"]), sorted(sides["y"])
        if len(xs) > 2 and [number for number, _ in xs] == [number for number, _ in ys]:
            return [(x, y) for (_, x), (_, y) in zip(xs, ys)]
    return []


def crowd_columns(header: Sequence[str]) -> list[int]:
    """The positions of the columns that mark a box as one of a crowd."""
    return [position for position, field in enumerate(header) if _plain(field) in _CROWD]


def ignored_columns(header: Sequence[str]) -> tuple[list[str], list[str]]:
    """(columns of scores, others), both not read; columns without a name do not count."""
    known = {*find_columns(header).values(), *(header[i] for pair in points_of(header) for i in pair)}
    known.update(header[position] for position in crowd_columns(header))
    left = [field for field in dict.fromkeys(header) if field and field not in known]
    scores = [field for field in left if _plain(field) in _SCORE]
    return scores, [field for field in left if field not in scores]


def file_column(header: Iterable[str]) -> str:
    return find_columns(header).get("filename", "")


def coordinates_missing(header: Iterable[str]) -> list[str]:
    """The columns of corners and class that a header lacks."""
    found = find_columns(header)
    return [column for column in (*CORNERS, "class") if column not in found]


def csv_table(path: str) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header of a CSV file, which empty lines may precede, and (line number, fields) of each further row.

    Raises:
        UserError: the file cannot be read.
    """
    lines = read_text(path).splitlines()
    first = next((index for index, line in enumerate(lines) if line.strip()), 0)
    rows = csv_rows(path, lines[first:])
    return next(rows, []), list(enumerate(rows, first + 2))


def csv_splits(header: Sequence[str], rows: Iterable[tuple[int, list[str]]]) -> list[str]:
    """The splits that the rows of :func:`csv_table` name in a column, as they are written; [] if there are none.

    A column with the same value in all rows that is not the usual name of a split names no splits.
    """
    field = find_columns(header).get("split")
    if field is None:
        return []
    position = header.index(field)
    names = sorted({row[position] for _, row in rows if len(row) > position and row[position]})
    return names if len(names) > 1 or any(map(is_split, names)) else []
