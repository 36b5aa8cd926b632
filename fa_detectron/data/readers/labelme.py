"""Read LabelMe JSON: one file per image, with its shapes in pixels.

Rectangles, polygons, circles and masks count with the box around them; shapes of one class that share a ``group_id``
are parts of one object. Points and lines are left out.
"""

import os
from collections.abc import Iterator
from typing import Any

from fa_detectron.data.findings import Findings
from fa_detectron.data.readers.builder import SetBuilder
from fa_detectron.data.readers.files import objects, read_json
from fa_detectron.data.readers.shapes import Box, ellipse, hull
from fa_detectron.data.records import AnnotatedSet, ImageRecord, ReadOptions
from fa_detectron.data.sources.source import Source, links_outside
from fa_detectron.data.sources.splits import IMAGE_SUFFIXES
from fa_detectron.data.values import class_name
from fa_detectron.errors import UserError

_AREAS = ("rectangle", "polygon", "rotation", "quadrilateral")  # the last two are X-AnyLabeling's
_NO_AREA = ("point", "points", "line", "linestrip")


def files_below(folder: str, suffix: str) -> Iterator[str]:
    """The files of a suffix in a folder and below, in the order of their paths, without links that lead out."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        names = sorted(name for name in names if name.lower().endswith(suffix) and not name.startswith("._"))
        paths = {os.path.relpath(os.path.join(place, name), folder): os.path.join(place, name) for name in names}
        outside = links_outside(folder, paths)
        yield from (path for relative, path in paths.items() if relative not in outside)


def read_labelme(source: Source, options: ReadOptions, findings: Findings) -> AnnotatedSet:
    """Read a folder of LabelMe JSON files, or one such file; its classes are in alphabetical order."""
    builder = SetBuilder(source, options, findings)
    seen = set()
    for path in files_below(source.path, ".json") if os.path.isdir(source.path) else [source.path]:
        try:
            content = read_json(path)
        except UserError as error:
            builder.refuse("files that cannot be read", str(error))
            continue
        if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
            builder.note("JSON files that are not LabelMe's (without 'shapes')", path)
            continue
        image = _image(builder, path, content)
        if image:
            seen.add(image.file_name)
            _shapes(builder, image, content["shapes"])
    note_unlisted(builder, source, seen)
    return builder.finish()


def note_unlisted(builder: SetBuilder, source: Source, seen: set[str]) -> None:
    """Note the images of a folder without an annotation file, which are not in ``seen``."""
    for path in builder.image_files() if os.path.isdir(source.path) else ():
        if path not in seen:
            builder.note(
                "images without an annotation file are not part of the set (save it without a shape to learn "
                "from them as background)",
                path,
            )


def _image(builder: SetBuilder, path: str, content: dict[str, Any]) -> ImageRecord | None:
    """The image of a file: imagePath relative to the file's folder, else an image beside it of the file's name."""
    name, (stem, _) = content.get("imagePath"), os.path.splitext(path)
    beside = [f"{stem}{suffix}" for small in sorted(IMAGE_SUFFIXES) for suffix in (small, small.upper())]
    if isinstance(name, str):
        folder, plain = os.path.dirname(path), name.replace("\\", "/")
        beside = [os.path.join(folder, plain), os.path.join(folder, os.path.basename(plain)), *beside]
    size = (content.get("imageWidth"), content.get("imageHeight"))
    return builder.image(
        name or os.path.basename(stem), path, size, file=path, beside=beside, embedded=bool(content.get("imageData"))
    )


def _shapes(builder: SetBuilder, image: ImageRecord, shapes: list[Any]) -> None:
    groups: dict[tuple[str, str], Any] = {}
    for index, shape in enumerate(objects(shapes)):
        kind = shape.get("shape_type") or "polygon"  # LabelMe 2 and 3 have polygons alone, and do not say so
        if kind in _NO_AREA:
            builder.leave_out(kind)
            continue
        where = f"shape {index} in {image.source}"
        box, crowd = _box(kind, shape.get("points")), builder.mark(shape.get("difficult"), "difficult", where)
        group = (repr(shape.get("group_id")), class_name(shape.get("label")))
        if box and shape.get("group_id") is not None and group in groups:
            first = groups[group]
            first.box = hull([first.box[:2], first.box[2:], box[:2], box[2:]])
            first.iscrowd = max(first.iscrowd, int(crowd))
            add, kind = (builder.problem, "rectangles") if kind == "rectangle" else (builder.note, "shapes")
            add(f"{kind} merged with another of their group_id and class into one box", where)
            continue
        builder.box(image, shape.get("label"), box, index, crowd)
        if box and image.annotations and image.annotations[-1].index == index:
            groups[group] = image.annotations[-1]


def _box(kind: str, points: Any) -> Box | None:
    if kind == "circle":
        if not isinstance(points, list) or len(points) != 2 or not hull(points):
            return None
        (x1, y1, x2, y2), ((cx, cy), _) = hull(points), points
        radius = ((x2 - x1) ** 2 + (y2 - y1) ** 2) ** 0.5
        return ellipse(cx, cy, radius, radius)
    box = hull(points) if kind in (*_AREAS, "mask") and len(points or ()) >= 2 else None
    # The corners of a mask are its first and last pixel.
    return (box[0], box[1], box[2] + 1, box[3] + 1) if box and kind == "mask" else box
