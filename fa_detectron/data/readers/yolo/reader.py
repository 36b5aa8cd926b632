"""Read YOLO labels: one .txt file per image, one row per box. ``rows`` describes the rows, ``layout`` the folders.

Sizes come from the images, after their EXIF orientation.
"""

import os
from collections import Counter
from itertools import chain

from fa_detectron.data.findings import NOTE, Findings
from fa_detectron.data.readers.files import read_text
from fa_detectron.data.readers.image_list import size_from_file
from fa_detectron.data.readers.yolo.images import Reach
from fa_detectron.data.readers.yolo.labels import strays
from fa_detectron.data.readers.yolo.layout import Layout, find_layout
from fa_detectron.data.readers.yolo.rows import (
    BOX,
    DOTA,
    MAYBE_KEYPOINTS,
    PIXELS,
    POLYGON,
    QUAD,
    TRACK,
    Row,
    parse_rows,
)
from fa_detectron.data.records import AnnotatedSet, Annotation, ImageRecord, ReadOptions
from fa_detectron.data.sources.source import LINKS, AnyCase, Source, is_below
from fa_detectron.data.values import class_name
from fa_detectron.errors import UserError

_ROWS = "label rows that are neither a class and box (class cx cy w h) nor a class and polygon (class x1 y1 x2 y2 ...)"
_UNCLEAR = "Say which with kpt_shape in data.yaml: [K, D] for K keypoints of D numbers, [0, 2] for polygons."
_TRACKS = " If they are a box, a confidence and a track id (a whole number), delete the last two numbers of each row."
_PIXEL_REMEDY = "YOLO has fractions: divide x and width by the image's width, y and height by its height."


def read_yolo(source: Source, options: ReadOptions, findings: Findings) -> AnnotatedSet:
    """Read one split of a YOLO set; its classes are those of data.yaml, in the order of their numbers.

    ``options.images_root`` is the set's root instead of the one in data.yaml, or the folder of its images alone.

    """
    layout, reach = find_layout(source, options, findings)
    path = str(source)
    labels = _label_files(path, layout, reach, findings)
    images = _images(path, layout, labels, options.upright, findings)
    reading = _Reading(path, layout, findings)
    for image in images:
        if os.path.isfile(labels[image.file_name]):
            reading.read(image)
    return AnnotatedSet(path, reading.finish(), images)


def _label_files(path: str, layout: Layout, reach: Reach, findings: Findings) -> dict[str, str]:
    """The label file of each image; the most likely path if there is none."""
    found, outside, any_case = {}, [], AnyCase()
    for image, places in layout.images.items():
        label = next(filter(os.path.isfile, chain(places, map(any_case.find, places))), "")
        if label and not reach(label):
            outside.append(label)
        elif label or not layout.only_labelled:
            found[image] = label or places[0]
    findings.refuse(path, f"label files that a link takes out of {' and '.join(layout.roots)}", outside, LINKS)
    without = [image for image, label in found.items() if not os.path.isfile(label)]
    if len(without) == len(found):
        first = next(iter(layout.images))
        xml = (place[: -len("txt")] + "xml" for place in layout.images[first])
        instead = next(filter(os.path.isfile, xml), "")
        hint = f"; there is {instead} instead, so name the folder of the XML files" if instead else ""
        raise UserError(
            f"{path}: none of its {len(layout.images)} images has a label file; looked for those of {first} in "
            f"{', '.join(layout.images[first])}{hint}"
        )
    findings.note(path, "images without a label file, taken as images without objects", without)
    if layout.only_labelled and len(found) < len(layout.images):
        rest = len(layout.images) - len(found)
        findings.say(
            NOTE, path, f"{rest} images of {layout.roots[0]} have no label file of this split and are left out"
        )
    findings.problem(path, "label files without an image (their boxes are left out)", strays(found))
    times = Counter(found.values())
    shared = [f"{label}: {times[label]} images" for label in times if times[label] > 1]
    findings.problem(path, "label files that several images share", shared)
    return found


def _images(path: str, layout: Layout, labels: dict[str, str], upright: bool, findings: Findings) -> list[ImageRecord]:
    images, unreadable = [], []
    for image, label in labels.items():
        size = size_from_file(image, upright, unreadable)
        if size:
            name = next((os.path.relpath(image, root) for root in layout.roots if is_below(image, root)), image)
            images.append(ImageRecord(image, name, *size, [], label))
    findings.refuse(path, "images that cannot be read", unreadable)
    return images


