"""Read a folder in Pascal VOC's layout: ImageSets/Main/SPLIT.txt, Annotations/ID.xml, JPEGImages/ID.jpg; or a folder of
such XML files; ``voc_layout`` says where everything may lie.

VOC counts pixels from 1 and includes the last one, so a box is (xmin - 1, ymin - 1, xmax, ymax). In sets that count
from 0, it is (xmin, ymin, xmax, ymax). Objects marked ``difficult`` become crowd boxes, as in VOC's own evaluation:
left out of training, and neither hit nor miss in the evaluation.
"""

import os
import re
from collections.abc import Iterable
from typing import Any
from xml.etree.ElementTree import Element

from fa_detectron.data.findings import NOTE, Findings
from fa_detectron.data.images.finder import ImageFinder
from fa_detectron.data.readers.files import parse_xml
from fa_detectron.data.readers.image_list import size_from_file
from fa_detectron.data.readers.voc_layout import (
    SUFFIXES,
    first_pixel,
    has_image_sets,
    image_finder,
    is_xml_folder,
    listed_xml_folder,
    read_ids,
    split_list,
    split_xml_folder,
    xml_folder,
)
from fa_detectron.data.records import MOST_PIXELS, AnnotatedSet, Annotation, ImageRecord, ReadOptions
from fa_detectron.data.sources.source import LINKS, Source, links_outside
from fa_detectron.data.sources.splits import is_image
from fa_detectron.data.values import class_name, flag, number
from fa_detectron.errors import UserError

_FROM_ZERO = "its boxes are read as counted from 0, not from 1 as in Pascal VOC: at the border, xmin and ymin are 0"


def _text(element: Element | None, tag: str) -> str:
    return (element.findtext(tag) or "").strip() if element is not None else ""


def _corners(bndbox: Element | None, first: int) -> Any:
    """(x1, y1, x2, y2) in pixels from 0; the texts if they are not numbers, for the check to refuse."""
    texts = tuple(_text(bndbox, tag) for tag in ("xmin", "ymin", "xmax", "ymax"))
    try:
        x1, y1, x2, y2 = (float(text) for text in texts)
    except ValueError:
        return texts
    return (x1 - first, y1 - first, x2, y2)


def _size(tree: Element, xml_path: str) -> tuple[int, int]:
    """(width, height) from the XML; 0 if it does not have them."""
    sides = [_text(tree.find("size"), tag) for tag in ("width", "height")]
    values = [number(side or "0") for side in sides]
    if not all(value is not None and value.is_integer() for value in values):
        raise UserError(f"{xml_path}: size must be two whole numbers, is {sides!r:.80}")
    if max(values) > MOST_PIXELS:
        raise UserError(f"{xml_path}: size is more than {MOST_PIXELS} pixels")
    return max(0, int(values[0])), max(0, int(values[1]))


def _annotations(tree: Element, xml_path: str, first: int) -> list[Annotation]:
    found = []
    for index, item in enumerate(tree.findall("object")):
        label, difficult = class_name(_text(item, "name")), _text(item, "difficult")
        if not label:
            raise UserError(f"{xml_path}: object {index} has no name")
        if flag(difficult) is None:
            raise UserError(f"{xml_path}: object {index}: difficult is {difficult!r:.80}, neither yes nor no (0 or 1)")
        corners = _corners(item.find("bndbox"), first)
        found.append(Annotation(label, corners, index, iscrowd=int(bool(flag(difficult)))))
    return found


