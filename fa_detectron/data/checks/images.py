"""Checks of the image files of a set: they exist, can be read, have the annotated size, and differ."""

import hashlib
import math
import os
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from fa_detectron.data.checks.boxes import READ_AS_STORED
from fa_detectron.data.findings import Findings
from fa_detectron.data.images.file import check_decodes, read_header
from fa_detectron.data.images.pixels import ImageReader
from fa_detectron.data.records import AnnotatedSet
from fa_detectron.errors import UserError
from fa_detectron.machine import usable_cpus

HEADERS = 5000  # images whose header is read, tenths of a millisecond each
DECODED = 1000  # images that are read completely, milliseconds each
Digests = dict[str, bytes]  # file name: hash of the pixels
Scanned = dict[str, bytes | str]  # file name: hash of the pixels, or why the file cannot be read


def check_images_exist(path: str, file_names: Sequence[str], findings: Findings) -> None:
    """Refuse images of the set ``path`` that do not exist."""
    missing = [name for name in file_names if not os.path.isfile(name)]
    findings.refuse(path, "images that do not exist", missing, "Name the folder of the images with --images.")


def has_annotated_size(file_name: str, width: int, height: int, reader: ImageReader) -> bool:
    """Whether an image's header has the annotated size. Raises UserError if the image cannot be read."""
    return read_header(file_name).size(reader.upright) == (width, height)


def _compare_sizes(
    files: Iterable[tuple[str, int, int]], reader: ImageReader, unreadable: dict[str, str]
) -> tuple[list[str], list[str]]:
    """Messages about images annotated at their stored size, and about images of any other size than annotated."""
    as_stored, others = [], []
    for file_name, width, height in files:
        try:
            header = read_header(file_name)
        except UserError as error:
            unreadable[file_name] = str(error)
            continue
        found, annotated = header.size(reader.upright), f"annotated as {width}x{height}"
        if found == (width, height):
            continue
        if reader.upright and header.stored == (width, height):
            turned = f"as it is stored; its EXIF orientation {header.orientation} turns it"
            as_stored.append(f"{file_name}: {annotated}, {turned}")
        else:
            others.append(f"{file_name}: is {found[0]}x{found[1]}, {annotated}")
    return as_stored, others


def spread(count: int, limit: int) -> range:
    """At most ``limit`` of the indices below ``count``, evenly spread."""
    return range(0, count, max(1, math.ceil(count / limit)))


def check_image_files(
    path: str, images: Sequence[tuple[str, int, int]], reader: ImageReader, findings: Findings
) -> None:
    """Check that images can be read and have the annotated size.

    Up to HEADERS headers are compared and up to DECODED images read completely; of larger sets, evenly spread ones.

    Args:
        path: the set, for the message.
        images: (file, annotated width, annotated height) of each.
        reader: says whether sizes are those after the EXIF orientation.

    Raises:
        UserError: names the unreadable images and those of another size.
    """
    unreadable: dict[str, str] = {}
    decoded = set(spread(len(images), DECODED))
    chosen = [images[index] for index in sorted(decoded.union(spread(len(images), HEADERS)))]
    differing = _compare_sizes(chosen, reader, unreadable)
    for file_name in dict.fromkeys(images[index][0] for index in sorted(decoded)):
        try:
            if file_name not in unreadable:
                check_decodes(file_name)
        except UserError as error:
            unreadable[file_name] = str(error)
    _report(path, list(unreadable.values()), *differing, findings)


def _report(
    path: str, unreadable: Sequence[str], as_stored: Sequence[str], others: Sequence[str], findings: Findings
) -> None:
    findings.refuse(path, "images that cannot be read", unreadable)
    findings.refuse(
        path,
        "images annotated at their stored size, before the rotation by their EXIF orientation",
        as_stored,
        f"If the boxes are those of the stored pixels, too, {READ_AS_STORED}",
    )
    findings.refuse(path, "images of another size than annotated (width x height)", others)


def scan_images(
    data: AnnotatedSet,
    reader: ImageReader,
    findings: Findings,
    bar: Callable[[Sequence], Iterable] = lambda items: items,
    scanned: Scanned | None = None,
) -> Digests:
    """Report images that cannot be read or have another size than annotated.

    Args:
        data: the set; every file is read completely, once.
        reader: reads the images; the hashes are of what it reads, deep images with all their bits.
        bar: wraps the iteration over the images, to show progress.
        scanned: results of earlier calls with the same reader, which are used and added to.

    Returns:
        A hash of the pixels of each readable image. Files with the same pixels have equal hashes, whatever their names,
        metadata and (lossless) compression.
    """
    scanned = {} if scanned is None else scanned
    names = dict.fromkeys(image.file_name for image in data.images)
    files = [name for name in names if name not in scanned]
    with ThreadPoolExecutor(usable_cpus()) as pool:  # decoding and hashing release the interpreter lock
        for name, result in bar(list(zip(files, [pool.submit(_digest, name, reader) for name in files]))):
            try:
                scanned[name] = result.result()
            except UserError as error:
                scanned[name] = str(error)
    digests = {name: found for name in names if isinstance(found := scanned[name], bytes)}
    unreadable = {name: found for name in names if isinstance(found := scanned[name], str)}
    readable = ((i.file_name, i.width, i.height) for i in data.images if i.file_name in digests)
    differing = _compare_sizes(readable, reader, unreadable)
    _report(data.path, list(unreadable.values()), *differing, findings)
    return digests


def _digest(name: str, reader: ImageReader) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, over large images and odd metadata
        pixels = reader.values(name)
    digest = hashlib.blake2b(f"{pixels.shape} {pixels.dtype}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(pixels))  # type: ignore[arg-type]  # its stubs know no buffers
    return digest.digest()


def same_content(data: AnnotatedSet, digests: Digests) -> list[str]:
    """Groups of images with the same pixels, one line per group."""
    groups: dict[bytes, list[str]] = defaultdict(list)
    for image in data.images:
        if image.file_name in digests:
            groups[digests[image.file_name]].append(image.file_name)
    return [" = ".join(names) for names in groups.values() if len(names) > 1]


def shared_content(first: Digests, second: Digests) -> list[str]:
    """Images of the second set with the pixels of an image of the first, one line each."""
    of_first = {digest: name for name, digest in first.items()}
    return [f"{name} = {of_first[digest]}" for name, digest in second.items() if digest in of_first]
