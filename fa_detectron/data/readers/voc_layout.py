"""Where a Pascal VOC set has its XML files, splits and images, and whether it counts pixels from 0 or 1."""

import os
import re
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache

from fa_detectron.data.findings import Findings
from fa_detectron.data.images.finder import ImageFinder
from fa_detectron.data.records import ReadOptions
from fa_detectron.data.sources.source import is_inside
from fa_detectron.data.sources.splits import IMAGE_SUFFIXES, SPLIT_NAMES, is_image, split_names
from fa_detectron.errors import UserError

SUFFIXES = tuple(sorted(IMAGE_SUFFIXES, key=lambda suffix: (suffix != ".jpg", suffix)))
SUFFIXES += tuple(suffix.upper() for suffix in SUFFIXES)  # of an image ID.*, the most likely one first
_XML_FOLDERS = ("annotations", "annotation", "xml", "xmls", "labels")
_IMAGE_FOLDERS = ("jpegimages", "images", "image", "imgs", "img")
_LIST_FOLDERS = (os.path.join("ImageSets", "Main"), "ImageSets")
_MINIMA = re.compile(rb"<[xy]min>\s*([-+.\deE]+)")


def _folders(base: str, names: tuple[str, ...]) -> list[str]:
    """The folders in ``base`` with one of these names, regardless of case, in the order of the names."""
    try:
        found = [name for name in os.listdir(base) if name.casefold() in names]
    except OSError:
        return []
    found = [name for name in found if os.path.isdir(os.path.join(base, name))]
    return [os.path.join(base, name) for name in sorted(found, key=lambda name: names.index(name.casefold()))]


def _has_xml(folder: str) -> bool:
    return any(name.lower().endswith(".xml") for name in os.listdir(folder))


def xml_folder(folder: str) -> str:
    """The folder of a set's XML files: ``folder`` itself or its annotations/; "" if there are none."""
    return next(filter(_has_xml, (folder, *_folders(folder, _XML_FOLDERS))), "")


def is_xml_folder(folder: str) -> bool:
    """Whether a folder is named like one for XML files beside a folder of images."""
    return os.path.basename(folder).casefold() in _XML_FOLDERS


def split_xml_folder(folder: str, split: str) -> str:
    """annotations/SPLIT with XML files in it; "" if there is none."""
    places = (place for base in _folders(folder, _XML_FOLDERS) for place in _folders(base, split_names(split)))
    return next(filter(_has_xml, places), "")


def listed_xml_folder(folder: str) -> str:
    """The folder of the XML files of a set whose splits are lists of ids."""
    return next(iter(_folders(folder, _XML_FOLDERS)), folder)


def has_image_sets(folder: str) -> bool:
    """Whether a set has lists of ids in ImageSets/Main/ or ImageSets/."""
    main, sets = (os.path.join(folder, name) for name in _LIST_FOLDERS)
    return os.path.isdir(main) or bool(_lists(sets))


def split_list(folder: str, split: str) -> str:
    """The file that lists the ids of a split; "" if there is none.

    It is ImageSets/Main/SPLIT.txt or ImageSets/SPLIT.txt; in a set without ImageSets, SPLIT.txt in the set's folder if
    there is an XML file for its first line.
    """
    places = _LIST_FOLDERS if has_image_sets(folder) else (".",)
    paths = (os.path.join(folder, place, f"{name}.txt") for place in places for name in split_names(split))
    path = os.path.normpath(next(filter(os.path.isfile, paths), "")) if split else "."
    if path == "." or (places == (".",) and not _lists_xml(path, listed_xml_folder(folder))):
        return ""
    return path


def voc_splits(folder: str) -> list[str]:
    """The usual splits of a set without ImageSets: lists in its folder, or folders in annotations/."""
    found = {split_list(folder, split) or split_xml_folder(folder, split): split for split in reversed(SPLIT_NAMES)}
    return [split for place, split in reversed(found.items()) if place]


def _lists(folder: str) -> list[str]:
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return sorted(name[:-4] for name in names if name.endswith(".txt"))


def _lists_xml(path: str, annotations: str) -> bool:
    try:
        with open(path, encoding="utf-8-sig") as stream:
            line = stream.readline(4096).strip()
    except (OSError, UnicodeDecodeError):
        return False
    return bool(line) and _exists(_id(line, annotations), annotations)


