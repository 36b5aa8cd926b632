"""Read every image of a set once: whether it can be read, its size, and a hash of its pixels."""

import hashlib
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from fa_detectron.data.checks.boxes import report_images, size_problem
from fa_detectron.data.findings import Findings
from fa_detectron.data.images.pixels import ImageReader
from fa_detectron.data.records import AnnotatedSet
from fa_detectron.errors import UserError
from fa_detectron.machine import usable_cpus

Digests = dict[str, bytes]  # file name: hash of what the image shows


def scan_images(
    data: AnnotatedSet,
    reader: ImageReader,
    findings: Findings,
    bar: Callable[[Sequence], Iterable] = lambda items: items,
) -> Digests:
    """Complain of images that cannot be read or have another size than annotated.

    Args:
        data: the set; every file is read whole, once.
        reader: reads the images; the digests are of what it reads, deep images with all their bits.
        bar: wraps the walk over the images, to show how far it is.

    Returns:
        A hash of the pixels of each readable image: two files of the same pixels agree, whatever their names,
        metadata and compression (as long as it loses nothing).
    """
    files = list(dict.fromkeys(image.file_name for image in data.images))
    digests: Digests = {}
    unreadable = []
    with ThreadPoolExecutor(usable_cpus()) as pool:  # decoding and hashing release the interpreter lock
        for name, result in bar(list(zip(files, [pool.submit(_digest, name, reader) for name in files]))):
            try:
                digests[name] = result.result()
            except UserError as error:
                unreadable.append(str(error))
    differing = []
    for image in data.images:
        if image.file_name in digests:
            problem = size_problem(image.file_name, image.width, image.height, reader)
            differing += [problem] if problem else []
    report_images(data.path, unreadable, differing, findings)
    return digests


def _digest(name: str, reader: ImageReader) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, over large images and odd metadata
        pixels = reader.values(name)
    digest = hashlib.blake2b(f"{pixels.shape} {pixels.dtype}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(pixels))
    return digest.digest()


def same_content(data: AnnotatedSet, digests: Digests) -> list[str]:
    """Images that show what another image of the set shows, a line a group."""
    groups: dict[bytes, list[str]] = defaultdict(list)
    for image in data.images:
        if image.file_name in digests:
            groups[digests[image.file_name]].append(image.file_name)
    return [" = ".join(names) for names in groups.values() if len(names) > 1]


def shared_content(first: Digests, second: Digests) -> list[str]:
    """Images of the second set that show what one of the first shows, a line each."""
    of_first = {digest: name for name, digest in first.items()}
    return [f"{name} = {of_first[digest]}" for name, digest in second.items() if digest in of_first]
