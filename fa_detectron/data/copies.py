"""Images that show the same thing: which must not stand on both sides of a split."""

import os
import re
from collections import defaultdict
from collections.abc import Iterable

from fa_detectron.data.images.scan import Digests
from fa_detectron.data.records import AnnotatedSet

# Roboflow names the copies that it makes of photo.jpg (augmented ones, too) "photo_jpg.rf.<32 hex digits>.jpg".
_ROBOFLOW = re.compile(r"^(.+)\.rf\.[0-9A-Za-z]{8,}$")


COPIES_ON_BOTH_SIDES = "images that are copies of a photograph of the training set (Roboflow's NAME.rf.HASH)"


def roboflow_source(file_name: str) -> str:
    """The name of the photograph that Roboflow made this file of; "" where the name is none of Roboflow's."""
    match = _ROBOFLOW.match(os.path.splitext(os.path.basename(file_name))[0])
    return match.group(1) if match else ""


def groups_of_copies(data: AnnotatedSet, digests: Digests) -> list[list[int]]:
    """The images of a set in groups that show the same: equal pixels, or copies by Roboflow of one photograph.

    Args:
        digests: of the pixels by file name (see image_scan); a file without one has no equal.

    Returns:
        Indices into ``data.images``, each in one group; groups in the order of their first image.
    """
    group_of = list(range(len(data.images)))

    def first(index: int) -> int:
        while group_of[index] != index:
            group_of[index] = group_of[group_of[index]]
            index = group_of[index]
        return index

    seen: dict[object, int] = {}
    for index, image in enumerate(data.images):
        source = roboflow_source(image.file_name)
        for key in (digests.get(image.file_name), source or None):
            if key is not None:
                a, b = first(seen.setdefault(key, index)), first(index)
                group_of[max(a, b)] = min(a, b)
    groups: dict[int, list[int]] = defaultdict(list)
    for index in range(len(data.images)):
        groups[first(index)].append(index)
    return list(groups.values())


def shared_sources(first: Iterable[str], second: Iterable[str]) -> list[str]:
    """Files of the second set that Roboflow made of a photograph which the first set has copies of, one line each."""
    of_first = {source: name for name in first if (source := roboflow_source(name))}
    return [f"{name} ~ {of_first[source]}" for name in second if (source := roboflow_source(name)) in of_first]
