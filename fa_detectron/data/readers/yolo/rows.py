"""The rows of YOLO label files.

A row is a class (its number or name) and numbers, whose count determines what they are:

    4           box, cx cy w h in fractions of the image's width and height
    5           box and confidence
    6           triangle, or box, confidence and track id
    even, 8...  polygon x1 y1 x2 y2 ... (Ultralytics' segments and oriented boxes): the box around its points
    4 + k * d   with ``kpt_shape: [k, d]`` in data.yaml: box and keypoints, maybe a confidence; no polygons then

Rows of 6 numbers, and even ones that could be a box and keypoints without ``kpt_shape``, are ambiguous: the rows of the
whole set decide (``kpt_shape: [0, 2]`` says that there are no keypoints). DOTA's rows are recognised by their class:
x1 y1 ... x4 y4 class difficult, in pixels.
"""

import math
import re
from collections.abc import Collection
from typing import NamedTuple

_DIGITS = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?"
_NUMBER = re.compile(_DIGITS, re.ASCII | re.IGNORECASE)
_NUMBERS = re.compile(rf"{_DIGITS}(?:\s+{_DIGITS})*", re.ASCII | re.IGNORECASE)  # nearly every row
_NOT_FINITE = re.compile(r"[+-]?(nan|inf)", re.IGNORECASE)
_PIXELS = 2.0  # fractions of boxes that stick out of their image stay below it
_SLACK = 0.05  # by which a box may leave its image, and keypoints their box
_DOTA_HEADERS = ("imagesource:", "gsd:")
BOX, CONFIDENCE, TRACK, POLYGON, KEYPOINTS, DOTA, PIXELS = (
    "boxes",
    "boxes with a confidence (a model's predictions?)",
    "boxes with a confidence and a track id (a model's predictions?)",
    "polygons or oriented boxes (the box around their points counts)",
    "boxes with keypoints",
    "oriented boxes in pixels, as DOTA writes them (the box around their points counts)",
    "pixels",
)
QUAD = "convex quadrilaterals"  # what a polygon is besides
MAYBE_KEYPOINTS = "maybe keypoints"  # and what it could be instead
_Corners = tuple[float, float, float, float]


class Row(NamedTuple):
    line: int  # from 0
    label: int | str  # class number or name
    count: int  # type: ignore[assignment]  # of the numbers after the class
    kinds: frozenset[str]  # what it may be
    head: _Corners  # (x1, y1, x2, y2) of the first four numbers as cx cy w h
    hull: _Corners  # (x1, y1, x2, y2) around the numbers as points
    difficult: int
    text: str  # for messages; "" for boxes that need none

    def corners(self, kind: str, width: int, height: int) -> _Corners:
        """(x1, y1, x2, y2) in pixels."""
        if kind == DOTA:
            return self.hull
        x1, y1, x2, y2 = self.hull if kind == POLYGON else self.head
        return x1 * width, y1 * height, x2 * width, y2 * height


def parse_rows(
    text: str, keypoints: tuple[int, int] | None, names: Collection[str]
) -> tuple[list[Row], list[tuple[int, str, str]]]:
    """The rows of a label file, and (line from 0, row, what is wrong with it) of the invalid ones.

    Args:
        text: of the file, separated by spaces, tabs, commas or semicolons.
        keypoints: (number, dimensions) of ``kpt_shape``, or None.
        names: of the classes, to recognise one that looks like a number at the end of DOTA's rows.
    """
    rows, broken = [], []
    for line, content in enumerate(re.split(r"\r\n|\r|\n", text)):
        shown = content.strip()
        if shown and not shown.lower().startswith(_DOTA_HEADERS):
            row = _row(line, shown, keypoints, names)
            if isinstance(row, Row):
                rows.append(row)
            else:
                broken.append((line, shown[:80], row))
    return rows, broken


def _row(line: int, text: str, keypoints: tuple[int, int] | None, names: Collection[str]) -> Row | str:
    """A row, or what is wrong with it."""
    words = text.replace(";", " ").split()
    if "," in text:
        alone = len(words) == 1
        words = words[0].rstrip(",").split(",") if alone else [word.rstrip(",") for word in words if word != ","]
        if any("," in word for word in words):
            return "decimal commas, or commas between some of the numbers only"
    plain = bool(_NUMBERS.fullmatch(text))
    numeric = [plain or bool(_NUMBER.fullmatch(word)) for word in words]
    if len(words) >= 9 and all(numeric[:8]) and (not numeric[8] or _is_dota(words, names)):
        return _dota_row(line, text, words)
    start = numeric.index(True) if True in numeric else len(words)
    label: int | str = " ".join(words[:start])
    if not label:
        number, start = float(words[0]), 1
        if number < 0 or number != int(min(number, 1e9)):
            return f"the class {words[0]} is no whole number from 0"
        label = int(number)
    strange = [
        word for word, known in zip(words[start:], numeric[start:]) if not known and not _NOT_FINITE.fullmatch(word)
    ]
    if strange:
        return f"{strange[0]!r:.40} is not a number"
    values = [float(word) for word in words[start:]]
    if len(values) < 4:
        return f"{len(values)} numbers after the class"
    if not all(map(math.isfinite, values)):
        kinds = {BOX} if len(values) == 4 else "not finite"  # the check of the boxes names those
    else:
        kinds = _keypoint_kinds(values, *keypoints) if keypoints and keypoints[0] else _kinds(values)
    if isinstance(kinds, str):
        return kinds
    if keypoints and POLYGON in kinds:
        kinds = {POLYGON}
    head = _head(values)
    hull, shown = (head, "") if kinds == {BOX} else (_hull(values), text[:80])
    return Row(line, label, len(values), _shared(kinds), head, hull, 0, shown)


