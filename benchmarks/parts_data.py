"""The data of benchmarks/parts.py and small_sets.py: rendered scenes, and splits by source photograph."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fa_detectron.data.builtin.dataset import scene_size
from fa_detectron.data.builtin.scenes import CLASS_NAMES, render_scene
from fa_detectron.errors import UserError

_LARGE = {"train": (3, 150), "val": (4, 150), "test": (5, 150)}  # split: (seed, number of images)
_BUILTIN_TEST = (6, 150)
_LARGE_RADII = (80.0, 125.0)  # pixels
_VAL_SHARE = 0.25  # of the photographs


def source_photograph(file_name: str) -> str:
    """What Roboflow names the copies of one photograph by: the file's name up to ``.rf.``."""
    return os.path.basename(file_name).split(".rf.")[0]


def make_large_objects(folder: Path) -> dict[str, Path]:
    """The built-in scenes with one large object each, of a single class; a split's COCO file each."""
    scene = {"objects": 1, "radii": _LARGE_RADII}
    return {
        split: _render(folder / f"{split}.json", seed, count, ("shape",), scene)
        for split, (seed, count) in _LARGE.items()
    }


def make_builtin_test(folder: Path) -> Path:
    """Scenes as in the built-in set, of another seed; the COCO file."""
    return _render(folder / "test.json", *_BUILTIN_TEST, CLASS_NAMES, {})


def _render(file: Path, seed: int, count: int, names: tuple[str, ...], options: dict[str, Any]) -> Path:
    """Write scenes beside ``file`` and their boxes into it, once; objects of all shapes are of the last class named."""
    if file.exists():
        return file
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    (folder := file.with_suffix("")).mkdir(parents=True, exist_ok=True)
    for index in range(count):
        height, width = scene_size(index)
        scene = render_scene((seed, index), height, width, **options)
        name = f"{file.stem}/{index:06d}.png"
        Image.fromarray(scene.image).save(folder.parent / name, compress_level=1)
        images.append({"id": index + 1, "file_name": name, "height": height, "width": width})
        for (x1, y1, x2, y2), label in zip(scene.boxes.tolist(), scene.classes.tolist()):
            category = min(label + 1, len(names))
            box = {"id": len(annotations) + 1, "image_id": index + 1, "category_id": category, "iscrowd": 0}
            annotations.append({**box, "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)})
    categories = [{"id": number, "name": name} for number, name in enumerate(names, 1)]
    _write(file, {"images": images, "annotations": annotations, "categories": categories})
    return file


def cut_by_photograph(source: Path, folder: Path) -> tuple[Path, Path]:
    """Cut a COCO file in two, all copies of a photograph on one side; the COCO files of train and val.

    The images stay where they are, beside ``source``.
    """
    files = folder / "train.json", folder / "val.json"
    if all(file.exists() for file in files):
        return files
    content = json.loads(source.read_text(encoding="utf-8"))
    names = sorted({source_photograph(image["file_name"]) for image in content["images"]})
    count = round(_VAL_SHARE * len(names))
    if not 0 < count < len(names):
        raise UserError(f"{source}: {len(names)} photographs are too few to cut a validation split from")
    val = {names[i] for i in np.random.RandomState(0).permutation(len(names))[:count]}
    for file, wanted in zip(files, (False, True)):
        images = [x for x in content["images"] if (source_photograph(x["file_name"]) in val) == wanted]
        ids = {x["id"] for x in images}
        annotations = [x for x in content["annotations"] if x["image_id"] in ids]
        _write(file, {**content, "images": images, "annotations": annotations})
    return files


def _write(file: Path, content: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(".partial")
    unfinished.write_text(json.dumps(content), encoding="utf-8")
    os.replace(unfinished, file)
