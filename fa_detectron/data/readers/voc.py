"""Read a folder in Pascal VOC's layout: ImageSets/Main/SPLIT.txt, Annotations/ID.xml, JPEGImages/ID.jpg; or a folder of
such XML files with the images beside them, or with annotations/ and images/.

VOC counts pixels from 1 and includes the last one, so a box is (xmin - 1, ymin - 1, xmax, ymax). Objects marked
``difficult`` become crowd boxes: left out of training, and neither hit nor miss in the evaluation, which is how VOC's
own evaluation treats them.
"""

import os
from collections.abc import Iterable
from typing import Any
from xml.etree.ElementTree import Element, ParseError

from fa_detectron.data.checks import MOST_PIXELS
from fa_detectron.data.findings import Findings
from fa_detectron.data.image_finder import ImageFinder
from fa_detectron.data.image_list import size_from_file
from fa_detectron.data.paths import LINKS, Source, is_inside, links_outside
from fa_detectron.data.records import AnnotatedSet, Annotation, ImageRecord, ReadOptions
from fa_detectron.data.splits import split_names
from fa_detectron.data.text_files import xml_encoding
from fa_detectron.data.values import class_name, flag, number
from fa_detectron.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".JPG", ".JPEG", ".PNG", ".BMP")
_XML_FOLDERS = ("annotations", "annotation", "xml", "xmls")
_IMAGE_FOLDERS = ("jpegimages", "images", "image", "imgs", "img")


def parse_xml(path: str) -> Element:
    """Parse an XML file that has no document type: with one, a small file could grow to any size or read others.

    The file is read in the encoding that it declares, any that Python knows.

    Raises:
        UserError: no such file, not XML, or it declares a document type or an entity.
    """
    try:
        from defusedxml import DefusedXmlException
        from defusedxml.ElementTree import fromstring
    except ImportError:
        raise UserError("XML files need the package defusedxml: pip install defusedxml (the extra 'xml')") from None
    try:
        with open(path, "rb") as stream:
            content: bytes | str = stream.read()
        if encoding := xml_encoding(content):
            content = content.decode(encoding)
        return fromstring(content, forbid_dtd=True)
    except DefusedXmlException:
        raise UserError(f"{path}: holds a document type (DTD) or entity, which is not accepted. Remove it.") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except (ParseError, ValueError, LookupError) as error:
        raise UserError(f"{path}: not valid XML: {error}") from error


def _text(element: Element | None, tag: str) -> str:
    return (element.findtext(tag) or "").strip() if element is not None else ""


def _corners(bndbox: Element | None) -> Any:
    """(x1, y1, x2, y2) in pixels from 0; the texts themselves where they are no numbers, for the check to refuse."""
    texts = tuple(_text(bndbox, tag) for tag in ("xmin", "ymin", "xmax", "ymax"))
    try:
        x1, y1, x2, y2 = (float(text) for text in texts)
    except ValueError:
        return texts
    return (x1 - 1.0, y1 - 1.0, x2, y2)


