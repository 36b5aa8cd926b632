"""Read CVAT's XML (version 1.1), "for images" and "for video"; coordinates in pixels.

Boxes (also rotated ones), polygons, ellipses and masks count with the box around them; points, polylines, cuboids and
skeletons are left out, tags are ignored. A video counts with the frames that exist as images. A track has a box in each
frame that it lists, unless it is ``outside`` there. Between two listed frames its box is interpolated linearly; if the
second one is ``outside``, and after the last one, the box stays unchanged.
"""

import os
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import Any
from xml.etree.ElementTree import Element

from fa_detectron.data.findings import Findings
from fa_detectron.data.readers.builder import SetBuilder
from fa_detectron.data.readers.files import parse_xml
from fa_detectron.data.readers.shapes import Box, ellipse, hull, rectangle, rotated
from fa_detectron.data.records import AnnotatedSet, ImageRecord, ReadOptions
from fa_detectron.data.sources.source import NoSuchSplit, Source, is_file_name, is_inside
from fa_detectron.data.sources.splits import split_names
from fa_detectron.data.values import flag, number
from fa_detectron.errors import UserError

_NO_AREA = ("points", "polyline", "cuboid", "skeleton")
_AREAS = ("box", "polygon", "ellipse", "mask")
_OTHER_TYPES = ("points", "polyline", "cuboid", "skeleton", "tag")  # of labels, whose classes have no box


def read_cvat(source: Source, options: ReadOptions, findings: Findings) -> AnnotatedSet:
    """Read a CVAT XML file, or one subset of a project's; its classes are the labels in the file's order.

    Raises:
        NoSuchSplit: no image is in the subset.
        UserError: also if the frames of a video do not exist as images.
    """
    root = parse_xml(source.path)
    if root.tag != "annotations":
        raise UserError(f"{source.path}: the outermost element must be <annotations>, is <{root.tag}>")
    builder = SetBuilder(source, options, findings, _folders(root))
    if root.find("track") is not None:
        _read_video(builder, root)
    else:
        _read_images(builder, _of_subset(source, root.findall("image")))
    labels = [label for label in root.iterfind("meta//label") if label.findtext("type") not in _OTHER_TYPES]
    return builder.finish(label.findtext("name") for label in labels if label.find("parent") is None)


def _folders(root: Element) -> list[str]:
    subsets = dict.fromkeys(image.get("subset", "") for image in root.iterfind("image"))
    return ["images", "", *(os.path.join("images", name) for name in subsets if is_inside(name) and is_file_name(name))]


def _of_subset(source: Source, images: list[Element]) -> list[Element]:
    subsets = sorted({image.get("subset", "default") for image in images})
    if not source.split or subsets == ["default"]:
        return images
    wanted = [name.casefold() for name in split_names(source.split)]
    found = [image for image in images if image.get("subset", "default").casefold() in wanted]
    if images and not found:
        raise NoSuchSplit(
            f"{source.path}: has no subset {source.split!r}; it has {', '.join(subsets)} (FILE.xml:SUBSET)"
        )
    return found


def _read_images(builder: SetBuilder, elements: list[Element]) -> None:
    for number_, element in enumerate(elements):
        name, subset = element.get("name"), element.get("subset", "")
        root = os.path.join(builder.root, "images", subset)
        beside = [os.path.join(root, name)] if name and subset else []  # each subset has its own img0.jpg
        image = builder.image(name, f"image {number_}", (element.get("width"), element.get("height")), beside=beside)
        for index, shape in enumerate(element if image else ()):
            if shape.tag in _AREAS:
                builder.box(image, shape.get("label"), _box(shape), index)
            elif shape.tag in _NO_AREA:
                builder.leave_out(shape.tag)


def _box(shape: Element) -> Box | None:
    values = {key: number(shape.get(key)) for key in shape.keys()}
    turn = values.get("rotation", 0.0)
    if shape.tag == "box":
        box = hull([(values.get("xtl"), values.get("ytl")), (values.get("xbr"), values.get("ybr"))])
        return (box and turn is not None and rotated(box, turn)) or None
    if shape.tag == "ellipse":
        x, y, width, height = (values.get(key) for key in ("cx", "cy", "rx", "ry"))
        return None if turn is None else ellipse(x, y, width, height, turn)
    if shape.tag == "mask":
        return rectangle(*(values.get(key) for key in ("left", "top", "width", "height")))
    return hull([tuple(point.split(",")) for point in (shape.get("points") or "").split(";")])


def _read_video(builder: SetBuilder, root: Element) -> None:
    size = (root.findtext("meta//original_size/width"), root.findtext("meta//original_size/height"))
    images = _frames(builder, size)
    if not images:
        raise UserError(
            f"{builder.path}: annotates a video, and there is no image of its frames below {builder.root}. Export with "
            "'Save images', or extract them: ffmpeg -i VIDEO -start_number 0 images/frame_%06d.png"
        )
    for number_, track in enumerate(root.iterfind("track")):
        shapes: dict[int, Element] = {}
        for shape in track:
            frame = number(shape.get("frame"))
            if shape.tag in _NO_AREA:
                builder.leave_out(f"{shape.tag} of tracks")
            elif shape.tag in _AREAS and (frame is None or not frame.is_integer()):
                builder.refuse("shapes of tracks without the number of a frame", f"track {number_}")
            elif shape.tag in _AREAS:
                builder.mark(shape.get("outside"), "outside", f"track {number_}, frame {int(frame)}")
                shapes[int(frame)] = shape
        for frame, box in _follow(shapes, images):
            if frame in images:
                builder.box(images[frame], track.get("label"), box, number_)
            else:
                builder.note(
                    "annotated frames without an image are not part of the set", f"track {number_}, frame {frame}"
                )


def _frames(builder: SetBuilder, size: tuple[Any, Any]) -> dict[int, ImageRecord]:
    """The images by the number in frame_000010.png; other names with a number count only if none is called frame_."""
    found = {path: re.search(r"(frame_)?(\d{1,9})\.\w+$", path) for path in builder.image_files()}
    usual = any(match and match[1] for match in found.values())
    images: dict[int, ImageRecord] = {}
    for path, match in found.items():
        if match and bool(match[1]) == usual and int(match[2]) not in images:
            image = builder.image(os.path.basename(path), path, size, beside=[path])
            if image:
                images[int(match[2])] = image
    return images


def _follow(shapes: dict[int, Element], images: Iterable[int]) -> Iterator[tuple[int, Box | None]]:
    """(frame, box) of a track in each frame that it lists, and in each image between them and after."""
    listed = sorted(shapes)
    for frame in sorted({*listed, *(image for image in images if listed and image > listed[0])}):
        place = bisect_right(listed, frame) - 1
        first = shapes[listed[place]]
        second = shapes[listed[place + 1]] if place + 1 < len(listed) else None
        if flag(first.get("outside")):
            continue
        box = _box(first)
        if box and frame != listed[place] and second is not None and not flag(second.get("outside")):
            share = (frame - listed[place]) / (listed[place + 1] - listed[place])
            end = _box(second)
            x1, y1, x2, y2 = (a + (b - a) * share for a, b in zip(box, end or box))
            box = end and (x1, y1, x2, y2)
        yield frame, box