class _Reading:
    """The rows of a set: read file by file, interpreted together."""

    def __init__(self, path: str, layout: Layout, findings: Findings) -> None:
        self._path, self._names, self._keypoints, self._findings = path, layout.names, layout.keypoints, findings
        self._numbers = {name: number for number, name in layout.names.items()}
        self._rows: list[tuple[ImageRecord, list[Row]]] = []
        self._broken: list[str] = []
        self._kinds = Kinds()
        self._empty = 0

    def read(self, image: ImageRecord) -> None:
        try:
            rows, broken = parse_rows(read_text(image.source), self._keypoints, self._numbers)
        except UserError as error:
            self._broken.append(str(error))
            return
        self._broken += [f"line {line + 1} of {image.source}: {text!r}: {why}" for line, text, why in broken]
        self._empty += not rows and not broken  # nothing but blanks, maybe
        self._kinds.see(rows)
        self._rows.append((image, rows))

    def finish(self) -> tuple[str, ...]:
        """Add the boxes to the images, and report rows that are not boxes; returns the class names."""
        settled, counts = self._kinds.settle(), Counter()
        unclear, pixels, unlisted, found, tracks = [], [], [], {}, False
        for image, rows in self._rows:
            for row in rows:
                where = f"line {row.line + 1} of {image.source}"
                kind = kind_of(row, settled)
                label = self._label(row.label)
                if not kind:
                    tracks |= TRACK in row.kinds
                    unclear.append(f"{where}: {row.text!r}")
                elif kind == PIXELS:
                    pixels.append(f"{where}: {row.text!r}")
                elif label is None:
                    unlisted.append(f"{where}: class {row.label}")
                else:
                    counts[kind] += 1
                    found[label] = isinstance(row.label, int)
                    corners = row.corners(kind, image.width, image.height)
                    image.annotations.append(Annotation(label, corners, row.line, iscrowd=row.difficult))
        total = sum(len(rows) for _, rows in self._rows)
        refuse = self._findings.refuse
        refuse(self._path, _ROWS, self._broken)
        some = "all rows" if len(pixels) == total else f"the other {total - len(pixels)} rows do not"
        refuse(self._path, f"label rows whose numbers look like pixels ({some})", pixels, _PIXEL_REMEDY)
        refuse(self._path, "label rows that could be polygons, or boxes and more", unclear, _UNCLEAR + tracks * _TRACKS)
        if self._empty:
            self._findings.say(NOTE, self._path, f"{self._empty} label files are empty: their images have no object")
        what = f"boxes of a class that 'names' does not list (it lists {len(self._names)} classes)"
        refuse(self._path, what, unlisted)
        if set(counts) - {BOX}:
            kinds = ", ".join(f"{count} {kind}" for kind, count in counts.most_common())
            self._findings.say(NOTE, self._path, f"the label rows are {kinds}")
        return tuple(self._names.values()) or self._sorted(found)

    def _label(self, label: int | str) -> str | None:
        """The name of a row's class; None if it is not listed."""
        if isinstance(label, str):
            label = class_name(label)
            return label if label in self._numbers or not self._names else None
        return self._names.get(label) if self._names else str(label)

    def _sorted(self, found: dict[str, bool]) -> tuple[str, ...]:
        """The classes of a set without a list of names: all numbers (True), or all names."""
        numbers = [label for label, numbered in found.items() if numbered]
        if numbers and len(numbers) < len(found):
            words = sorted(found.keys() - set(numbers))
            raise UserError(
                f"{self._path}: some rows call their class by number ({', '.join(numbers[:5])}), some by name "
                f"({', '.join(words[:5])}), and no file lists the names. List them in classes.txt, one a line."
            )
        return tuple(sorted(found, key=int if numbers else None))


class Kinds:
    """What the rows of a set are, by the count of their numbers, once all rows are known."""

    def __init__(self) -> None:
        self._seen: dict[int, Counter[frozenset[str]]] = {}

    def see(self, rows: list[Row]) -> None:
        for row in rows:
            if not row.kinds & {PIXELS, DOTA}:
                self._seen.setdefault(row.count, Counter())[row.kinds] += 1

    def settle(self) -> dict[int, str]:
        """The kind by the count of numbers; "" for ambiguous rows."""
        settled = {count: _settle(seen) for count, seen in self._seen.items()}
        rows = {count: seen.total() for count, seen in self._seen.items()}
        unclear = [count for count, kind in settled.items() if not kind]
        polygons = sum(rows[count] for count, kind in settled.items() if kind == POLYGON)
        # Polygons have many counts, boxes with keypoints one.
        if unclear and (polygons >= sum(rows[count] for count in unclear) or sum(count > 6 for count in unclear) > 1):
            settled.update(dict.fromkeys(unclear, POLYGON))
        return settled


def _settle(seen: Counter[frozenset[str]]) -> str:
    """The kind of the rows of one count; "" if they are ambiguous."""
    total = seen.total()
    votes: Counter[str] = Counter()
    for kinds, times in seen.items():
        votes.update(dict.fromkeys(kinds, times))
    common = [kind for kind, times in votes.items() if times == total and kind not in (QUAD, MAYBE_KEYPOINTS)]
    if common == [POLYGON] and votes[QUAD] < total and 2 * votes[MAYBE_KEYPOINTS] > total:
        return ""
    if common:
        return common[0] if len(common) == 1 else ""
    return POLYGON if 2 * votes[POLYGON] > total else TRACK  # rows of the other kind are refused one by one


def kind_of(row: Row, settled: dict[int, str]) -> str:
    """The kind of a row among those of its set; "" if it is ambiguous or differs from the others."""
    special = row.kinds & {PIXELS, DOTA}
    if special:
        return next(iter(special))
    return settled[row.count] if settled[row.count] in row.kinds else ""