def _ids(folder: str, split: str, findings: Findings) -> list[str]:
    """Image ids of a split; a line of a per-class list ("ID 1") counts with its first word."""
    paths = [os.path.join(folder, "ImageSets", "Main", f"{name}.txt") for name in split_names(split)]
    path = next(filter(os.path.isfile, paths), paths[0])
    try:
        with open(path, encoding="utf-8-sig") as stream:
            ids = [line.split()[0] for line in stream if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        known = sorted(n[:-4] for n in os.listdir(os.path.dirname(path)) if n.endswith(".txt"))
        raise UserError(
            f"{path}: cannot be read ({getattr(error, 'strerror', error)}). "
            f"Splits in this folder: {', '.join(known) or 'none'}; name one as FOLDER:SPLIT."
        ) from error
    if not ids:
        raise UserError(f"{path}: lists no image")
    findings.refuse(path, "ids that leave the folder", [repr(i) for i in ids if not is_inside(i)])
    seen = set()
    findings.refuse(path, "ids listed more than once", [i for i in ids if i in seen or seen.add(i)])
    return [i for i in dict.fromkeys(ids) if is_inside(i)]


def _folders(base: str, names: tuple[str, ...]) -> list[str]:
    """The folders in ``base`` of one of these names, in any case, in the order of the names."""
    found = [name for name in os.listdir(base) if name.casefold() in names and os.path.isdir(os.path.join(base, name))]
    return [os.path.join(base, name) for name in sorted(found, key=lambda name: names.index(name.casefold()))]


def xml_folder(folder: str) -> str:
    """The folder of a set's XML files: ``folder`` itself or its annotations/; "" where there are none."""
    for place in (folder, *_folders(folder, _XML_FOLDERS)):
        if any(name.lower().endswith(".xml") for name in os.listdir(place)):
            return place
    return ""


def _finder(root: str, annotations: str, options: ReadOptions, ids: list[str]) -> ImageFinder:
    if options.images_root:
        root = annotations = os.path.abspath(os.path.expanduser(options.images_root))
        if not os.path.isdir(root):
            raise UserError(f"--images (DATASETS.IMAGES_ROOT): no such folder: {root}")
    folders = dict.fromkeys((*_folders(root, _IMAGE_FOLDERS), root, annotations))
    sample = [i + suffix for i in ids[:: max(1, len(ids) // 20)] for suffix in IMAGE_SUFFIXES]
    return ImageFinder(list(folders), root, root, options.follow_links, sample)


def _size(tree: Element, xml_path: str) -> tuple[int, int]:
    """(width, height) from the XML; 0 where it leaves them open."""
    sides = [_text(tree.find("size"), tag) for tag in ("width", "height")]
    values = [number(side or "0") for side in sides]
    if not all(value is not None and value.is_integer() for value in values):
        raise UserError(f"{xml_path}: size must be two whole numbers, is {sides!r:.80}")
    if max(values) > MOST_PIXELS:
        raise UserError(f"{xml_path}: size is more than {MOST_PIXELS} pixels")
    return max(0, int(values[0])), max(0, int(values[1]))


def _annotations(tree: Element, xml_path: str) -> list[Annotation]:
    found = []
    for index, item in enumerate(tree.findall("object")):
        label, difficult = class_name(_text(item, "name")), _text(item, "difficult")
        if not label:
            raise UserError(f"{xml_path}: object {index} has no name")
        if flag(difficult) is None:
            raise UserError(f"{xml_path}: object {index}: difficult is {difficult!r:.80}, neither yes nor no (0 or 1)")
        found.append(Annotation(label, _corners(item.find("bndbox")), index, iscrowd=int(bool(flag(difficult)))))
    return found


def _read_image(
    xml_path: str, image_id: str, finder: ImageFinder, upright: bool, unreadable: list[str]
) -> ImageRecord | None:
    tree = parse_xml(xml_path)
    if tree.tag != "annotation":
        raise UserError(f"{xml_path}: the outermost element must be <annotation>, is <{tree.tag}>")
    annotations, size = _annotations(tree, xml_path), _size(tree, xml_path)
    named = filter(None, (_text(tree, "filename"), _text(tree, "path")))
    path = finder.find(*(image_id + suffix for suffix in IMAGE_SUFFIXES), *named)
    if path and 0 in size:
        size = size_from_file(path, upright, unreadable)
    return ImageRecord(path, image_id, *size, annotations, xml_path) if path and size else None


def read_voc(source: Source, options: ReadOptions, findings: Findings) -> AnnotatedSet:
    """Read a Pascal VOC folder; its classes are those of its objects, in alphabetical order.

    ``source.path`` has ImageSets/, of which ``source.split`` is read, or is a folder of XML files, all of which are. An
    image is ID.jpg (or .png and so on), else what <filename> or <path> says. See
    :func:`fa_detectron.data.readers.read_annotated_set`.
    """
    folder, path = source.path, str(source)
    lists = os.path.isdir(os.path.join(folder, "ImageSets", "Main"))
    annotations = next(iter(_folders(folder, _XML_FOLDERS)), folder) if lists else xml_folder(folder)
    if not annotations:
        raise UserError(f"{folder}: holds no XML file, nor does a folder annotations/ in it")
    if lists:
        files = {i: f"{i}.xml" for i in _ids(folder, source.split, findings)}
    else:
        names = sorted(name for name in os.listdir(annotations) if name.lower().endswith(".xml"))
        files = {os.path.splitext(name)[0]: name for name in names}
    up = annotations == folder and not lists and os.path.basename(folder).casefold() in _XML_FOLDERS
    root = os.path.dirname(folder) if up else folder
    finder = _finder(root, annotations, options, list(files))
    outside = set() if options.follow_links else _outside(root, annotations, files.values())
    findings.refuse(path, f"annotation files that a link takes out of {root}", sorted(outside), LINKS)
    images, broken, unreadable = [], [], []
    for image_id, name in files.items():
        if name not in outside:
            try:
                images.append(
                    _read_image(os.path.join(annotations, name), image_id, finder, options.upright, unreadable)
                )
            except UserError as error:
                broken.append(str(error))
    findings.refuse(path, "annotation files that cannot be used", broken)
    finder.report(path, findings)
    findings.refuse(path, "images that cannot be read", unreadable)
    images = [image for image in images if image]
    if not lists:
        findings.note(path, "images without an XML file, left out", _without_xml(images))
    labels = {annotation.label for image in images for annotation in image.annotations}
    return AnnotatedSet(path, tuple(sorted(labels)), images)


def _outside(root: str, folder: str, names: Iterable[str]) -> set[str]:
    """Those of the names in a folder that a link takes out of ``root``."""
    prefix = os.path.relpath(folder, root)
    paths = {os.path.normpath(os.path.join(prefix, name)): name for name in names}
    return {paths[path] for path in links_outside(root, paths)}


def _without_xml(images: list[ImageRecord]) -> list[str]:
    """The image files in the folders of the set's images that are none of them."""
    used = {image.file_name for image in images}
    folders = sorted({os.path.dirname(name) for name in used})
    files = [os.path.join(folder, name) for folder in folders if os.path.isdir(folder) for name in os.listdir(folder)]
    return sorted(file for file in files if file.lower().endswith(IMAGE_SUFFIXES) and file not in used)
