"""Small sets as annotation tools write them."""

import json
from pathlib import Path
from typing import Any

from PIL import Image


def image(path: Path, width: int = 64, height: int = 48, shade: int = 90) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (shade, 90, 90)).save(path)


def write(path: Path, content: Any) -> str:
    """A text as it is, anything else as JSON; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return str(path)


def boxes(data) -> dict[str, list[tuple]]:
    """{file name: [(class, box rounded to a hundredth)]} of a set that was read."""
    return {
        Path(item.file_name).name: [(a.label, tuple(round(v, 2) for v in a.box)) for a in item.annotations]
        for item in data.images
    }


def label_studio_region(box, labels, kind="rectanglelabels", size=(64, 48), rotation=0, **more) -> dict[str, Any]:
    """A region of Label Studio; box is (x, y, width, height) in percent."""
    value = {**dict(zip(("x", "y", "width", "height"), box)), "rotation": rotation, kind: labels}
    sides = {"original_width": size[0], "original_height": size[1], "image_rotation": 0}
    return {"id": "r1", "type": kind, "from_name": "label", "to_name": "image", **sides, "value": value, **more}


def label_studio_task(number: int, name: str, *regions, **more) -> dict[str, Any]:
    annotation = {"id": number, "was_cancelled": False, "ground_truth": False, "result": list(regions)}
    return {"id": number, "data": {"image": name}, "annotations": [annotation], "predictions": [], **more}


def labelme_file(name: str, *shapes, size=(64, 48), **more) -> dict[str, Any]:
    """LabelMe's JSON; a shape is (label, shape_type, points) or a dict."""
    keys = ("label", "shape_type", "points")
    full = [{"group_id": None, "flags": {}, **(s if isinstance(s, dict) else dict(zip(keys, s)))} for s in shapes]
    sides = {"imageHeight": size[1], "imageWidth": size[0]}
    return {"version": "5.4.1", "flags": {}, "shapes": full, "imagePath": name, "imageData": None, **sides, **more}


def cvat_xml(body: str, labels=("cat", "dog"), meta: str = "") -> str:
    names = "".join(f"<label><name>{name}</name><type>any</type></label>" for name in labels)
    return (
        f'<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version><meta><task><name>t</name>'
        f"<labels>{names}</labels>{meta}</task></meta>{body}</annotations>"
    )
