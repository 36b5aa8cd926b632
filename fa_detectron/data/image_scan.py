"""Read every image of a set once: whether it can be read, its size, and a hash of its pixels."""

import hashlib
import os
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from fa_detectron.errors import UserError
from fa_detectron.image_files import open_image

from .checks import image_problem, report_images, seen_size, size_problem
from .findings import Findings
from .records import AnnotatedSet

Digests = dict[str, bytes]  # file name: hash of what the image shows


def scan_images(
    data: AnnotatedSet, findings: Findings, bar: Callable[[Sequence], Iterable] = lambda items: items
) -> Digests:
    """Complain of images that cannot be read or have another size than annotated.

    Args:
        data: the set; every file is read whole, once.
        bar: wraps the walk over the images, to show how far it is.

    Returns:
        A hash of the pixels (as RGB) of each readable image: two files of the same pixels agree, whatever their names,
        metadata and compression (as long as it loses nothing).
    """
    files = list(dict.fromkeys(image.file_name for image in data.images))
    digests: Digests = {}
    sizes: dict[str, tuple[int, int]] = {}
    unreadable = []
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:  # decoding and hashing release the interpreter lock
        for name, result in bar(list(zip(files, [pool.submit(_read, name) for name in files]))):
            try:
                sizes[name], digests[name] = result.result()
            except UserError as error:
                unreadable.append(str(error))
    differing = []
    for image in data.images:
        if image.file_name in sizes:
            problem = size_problem(image.file_name, sizes[image.file_name], image.width, image.height)
            differing += [problem] if problem else []
    report_images(data.path, unreadable, differing, findings)
    return digests


def _read(name: str) -> tuple[tuple[int, int], bytes]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, over large images and odd metadata
            size = seen_size(name)
            with open_image(name) as image:
                pixels = image.convert("RGB")
    except UserError:
        raise
    except Exception as error:  # Pillow's decoders raise many types on broken files
        raise UserError(f"{name}: {image_problem(error)}") from None
    digest = hashlib.blake2b(repr(pixels.size).encode(), digest_size=16)
    digest.update(pixels.tobytes())
    return size, digest.digest()


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
