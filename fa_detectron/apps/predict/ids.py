"""The image and category ids of result files: those of the user's own annotations where they are known."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fa_detectron.data.checks.classes import select_classes
from fa_detectron.data.conversion import category_ids
from fa_detectron.data.findings import Findings, listing
from fa_detectron.data.readers import read_annotated_set
from fa_detectron.data.records import ReadOptions
from fa_detectron.data.sources.find import parse_source
from fa_detectron.errors import UserError
from fa_detectron.inference.run import Run


@dataclass(frozen=True)
class ResultIds:
    """The ids for detections in some image files.

    Attributes:
        images: a tuple for each file; several ids where the annotations list the file several times.
        categories: K ids, by class number.
        origin: where the image ids are from, in words.
    """

    images: Sequence[tuple[int | str, ...]]
    categories: tuple[int, ...]
    origin: str


def result_ids(run: Run, paths: Sequence[str], data: str = "", images: str = "") -> ResultIds:
    """The ids for detections in ``paths``.

    Args:
        run: its category ids serve images without annotations.
        paths: image files.
        data: a set, named as --val is, that lists all the images; "" takes the run's validation set if that does, and
            else :func:`image_ids` numbers them.
        images: the folder of the images of ``data``, where they do not lie beside it.

    Raises:
        UserError: ``data`` is broken, or does not list one of the images.
    """
    numbers = image_ids(paths)
    origin = "0, 1, ..., in the order of the images" if numbers == list(range(len(paths))) else "the files' names"
    counted = ResultIds([(number,) for number in numbers], run.category_ids, origin)
    settings = run.cfg.DATASETS
    own = settings.VAL_PATH or (settings.TRAIN_PATH if settings.VAL_IMAGES else "")  # held out of the training set
    if not data and not own:
        return counted
    try:
        source = parse_source(data or own, "val")
        options = replace(ReadOptions.from_config(run.cfg), **({"images_root": images} if data else {}))
        found = read_annotated_set(source, options, Findings(strict=True))
    except UserError:
        if data:
            raise
        return counted  # the run's data need not be here
    by_file: dict[str, tuple[int | str, ...]] = {}
    for image in found.images:
        place = _place(image.file_name)
        by_file[place] = (*by_file.get(place, ()), image.image_id)
    missing = [path for path in paths if _place(path) not in by_file]
    if missing:
        if data:
            raise UserError(f"--data {data}: {len(missing)} images that it does not list:\n{listing(missing)}")
        return counted
    select_classes(found, settings.KEEP_CLASSES, settings.SINGLE_CLASS, Findings())
    categories = tuple(category_ids(found, run.class_names, run.category_ids).values())
    return ResultIds([by_file[_place(path)] for path in paths], categories, f"those of {source}")


def _place(path: str) -> str:
    """The file behind linked folders; a file that is a link itself is an image of its own."""
    folder, name = os.path.split(os.path.abspath(path))
    return os.path.join(os.path.realpath(folder), name)


def image_ids(paths: Sequence[str]) -> list[int]:
    """COCO's image ids: the numbers that are the files' names (000000397133.jpg) if all are distinct, else 0, 1, ..."""
    stems = [Path(path).stem for path in paths]
    if all(stem.isascii() and stem.isdigit() for stem in stems):
        numbers = [int(stem) for stem in stems]
        if len(set(numbers)) == len(numbers):
            return numbers
    return list(range(len(paths)))