def _shared(kinds: set[str], known: dict[frozenset[str], frozenset[str]] = {}) -> frozenset[str]:  # noqa: B006
    """One set object for all equal rows: there may be millions."""
    return known.setdefault(frozenset(kinds), frozenset(kinds))


def _is_dota(words: list[str], names: Collection[str]) -> bool:
    """Whether a row of numbers only has its class name in the ninth place: 9 numbers and a class are not a row."""
    return len(words) == 10 and words[8] in names and words[9] in ("0", "1", "2")


def _dota_row(line: int, text: str, words: list[str]) -> Row | str:
    rest = words[8:]
    difficult = rest.pop() if len(rest) > 1 and _NUMBER.fullmatch(rest[-1]) else "0"
    if difficult not in ("0", "1", "2"):
        return f"the difficulty {difficult} is none of 0, 1 and 2"
    values = [float(word) for word in words[:8]]
    hull = _hull(values)
    return Row(line, " ".join(rest), 8, _shared({DOTA}), hull, hull, int(difficult != "0"), text[:80])


def _head(values: list[float]) -> _Corners:
    x, y, w, h = values[:4]
    return x - w / 2, y - h / 2, x + w / 2, y + h / 2


def _hull(values: list[float]) -> _Corners:
    xs, ys = values[0::2], values[1::2]
    return min(xs), min(ys), max(xs), max(ys)


def _keypoint_kinds(values: list[float], count: int, size: int) -> set[str] | str:
    n, wanted = len(values), 4 + count * size
    if n not in (4, wanted) and not (n in (5, wanted + 1) and 0 <= values[-1] <= 1):
        return f"{n} numbers after the class; kpt_shape [{count}, {size}] makes them {wanted}"
    if max(values[:4]) > _PIXELS:
        return {PIXELS}
    return {KEYPOINTS} if n >= wanted else {BOX if n == 4 else CONFIDENCE}


def _kinds(values: list[float]) -> set[str] | str:
    """What the numbers may be, or why they are invalid."""
    n = len(values)
    if n > 6 and n % 2:
        hint = "; boxes with keypoints need kpt_shape in data.yaml" if n % 3 == 1 else ""
        return f"{n} numbers after the class{hint}"
    if max(values if n > 6 else values[:4]) > _PIXELS:
        return {PIXELS}
    if n == 4:
        return {BOX}
    confident = 0 <= values[4] <= 1
    if n == 5:
        return {CONFIDENCE} if confident else f"the sixth column, {values[4]:g}, is not a confidence (0 to 1)"
    if n == 6:
        kinds = {POLYGON} if max(values) <= _PIXELS else set()
        if kinds and _could_be_keypoints(values):
            kinds.add(MAYBE_KEYPOINTS)
        if confident and values[5] >= 0 and values[5] == int(values[5]) and _is_box(values):
            kinds.add(TRACK)
        return kinds or "neither a triangle nor a box, a confidence (0 to 1) and a track id"
    kinds = {POLYGON, QUAD} if n == 8 and _is_convex(values) else {POLYGON}
    if _could_be_keypoints(values):
        kinds.add(MAYBE_KEYPOINTS)
    return kinds


def _could_be_keypoints(values: list[float]) -> bool:
    sizes = [size for size in (2, 3) if (len(values) - 4) % size == 0]
    return _is_box(values) and any(_keypoints_inside(values, size) for size in sizes)


def _is_box(values: list[float]) -> bool:
    x1, y1, x2, y2 = _head(values)
    return x1 < x2 and y1 < y2 and min(x1, y1) >= -_SLACK and max(x2, y2) <= 1 + _SLACK


def _keypoints_inside(values: list[float], size: int) -> bool:
    """Whether all numbers after a box could be its keypoints: in it, or 0 0 for invisible ones."""
    x1, y1, x2, y2 = _head(values)
    points = [values[i : i + size] for i in range(4, len(values), size)]
    return all(
        (x == y == 0 or (x1 - _SLACK <= x <= x2 + _SLACK and y1 - _SLACK <= y <= y2 + _SLACK))
        and all(v in (0, 1, 2) for v in visible)
        for x, y, *visible in points
    )


def _is_convex(values: list[float]) -> bool:
    points = list(zip(values[0::2], values[1::2]))
    turns = []
    for i in range(4):
        (ax, ay), (bx, by), (cx, cy) = points[i], points[(i + 1) % 4], points[(i + 2) % 4]
        turns.append((bx - ax) * (cy - by) - (by - ay) * (cx - bx))
    return min(turns) >= 0 or max(turns) <= 0
