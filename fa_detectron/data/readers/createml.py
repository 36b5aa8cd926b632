"""Read CreateML JSON: a list of images with boxes whose x and y are those of the centre, in pixels."""

from fa_detectron.data.findings import PROBLEM, Findings
from fa_detectron.data.paths import Source
from fa_detectron.data.records import AnnotatedSet, ImageRecord, ReadOptions

from .builder import SetBuilder
from .json_file import objects, read_json
from .shapes import Box, numbers


def read_createml(source: Source, options: ReadOptions, findings: Findings) -> AnnotatedSet:
    """Read a CreateML JSON file; its classes are in alphabetical order.

    See :func:`fa_detectron.data.readers.read_annotated_set`.
    """
    builder = SetBuilder(source, options, findings)
    for index, item in enumerate(objects(read_json(source.path))):
        image = builder.image(item.get("image", item.get("imagefilename")), f"image {index}")
        if image:
            for number, annotation in enumerate(objects(item.get("annotations", item.get("annotation")))):
                builder.box(image, annotation.get("label"), _box(annotation.get("coordinates")), number)
    data = builder.finish()
    leaving = [(image, a) for image in data.images for a in image.annotations if min(a.box[0], a.box[1]) < -1]
    if leaving and all(_fits(image, _shifted(a.box)) for image in data.images for a in image.annotations):
        findings.say(
            PROBLEM,
            data.path,
            f"{len(leaving)} boxes leave their image, and none would if x and y were those of the upper left corner; "
            "CreateML's are those of the centre. Was the file written by another tool?",
        )
    return data


def _box(coordinates: object) -> Box | None:
    keys = ("x", "y", "width", "height")
    values = numbers(coordinates.get(key) for key in keys) if isinstance(coordinates, dict) else None
    if not values:
        return None
    x, y, width, height = values
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _shifted(box: Box) -> Box:
    """The box, if its centre was its upper left corner."""
    x1, y1, x2, y2 = box
    return (x1 + x2) / 2, (y1 + y2) / 2, x2 + (x2 - x1) / 2, y2 + (y2 - y1) / 2


def _fits(image: ImageRecord, box: Box) -> bool:
    return box[0] >= 0 and box[1] >= 0 and box[2] <= image.width and box[3] <= image.height
