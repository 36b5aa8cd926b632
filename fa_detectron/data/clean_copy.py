"""Write a set of any format as a clean COCO set: what can be used, and a list of the changes."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, count

from fa_detectron.data.checks.boxes import TINY, clean_boxes, repeated_boxes
from fa_detectron.data.checks.images import Scanned, has_annotated_size, scan_images
from fa_detectron.data.conversion import category_ids, to_coco_json
from fa_detectron.data.findings import Findings
from fa_detectron.data.images.pixels import ImageReader
from fa_detectron.data.read_once import read_once
from fa_detectron.data.records import AnnotatedSet, Annotation, ImageRecord, ReadOptions
from fa_detectron.data.sources.source import Source
from fa_detectron.errors import UserError
from fa_detectron.files import atomic_write, write_json

ANNOTATIONS, CHANGES = "_annotations.coco.json", "changes.txt"


def write_clean_copy(
    sources: dict[str, Source],
    options: ReadOptions,
    reader: ImageReader,
    folder: str,
    link: bool = False,
    bar: Callable[[Sequence], Iterable] = lambda items: items,
    scanned: Scanned | None = None,
) -> list[str]:
    """Write the splits of a set to FOLDER/SPLIT, images and annotations together, and the changes to changes.txt.

    Left out are entries and images that cannot be used, images of another size than annotated, boxes that cannot be
    clipped or have a side of a pixel or less, repeated boxes of an image, images with the pixels and boxes of another
    one in their split, and classes without a box. Boxes that leave their image are clipped.

    Args:
        sources: what to write, by split; the first one must be readable, unreadable others are left out.
        options, reader: how annotations and images are read.
        folder: absent or empty. It appears once everything in it is written.
        link: hard links to the images instead of copies; requires the same file system.
        bar, scanned: of :func:`scan_images`.

    Returns:
        One line per split about what was written.

    Raises:
        UserError: the set cannot be read, no image with a box is left, or the folder is not empty or cannot be written.
    """
    target = check_target(folder)
    sets, changes, left_out = {}, [], []
    for split, source in sources.items():
        try:
            sets[split], told = _clean(source, options, reader, bar, scanned)
        except UserError as error:
            if not sets:
                raise
            told = [f"left out, since it cannot be read: {error}", ""]
            left_out.append(f"{split}: {told[0]}")
        changes += [f"# {split}: {source}", "", *told]
    used = {a.label for data in sets.values() for image in data.images for a in image.annotations if not a.iscrowd}
    if not used:
        raise UserError(f"{next(iter(sources.values()))}: no image with a box is left, so there is nothing to write")
    known = list(dict.fromkeys(name for data in sets.values() for name in data.classes))
    if unused := [name for name in known if name not in used]:
        changes += [
            "# all splits",
            "",
            f"{len(unused)} classes without a box left out:",
            *map("  {}".format, unused),
            "",
        ]
    classes = [name for name in known if name in used]
    for data in sets.values():
        for image in data.images:
            image.annotations = [a for a in image.annotations if a.label in used]
    try:
        _write(target, sets, classes, changes, link)
    except OSError as error:
        advice = "; without --link the images are copied" if link else ""
        raise UserError(f"--write: {error.filename or target}: {error.strerror or error}{advice}") from error
    return [
        f"{split}: {len(data.images)} images, {sum(len(image.annotations) for image in data.images)} boxes, "
        f"{len(classes)} classes in {os.path.join(target, split)}"
        for split, data in sets.items()
    ] + left_out


def check_target(folder: str, outside: str = "") -> str:
    """The absolute path of a folder that can be written.

    Args:
        outside: a folder in which it must not be.

    Raises:
        UserError: it is in there, or exists and is not an empty folder.
    """
    target = os.path.abspath(os.path.expanduser(folder))
    if os.path.lexists(target) and (not os.path.isdir(target) or os.listdir(target)):
        raise UserError(f"--write: {target} is there, and not an empty folder; name another one")
    if outside and os.path.realpath(target).startswith(os.path.join(os.path.realpath(outside), "")):
        raise UserError(f"--write: {target} is inside the set; name a folder elsewhere")
    return target


def _clean(
    source: Source,
    options: ReadOptions,
    reader: ImageReader,
    bar: Callable[[Sequence], Iterable],
    scanned: Scanned | None,
) -> tuple[AnnotatedSet, list[str]]:
    """The usable part of a split, and the lines about what was found and changed."""
    findings = Findings()
    data = read_once(source, options, findings)
    clean_boxes(data, "clip", findings)
    digests = scan_images(data, reader, findings, bar, scanned)
    findings.problem(data.path, "boxes that an image has twice", repeated_boxes(data))
    for image in data.images:
        different = {(a.label, a.box, a.iscrowd): a for a in reversed(image.annotations)}
        image.annotations = [a for a in reversed(different.values()) if _is_larger_than_a_pixel(a)]
    data.images = [
        image
        for image in data.images
        if image.file_name in digests and has_annotated_size(image.file_name, image.width, image.height, reader)
    ]
    first: dict[tuple, ImageRecord] = {}
    for image in data.images:
        content = sorted((a.label, a.box, a.iscrowd) for a in image.annotations)
        first.setdefault((digests[image.file_name], repr(content)), image)
    kept = list(first.values())
    names = {id(image) for image in kept}
    copies = [image.file_name for image in data.images if id(image) not in names]
    findings.problem(data.path, "images with the pixels and the boxes of another one left out", copies)
    data.images = kept
    if not all(isinstance(image.image_id, int) for image in kept):
        for number, image in enumerate(kept, 1):
            image.image_id = number
    lines = [f"{finding.path}: {len(finding.items) or ''} {finding.what}" for finding in findings.all]
    return data, [
        part for line, finding in zip(lines, findings.all) for part in (line, *map("  {}".format, finding.items), "")
    ]


def _is_larger_than_a_pixel(annotation: Annotation) -> bool:
    x1, y1, x2, y2 = annotation.box
    return min(x2 - x1, y2 - y1) > TINY


def _write(target: str, sets: dict[str, AnnotatedSet], classes: list[str], changes: list[str], link: bool) -> None:
    """Write a temporary folder beside the target and rename it."""
    parent = os.path.dirname(target)
    os.makedirs(parent, exist_ok=True)
    making = tempfile.mkdtemp(dir=parent, prefix=f".{os.path.basename(target)}-")
    ids = list(category_ids(next(iter(sets.values())), classes).values())
    try:
        for split, data in sets.items():
            place = os.path.join(making, split)
            os.mkdir(place)
            names = _file_names(data)
            renamed = []
            for image, name in zip(data.images, names):
                (os.link if link else shutil.copyfile)(os.path.realpath(image.file_name), os.path.join(place, name))
                if name != os.path.basename(image.file_name):
                    renamed.append(f"  {image.file_name}: {name}")
            if renamed:
                changes += [
                    f"# {split}",
                    "",
                    f"{len(renamed)} images renamed, since others have their name:",
                    *renamed,
                    "",
                ]
            data.category_ids = None  # the same ids in all splits
            content = to_coco_json(data, classes, ids)
            for entry, name in zip(content["images"], names):
                entry["file_name"] = name
            write_json(os.path.join(place, ANNOTATIONS), content)
        with atomic_write(os.path.join(making, CHANGES)) as stream:
            stream.write("\n".join(changes).encode("utf-8", "backslashreplace").decode() or "nothing was changed\n")
        os.chmod(making, 0o755)
        if os.path.isdir(target):
            os.rmdir(target)
        os.rename(making, target)
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _file_names(data: AnnotatedSet) -> list[str]:
    """A name for each image, unique regardless of case: with the folder where necessary, then with a number."""
    taken: set[str] = {ANNOTATIONS.casefold()}
    names = []
    for image in data.images:
        folder, name = os.path.split(image.file_name)
        stem, suffix = os.path.splitext(name)
        longer = f"{os.path.basename(folder)}_{stem}"
        tries = chain([name, f"{longer}{suffix}"], (f"{longer}_{number}{suffix}" for number in count(2)))
        names.append(next(name for name in tries if name.casefold() not in taken))
        taken.add(names[-1].casefold())
    return names
