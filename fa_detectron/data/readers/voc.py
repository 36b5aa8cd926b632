"""Read a folder in Pascal VOC's layout: ImageSets/Main/SPLIT.txt, Annotations/ID.xml, JPEGImages/ID.jpg.

VOC counts pixels from 1 and includes the last one, so a box is (xmin - 1, ymin - 1, xmax, ymax). Objects marked
``difficult`` become crowd boxes: left out of training, and neither hit nor miss in the evaluation, which is how VOC's
own evaluation treats them.
"""

import os
import xml.etree.ElementTree as ElementTree
from typing import Any
from xml.parsers import expat

from fa_detectron.data.checks import MOST_PIXELS
from fa_detectron.data.findings import Findings
from fa_detectron.data.image_file import read_header
from fa_detectron.data.paths import LINKS, Source, is_inside, links_outside
from fa_detectron.data.records import AnnotatedSet, Annotation, ImageRecord, ReadOptions
from fa_detectron.data.splits import split_names
from fa_detectron.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".JPG", ".JPEG", ".PNG", ".BMP")


def parse_xml(path: str) -> ElementTree.Element:
    """Parse an XML file that has no document type: with one, a small file could grow to any size or read others.

    Raises:
        UserError: no such file, not XML, or it declares a document type or an entity.
    """

    def refuse_dtd(*_: Any) -> None:
        raise UserError(f"{path}: holds a document type (DTD) or entity, which is not accepted. Remove it.")

    builder = ElementTree.TreeBuilder()
    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse_dtd
    parser.EntityDeclHandler = refuse_dtd
    parser.ExternalEntityRefHandler = refuse_dtd
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        with open(path, "rb") as stream:
            parser.Parse(stream.read(), True)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise UserError(f"{path}: not valid XML: {error}") from error
    return builder.close()


def _text(element: ElementTree.Element | None, tag: str) -> str:
    return (element.findtext(tag) or "").strip() if element is not None else ""


def _corners(bndbox: ElementTree.Element | None) -> Any:
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
        with open(path, encoding="utf-8") as stream:
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


def _image_file(root: str, image_id: str) -> str:
    """The image's file; the .jpg name where there is none (the check of the images reports it)."""
    for suffix in IMAGE_SUFFIXES:
        path = os.path.join(root, image_id + suffix)
        if os.path.isfile(path):
            return path
    return os.path.join(root, image_id + ".jpg")


def _size(tree: ElementTree.Element, xml_path: str, image_path: str, upright: bool) -> tuple[int, int]:
    """(width, height) from the XML; from the image where the XML leaves it out."""
    size = tree.find("size")
    texts = [_text(size, "width") or "0", _text(size, "height") or "0"]
    try:
        width, height = (int(text) for text in texts)
    except ValueError as error:
        raise UserError(f"{xml_path}: size must be two integers, is {texts!r:.80}") from error
    if max(width, height) > MOST_PIXELS:
        raise UserError(f"{xml_path}: size is more than {MOST_PIXELS} pixels")
    if width > 0 and height > 0:
        return width, height
    try:
        return read_header(image_path).size(upright)
    except UserError as error:
        raise UserError(f"{xml_path}: has no image size, and the image cannot be read: {error}") from error


def _read_image(folder: str, root: str, image_id: str, upright: bool) -> ImageRecord:
    xml_path = os.path.join(folder, "Annotations", image_id + ".xml")
    tree = parse_xml(xml_path)
    if tree.tag != "annotation":
        raise UserError(f"{xml_path}: the outermost element must be <annotation>, is <{tree.tag}>")
    annotations = []
    for index, item in enumerate(tree.findall("object")):
        label = _text(item, "name")
        if not label:
            raise UserError(f"{xml_path}: object {index} has no name")
        difficult = 1 if _text(item, "difficult") not in ("", "0") else 0
        annotations.append(Annotation(label, _corners(item.find("bndbox")), index, iscrowd=difficult))
    image_path = _image_file(root, image_id)
    width, height = _size(tree, xml_path, image_path, upright)
    return ImageRecord(image_path, image_id, width, height, annotations, xml_path)


def read_voc(source: Source, options: ReadOptions, findings: Findings) -> AnnotatedSet:
    """Read one split of a Pascal VOC folder; its classes are those of its objects, in alphabetical order.

    See :func:`fa_detectron.data.readers.read_annotated_set`.
    """
    folder, split, images_root = source.path, source.split, options.images_root
    path = f"{folder}:{split}"
    root = os.path.abspath(os.path.expanduser(images_root)) if images_root else os.path.join(folder, "JPEGImages")
    if not os.path.isdir(root):
        raise UserError(f"{root}: no such folder; name the folder of the images with --images (DATASETS.IMAGES_ROOT)")
    ids = _ids(folder, split, findings)
    xml_folder = os.path.join(folder, "Annotations")
    outside = links_outside(xml_folder, [f"{i}.xml" for i in ids])
    findings.refuse(path, f"annotation files that a link takes out of {xml_folder}", sorted(outside), LINKS)
    images, broken = [], []
    for image_id in ids:
        if f"{image_id}.xml" not in outside:
            try:
                images.append(_read_image(folder, root, image_id, options.upright))
            except UserError as error:
                broken.append(str(error))
    findings.refuse(path, "annotation files that cannot be used", broken)
    outside = links_outside(root, [os.path.relpath(image.file_name, root) for image in images])
    findings.refuse(path, f"images that a link takes out of their folder {root}", sorted(outside), LINKS)
    images = [image for image in images if os.path.relpath(image.file_name, root) not in outside]
    labels = {annotation.label for image in images for annotation in image.annotations}
    return AnnotatedSet(path, tuple(sorted(labels)), images)
