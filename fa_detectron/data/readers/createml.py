"""Read CreateML JSON: a list of images with boxes whose x and y are the centre, in pixels.

Some tools write the upper left corner instead. A file is read like this, with a warning, if x and y as the centre would
make a box leave its image by more than a pixel, and as the corner make none.
"""

from fa_detectron.data.findings import Findings
from fa_detectron.data.readers.builder import SetBuilder
from fa_detectron.data.readers.files import objects, read_json
from fa_detectron.data.readers.shapes import Box, numbers
from fa_detectron.data.records import AnnotatedSet, ImageRecord, ReadOptions
from fa_detectron.data.sources.source import Source


def read_createml(source: Source, options: ReadOptions, findings: Findings) -> AnnotatedSet:
    """Read a CreateML JSON file; its classes are in alphabetical order."""
    builder = SetBuilder(source, options, findings)
    for index, item in enumerate(objects(read_json(source.path))):
        image = builder.image(item.get("image", item.get("imagefilename")), f"image {index}")
        if image:
            for number, annotation in enumerate(objects(item.get("annotations", item.get("annotation")))):
                builder.box(image, annotation.get("label"), _box(annotation.get("coordinates")), number)
    data = builder.finish()
    annotations = [(image, annotation) for image in data.images for annotation in image.annotations]
    leaving = [image.where(annotation) for image, annotation in annotations if not _fits(image, annotation.box)]
    if leaving and all(_fits(image, _shifted(annotation.box)) for image, annotation in annotations):
        findings.problem(
            data.path,
            "boxes leave their image with x and y as their centre (CreateML), and none does with x and y as its upper "
            "left corner: all boxes of the file are read with x and y as their upper left corner",
            leaving,
            "Look at the boxes on the images before you train (fa-detectron check-data draws some).",
        )
        for _, shifted in annotations:
            shifted.box = _shifted(shifted.box)
    return data


def _box(coordinates: object) -> Box | None:
    keys = ("x", "y", "width", "height")
    values = numbers(coordinates.get(key) for key in keys) if isinstance(coordinates, dict) else None
    if not values:
        return None
    x, y, width, height = values
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _shifted(box: Box) -> Box:
    """The box whose upper left corner is the centre of ``box``."""
    x1, y1, x2, y2 = box
    return (x1 + x2) / 2, (y1 + y2) / 2, x2 + (x2 - x1) / 2, y2 + (y2 - y1) / 2


def _fits(image: ImageRecord, box: Box) -> bool:
    """Whether a box leaves its image by a pixel at most."""
    return box[0] >= -1 and box[1] >= -1 and box[2] <= image.width + 1 and box[3] <= image.height + 1
