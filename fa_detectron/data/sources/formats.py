"""The annotation formats: their names, and how the outline of a file tells them apart."""

from collections.abc import Callable
from typing import NamedTuple

from fa_detectron.data.readers.csv_columns import coordinates_missing, file_column
from fa_detectron.data.sources.outline import Glance
from fa_detectron.data.values import number


class Format(NamedTuple):
    """One annotation format.

    Attributes:
        title: as in "read as CVAT XML".
        looked_for: how it is recognised, for the message that no format was.
        matches: whether a file has this format; None if it is recognised by its folders.
        per_image: a file holds one image, so the set is the folder of such files.
    """

    title: str
    looked_for: str
    matches: Callable[[Glance], bool] | None = None
    per_image: bool = False


def _is_json(top: str, *keys: str) -> Callable[[Glance], bool]:
    """JSON of this outermost type with at least one of the ``keys``."""

    def matches(g: Glance) -> bool:
        found = g.keys if top == "object" else g.inner
        return g.kind == "json" and g.top == top and not found.isdisjoint(keys)

    return matches


def _is_via(g: Glance) -> bool:
    return (
        g.kind == "json" and g.top == "object" and ("_via_img_metadata" in g.keys or {"filename", "regions"} <= g.inner)
    )


def _is_createml(g: Glance) -> bool:
    has_image, has_boxes = {"image", "imagefilename"} & g.inner, {"annotations", "annotation"} & g.inner
    return g.kind == "json" and g.top == "list" and bool(has_image and has_boxes) and "data" not in g.inner


def _is_label_studio(g: Glance) -> bool:
    tasks = "data" in g.inner and not g.inner.isdisjoint(("annotations", "completions", "predictions"))
    return g.kind == "json" and g.top == "list" and (tasks or not g.inner.isdisjoint(("annotation_id", "annotator")))


def _is_labelme_xml(g: Glance) -> bool:
    marks = "imagesize" in g.keys or not g.inner.isdisjoint(("polygon", "sourceImage"))
    return g.top == "annotation" and marks and "bndbox" not in g.inner  # Roboflow's VOC has <polygon> beside <bndbox>


def _is_csv(g: Glance) -> bool:
    return g.kind == "text" and bool(file_column(g.keys)) and not coordinates_missing(g.keys)


def _is_via_csv(g: Glance) -> bool:
    return {"filename", "region_shape_attributes", "region_attributes"} <= g.keys


# The formats of all readers, in the order of the message; the first one that matches a file counts.
FORMATS: dict[str, Format] = {
    "voc": Format(
        "Pascal VOC",
        "ImageSets/Main/SPLIT.txt, or a folder of XML files <annotation> with <bndbox>",
        lambda g: g.top == "annotation" and not _is_labelme_xml(g),
        per_image=True,
    ),
    "yolo": Format("YOLO", "data.yaml, or images/ and labels/ with a .txt file an image"),
    "label_studio": Format(
        "Label Studio JSON", "a list of tasks with 'data' and 'annotations', or its JSON-MIN", _is_label_studio
    ),
    "createml": Format("CreateML JSON", "a list of objects with 'image' and 'annotations'", _is_createml),
    "via": Format("VIA", "JSON or CSV with 'filename' and 'regions'", lambda g: _is_via(g) or _is_via_csv(g)),
    "labelme": Format(
        "LabelMe JSON", "a folder of JSON files with 'shapes'", _is_json("object", "shapes"), per_image=True
    ),
    "coco": Format(
        "COCO JSON",
        "an object with 'images', 'annotations' and 'categories'",
        _is_json("object", "images", "annotations"),
    ),
    "cvat": Format(
        "CVAT XML", "<annotations> with <image> or <track>", lambda g: g.top == "annotations" and g.kind == "xml"
    ),
    "labelme_xml": Format(
        "LabelMe XML", "a folder of XML files <annotation> with <polygon>", _is_labelme_xml, per_image=True
    ),
    "csv": Format("CSV", "a header with columns such as filename,xmin,ymin,xmax,ymax,class", _is_csv),
}


def format_of(g: Glance) -> str:
    """The key in FORMATS of a file's format, "" if there is none."""
    return next((key for key, known in FORMATS.items() if known.matches and known.matches(g)), "")


def refusal_of(g: Glance) -> str:
    """What a file of no format in FORMATS is, if it is known to have no boxes; "" if it is unknown."""
    if g.kind == "json" and g.top == "list" and {"image_id", "category_id"} <= g.inner:
        return "a list of detections (COCO results), which has no ground truth"
    if g.kind == "json" and {"project", "view", "metadata"} <= g.keys:
        return "a VIA 3 project; export the annotations of VIA 2, or COCO"
    if g.kind != "text":
        return ""
    if sum(number(field) is not None for field in g.keys) > 1:
        return (
            "a table without a header; add one as the first line, in the order of the columns: "
            "filename,xmin,ymin,xmax,ymax,class"
        )
    missing = coordinates_missing(g.keys)
    if file_column(g.keys) and len(missing) < 5:
        return f"a CSV file whose header lacks {', '.join(missing)}"
    if file_column(g.keys):
        return (
            "a table of labels an image (multi-label classification), which has no boxes; export the set in a format "
            "for object detection, such as COCO"
        )
    return ""
