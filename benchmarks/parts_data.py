"""The data of benchmarks/parts.py: the built-in set with one large object an image, and splits by source photograph."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fa_detectron.data.builtin.dataset import scene_size
from fa_detectron.data.builtin.scenes import render_scene
from fa_detectron.errors import UserError

_LARGE = {"train": (3, 150), "val": (4, 150)}  # split: (seed, number of images)
_LARGE_RADII = (80.0, 125.0)  # pixels
_VAL_SHARE = 0.25  # of the photographs


def source_photograph(file_name: str) -> str:
    """What Roboflow names the copies of one photograph by: the file's name up to ``.rf.``."""
    return os.path.basename(file_name).split(".rf.")[0]


def make_large_objects(folder: Path) -> tuple[Path, Path]:
    """The built-in scenes with one large object each, of a single class; the COCO files of train and val."""
    files = folder / "train.json", folder / "val.json"
    for (seed, count), file in zip(_LARGE.values(), files):
        if file.exists():
            continue
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        (folder / file.stem).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            height, width = scene_size(index)
            scene = render_scene((seed, index), height, width, objects=1, radii=_LARGE_RADII)
            name = f"{file.stem}/{index:06d}.png"
            Image.fromarray(scene.image).save(folder / name, compress_level=1)
            images.append({"id": index + 1, "file_name": name, "height": height, "width": width})
            for x1, y1, x2, y2 in scene.boxes.tolist():
                box = {"id": len(annotations) + 1, "image_id": index + 1, "category_id": 1, "iscrowd": 0}
                annotations.append({**box, "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)})
        _write(file, {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "shape"}]})
    return files


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
