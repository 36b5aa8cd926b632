"""A checked set as Detectron2's dataset dicts and as the content of a COCO file."""

import itertools
from collections.abc import Sequence
from typing import Any

from detectron2.structures import BoxMode

from fa_detectron.data.records import AnnotatedSet


def to_dataset_dicts(data: AnnotatedSet, class_names: Sequence[str]) -> list[dict[str, Any]]:
    """Detectron2's dataset dicts of a checked set."""
    number = {name: i for i, name in enumerate(class_names)}
    return [
        {
            "file_name": image.file_name,
            "image_id": image.image_id,
            "height": image.height,
            "width": image.width,
            "annotations": [
                {
                    "bbox": list(annotation.box),
                    "bbox_mode": BoxMode.XYXY_ABS,
                    "category_id": number[annotation.label],
                    "iscrowd": annotation.iscrowd,
                }
                for annotation in image.annotations
            ],
        }
        for image in data.images
    ]


def category_ids(
    data: AnnotatedSet, class_names: Sequence[str], run_ids: Sequence[int | str] = ()
) -> dict[str, int | str]:
    """The category ids of the model's classes, in their order: those of the set's own file.

    A class that the file does not list has the id of the training set, ``run_ids`` (DATASETS.CATEGORY_IDS), unless the
    file uses it for another class. Classes without an id (Pascal VOC and YOLO have none) are counted from 1.
    """
    own = dict(zip(data.classes, data.category_ids or (), strict=data.category_ids is not None))
    for name, number in zip(class_names, run_ids, strict=bool(run_ids)):
        if number not in own.values():
            own.setdefault(name, number)
    free = (number for number in itertools.count(1) if number not in own.values())
    return {name: own[name] if name in own else next(free) for name in class_names}


def to_coco_json(data: AnnotatedSet, class_names: Sequence[str], run_ids: Sequence[int | str] = ()) -> dict[str, Any]:
    """A checked set as the content of a COCO file; image and category ids are the set's (:func:`category_ids`)."""
    number = category_ids(data, class_names, run_ids)
    annotations: list[dict[str, Any]] = []
    for image in data.images:
        for annotation in image.annotations:
            x1, y1, x2, y2 = annotation.box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image.image_id,
                    "category_id": number[annotation.label],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": annotation.area or (x2 - x1) * (y2 - y1),
                    "iscrowd": annotation.iscrowd,
                }
            )
    images = [{"id": i.image_id, "file_name": i.file_name, "width": i.width, "height": i.height} for i in data.images]
    return {
        "info": {"description": data.path},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for name, i in number.items()],
    }
