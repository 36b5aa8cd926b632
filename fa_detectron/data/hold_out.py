"""A validation set held out of the training set: stratified by class, reproducible, copies kept on one side."""

import os
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from fa_detectron.data.checks.images import Digests
from fa_detectron.data.findings import Findings
from fa_detectron.data.records import AnnotatedSet, ImageRecord
from fa_detectron.errors import UserError

# Roboflow names the copies that it makes of photo.jpg (augmented ones, too) "photo_jpg.rf.<32 hex digits>.jpg".
_ROBOFLOW = re.compile(r"^(.+)\.rf\.[0-9A-Za-z]{8,}$")
COPIES_ON_BOTH_SIDES = "images that are copies of a photograph of the training set (Roboflow's NAME.rf.HASH)"
_IMAGES = "\0images"  # no class has this name


def roboflow_source(file_name: str) -> str:
    """The name of the photograph of which Roboflow made this file; "" if the name is not Roboflow's."""
    match = _ROBOFLOW.match(os.path.splitext(os.path.basename(file_name))[0])
    return match.group(1) if match else ""


def groups_of_copies(data: AnnotatedSet, digests: Digests) -> list[list[int]]:
    """The images of a set in groups with the same content: equal pixels, or Roboflow's copies of one photograph.

    Args:
        digests: of :func:`scan_images`; a file without one is equal to no other.

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
    """Files of the second set that are Roboflow's copies of a photograph with copies in the first, one line each."""
    of_first = {source: name for name in first if (source := roboflow_source(name))}
    return [f"{name} ~ {of_first[source]}" for name in second if (source := roboflow_source(name)) in of_first]


def image_names(data: AnnotatedSet) -> list[str]:
    """The images' file names relative to their common folder, with "/" between folders."""
    files = [image.file_name for image in data.images]
    root = os.path.commonpath([os.path.dirname(file) for file in files]) if files else ""
    return [os.path.relpath(file, root).replace(os.sep, "/") for file in files]


def keep_part(data: AnnotatedSet, held_out: Sequence[str], validation: bool, findings: Findings) -> None:
    """Reduce the set to one side of a split (in place).

    Args:
        held_out: the validation images, by :func:`image_names`.
        validation: keep these, else all others.

    Raises:
        UserError: the set has none of them, so that the split belongs to another set.
    """
    held, names = set(held_out), image_names(data)
    gone = sorted(held - set(names))
    if len(gone) == len(held):  # the training side would silently take the held-out images
        raise UserError(
            f"{data.path}: has none of the {len(held)} images of DATASETS.VAL_IMAGES, such as {gone[0]}. Is it "
            "another set, or were files moved? Start a new run, or name a validation set with --val."
        )
    findings.problem(data.path, "images of DATASETS.VAL_IMAGES that are no longer in the set", gone)
    data.images = [image for image, name in zip(data.images, names) if (name in held) == validation]


def hold_out(data: AnnotatedSet, digests: Digests, fraction: float, seed: int) -> tuple[str, ...]:
    """Choose the validation images of a set.

    Each class is divided in proportion as far as the groups of copies allow; nothing is held out of a class with a
    single group. The method is iterative stratification (Sechidis et al., 2011): the rarest class first, each group to
    the side that lacks most of it.

    Args:
        data: with checked boxes.
        digests: of the images' pixels, to keep equal ones together.
        fraction: of the images, above 0 and below 1.
        seed: for the order in which equally good groups are taken.

    Returns:
        Their :func:`image_names`, sorted; () if fewer than two groups have a box, so that one side would have none.
    """
    groups = groups_of_copies(data, digests)
    if sum(any(_labels(data.images[i]) for i in group) for group in groups) < 2:
        return ()
    random.Random(seed).shuffle(groups)
    counts = [_images_with(label_sets) for label_sets in ([_labels(data.images[i]) for i in g] for g in groups)]
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    # [training, validation]; the images themselves count as a class, taken last: it places the background images.
    missing = [Counter({key: total[key] * share for key in total}) for share in (1 - fraction, fraction)]
    waiting = dict(enumerate(counts))
    left = Counter(total)
    held_out: list[int] = []
    while waiting:
        rarest = min((key for key in left if left[key]), key=lambda key: (key == _IMAGES, left[key], key))
        for index in sorted((i for i in waiting if rarest in waiting[i]), key=lambda i: -waiting[i][rarest]):
            count = waiting.pop(index)
            left.subtract(count)
            need = [(missing[side][rarest], missing[side][_IMAGES], -side) for side in (0, 1)]
            side = int(need[1] > need[0])
            missing[side].subtract(count)
            if side:
                held_out.append(index)
    with_box = [i for i in range(len(groups)) if len(counts[i]) > 1]
    if not set(with_box) & set(held_out):  # a small fraction, or few groups
        held_out.append(min(with_box, key=lambda i: (len(groups[i]), i)))
    if set(with_box) <= set(held_out):
        held_out.remove(max(with_box, key=lambda i: (len(groups[i]), -i)))
    names = image_names(data)
    return tuple(sorted(names[i] for index in held_out for i in groups[index]))


def _labels(image: ImageRecord) -> set[str]:
    return {annotation.label for annotation in image.annotations if not annotation.iscrowd}


def _images_with(label_sets: Sequence[set[str]]) -> Counter:
    """The number of images of a group with each class, and the number of all its images."""
    return Counter({_IMAGES: len(label_sets)}) + Counter(label for labels in label_sets for label in labels)
