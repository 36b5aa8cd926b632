"""What the columns of a CSV file of boxes may be called."""

import re
from collections.abc import Iterable

COLUMNS: dict[str, tuple[str, ...]] = {
    "filename": (
        "filename",
        "file",
        "image",
        "path",
        "filepath",
        "imagepath",
        "imagename",
        "imagefile",
        "img",
        "imageid",
    ),
    "class": ("class", "label", "classname", "labelname", "category", "categoryname", "name", "object"),
    "xmin": ("xmin", "x0", "x1", "left", "xtl", "minx", "bboxx1"),
    "ymin": ("ymin", "y0", "y1", "top", "ytl", "miny", "bboxy1"),
    "xmax": ("xmax", "x2", "x1", "right", "xbr", "maxx", "bboxx2"),
    "ymax": ("ymax", "y2", "y1", "bottom", "ybr", "maxy", "bboxy2"),
    "width": ("width", "imagewidth", "imgwidth"),
    "height": ("height", "imageheight", "imgheight"),
}
CORNERS = ("xmin", "ymin", "xmax", "ymax")


def find_columns(header: Iterable[str]) -> dict[str, str]:
    """Which field of a header is which column of COLUMNS; case, spaces and underscores do not matter."""
    plain = {re.sub(r"[\s_.-]", "", field.casefold()): field for field in header}
    found = {}
    for column, names in COLUMNS.items():
        name = next((name for name in names if name in plain), None)
        if name is not None:
            found[column] = plain.pop(name)  # x1 is xmax beside x0, and xmin beside x2
    return found


def file_column(header: Iterable[str]) -> str:
    return find_columns(header).get("filename", "")


def coordinates_missing(header: Iterable[str]) -> list[str]:
    """The columns of corners and class that a header has not."""
    found = find_columns(header)
    return [column for column in (*CORNERS, "class") if column not in found]