def _exists(image_id: str, annotations: str) -> bool:
    return is_inside(image_id) and os.path.isfile(os.path.join(annotations, f"{image_id}.xml"))


def _id(line: str, annotations: str) -> str:
    """The id in a line of a list: "ID", "ID 1" (of a list per class), "my cat" or "images/ID.jpg"."""
    texts = (line, line.split()[0])
    bare = [os.path.splitext(text)[0] for text in texts if is_image(text)]
    names = (*texts, *bare, *(os.path.basename(text) for text in bare))
    return next((name for name in names if _exists(name, annotations)), texts[1])


def read_ids(folder: str, split: str, annotations: str, findings: Findings) -> list[str]:
    """The image ids in the list of a split.

    Raises:
        UserError: there is no such list, or it lists no image.
    """
    path = split_list(folder, split) or os.path.join(folder, _LIST_FOLDERS[0], f"{split}.txt")
    try:
        with open(path, encoding="utf-8-sig") as stream:
            ids = [_id(line.strip(), annotations) for line in stream if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        known = dict.fromkeys(name for place in _LIST_FOLDERS for name in _lists(os.path.join(folder, place)))
        raise UserError(
            f"{path}: cannot be read ({getattr(error, 'strerror', error)}). "
            f"Splits in this folder: {', '.join(known) or 'none'}; name one as FOLDER:SPLIT."
        ) from error
    if not ids:
        raise UserError(f"{path}: lists no image")
    findings.refuse(path, "ids that leave the folder", [repr(i) for i in ids if not is_inside(i)])
    findings.refuse(path, "ids listed more than once", [i for i, count in Counter(ids).items() if count > 1])
    return [i for i in dict.fromkeys(ids) if is_inside(i)]


def image_finder(root: str, annotations: str, split: str, options: ReadOptions, ids: list[str]) -> ImageFinder:
    """Searches the set's images/ (and images/SPLIT), ``root``, and the folder of the XML files."""
    if named := options.images_folder():
        root = annotations = named
    bases = _folders(root, _IMAGE_FOLDERS)
    own = [place for base in (*bases, root) for place in _folders(base, split_names(split))]
    folders = dict.fromkeys((*own, *bases, root, annotations))
    sample = [i + suffix for i in ids[:: max(1, len(ids) // 20)] for suffix in SUFFIXES]
    return ImageFinder(list(folders), root, options.follow_links, sample)


def first_pixel(folder: str) -> int:
    """The number of the first pixel in the XML files of all splits of a set: 1 in VOC, 0 in many exports.

    It follows from boxes at the left and upper border: 0 if more xmin and ymin are around 0 than from 1 to below 2. A
    few zeros beside many ones are errors in a set that counts from 1.

    Args:
        folder: with the XML files. If it is named like a split, the other splits are beside it.
    """
    files = []
    for place in (folder, *_other_splits(folder)):
        with os.scandir(place) as entries:  # links may lead anywhere
            found = [e for e in entries if e.name.lower().endswith(".xml") and e.is_file(follow_symlinks=False)]
        files += [(e.path, (stat := e.stat()).st_mtime_ns, stat.st_size) for e in found]
    return _first_pixel(frozenset(files))


@lru_cache(8)  # every split of a set asks for it
def _first_pixel(files: frozenset[tuple[str, int, int]]) -> int:
    """``files``: (path, time of the last change, size)."""
    zeros = ones = 0
    for path, _, _ in files:
        for value in _minima(path):
            zeros += -1 < value < 1
            ones += 1 <= value < 2
    return 0 if zeros > ones else 1


def _other_splits(folder: str) -> Iterable[str]:
    above, name = os.path.split(folder)
    if is_xml_folder(folder):  # SPLIT/annotations
        above, name = os.path.split(above)
    if name.casefold() not in SPLIT_NAMES:
        return []
    return [place for other in _folders(above, SPLIT_NAMES) if (place := xml_folder(other)) and place != folder]


def _minima(path: str) -> Iterable[float]:
    """The numbers in xmin and ymin of a file; maybe none of a broken one, which is refused elsewhere."""
    try:
        with open(path, "rb") as stream:
            content = stream.read().replace(b"\0", b"")  # UTF-16
    except OSError:
        return
    for text in _MINIMA.findall(content):
        try:
            yield float(text)
        except ValueError:
            continue