class _Reading:
    """Reads XML files, and collects what is wrong with them."""

    def __init__(self, finder: ImageFinder, upright: bool, first: int) -> None:
        self._finder, self._upright, self._first = finder, upright, first
        self.broken: list[str] = []
        self.unreadable: list[str] = []
        self.contrary: list[str] = []

    def image(self, xml_path: str, image_id: str) -> ImageRecord | None:
        try:
            return self._image(xml_path, image_id)
        except UserError as error:
            self.broken.append(str(error))
            return None

    def _image(self, xml_path: str, image_id: str) -> ImageRecord | None:
        tree = parse_xml(xml_path)
        if tree.tag != "annotation":
            raise UserError(f"{xml_path}: the outermost element must be <annotation>, is <{tree.tag}>")
        annotations, size = _annotations(tree, xml_path, self._first), _size(tree, xml_path)
        path = self._file(xml_path, image_id, list(filter(None, (_text(tree, "filename"), _text(tree, "path")))))
        if path and 0 in size:
            size = size_from_file(path, self._upright, self.unreadable)
        return ImageRecord(path, image_id, *size, annotations, xml_path) if path and size else None

    def _file(self, xml_path: str, image_id: str, named: list[str]) -> str:
        """The image: ID.*, of several the one named in the file; else the one named in the file."""
        own = [image_id + suffix for suffix in SUFFIXES]
        last = [os.path.join(os.path.dirname(image_id), re.split(r"[\\/]", name)[-1]) for name in named]
        own = [name for name in last if os.path.splitext(name)[0] == image_id] + own
        path = self._finder.find(*own, *named)
        there = next(filter(None, map(self._finder.direct, named)), path)
        if there != path and path:
            self.contrary.append(f"{xml_path}: names {named[0]!r:.80}, is read as that of {path}")
        return path


def read_voc(source: Source, options: ReadOptions, findings: Findings) -> AnnotatedSet:
    """Read a Pascal VOC folder; its classes are those of its objects, in alphabetical order.

    ``source.split`` is a list of ids or a folder of XML files (``voc_layout``); without a split, all XML files of
    ``source.path`` are read. An image is ID.jpg (or .png and so on; of several, the one that <filename> names), else
    what <filename> or <path> names.
    """
    folder, path = source.path, str(source)
    lists = has_image_sets(folder) or bool(split_list(folder, source.split))
    if lists:
        annotations = listed_xml_folder(folder)
    else:
        annotations = (source.split and split_xml_folder(folder, source.split)) or xml_folder(folder)
    if not annotations:
        raise UserError(f"{folder}: holds no XML file, nor does a folder annotations/ in it")
    if lists:
        files = {i: f"{i}.xml" for i in read_ids(folder, source.split, annotations, findings)}
    else:
        names = sorted(name for name in os.listdir(annotations) if name.lower().endswith(".xml"))
        files = {os.path.splitext(name)[0]: name for name in names}
    up = annotations == folder and not lists and is_xml_folder(folder)
    root = os.path.dirname(folder) if up else folder
    finder = image_finder(root, annotations, source.split, options, list(files))
    outside = set() if options.follow_links else _outside(root, annotations, files.values())
    findings.refuse(path, f"annotation files that a link takes out of {root}", sorted(outside), LINKS)
    first = first_pixel(annotations)
    reading = _Reading(finder, options.upright, first)
    used = {image_id: os.path.join(annotations, name) for image_id, name in files.items() if name not in outside}
    images = [image for image_id, xml in used.items() if (image := reading.image(xml, image_id))]
    findings.refuse(path, "annotation files that cannot be used", reading.broken)
    finder.report(path, findings)
    findings.refuse(path, "images that cannot be read", reading.unreadable)
    findings.problem(path, "annotation files that name another image than the one called like them", reading.contrary)
    if first == 0:
        findings.say(NOTE, path, _FROM_ZERO)
    if not lists:
        findings.note(path, "images without an XML file, left out", _without_xml(images))
    labels = {annotation.label for image in images for annotation in image.annotations}
    return AnnotatedSet(path, tuple(sorted(labels)), images)


def _outside(root: str, folder: str, names: Iterable[str]) -> set[str]:
    """The names in a folder that a link takes out of ``root``."""
    prefix = os.path.relpath(folder, root)
    paths = {os.path.normpath(os.path.join(prefix, name)): name for name in names}
    return {paths[path] for path in links_outside(root, paths)}


def _without_xml(images: list[ImageRecord]) -> list[str]:
    """The other image files in the folders of the set's images."""
    used = {image.file_name for image in images}
    folders = sorted({os.path.dirname(name) for name in used})
    files = [os.path.join(folder, name) for folder in folders if os.path.isdir(folder) for name in os.listdir(folder)]
    return sorted(file for file in files if is_image(file) and file not in used)
