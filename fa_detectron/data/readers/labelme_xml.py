"""Read the XML of the LabelMe web tool: one file per image, with polygons in pixels.

Polygons (including rectangles) and the boxes of masks count; deleted objects do not.
"""

import os
from xml.etree.ElementTree import Element

from fa_detectron.data.findings import Findings
from fa_detectron.data.readers.builder import SetBuilder
from fa_detectron.data.readers.files import parse_xml
from fa_detectron.data.readers.labelme import files_below
from fa_detectron.data.readers.shapes import Box, hull
from fa_detectron.data.records import AnnotatedSet, ReadOptions
from fa_detectron.data.sources.source import Source
from fa_detectron.errors import UserError


def read_labelme_xml(source: Source, options: ReadOptions, findings: Findings) -> AnnotatedSet:
    """Read a folder of LabelMe XML files; its classes are in alphabetical order."""
    builder = SetBuilder(source, options, findings, ("Images", "images", ""))
    for path in files_below(source.path, ".xml"):
        try:
            root = parse_xml(path)
        except UserError as error:
            builder.refuse("files that cannot be read", str(error))
            continue
        if root.tag != "annotation":
            builder.note("XML files that are not LabelMe's (<annotation>)", path)
            continue
        folder, name = (root.findtext("folder") or "").strip(), (root.findtext("filename") or "").strip()
        size = (root.findtext("imagesize/ncols"), root.findtext("imagesize/nrows"))
        image = builder.image(os.path.join(folder, name) if name else "", path, size, file=path, otherwise=[name])
        for index, item in enumerate(root.iterfind("object") if image else ()):
            if not builder.mark(item.findtext("deleted"), "deleted", f"object {index} in {path}"):
                builder.box(image, item.findtext("name"), _box(item), index)
    return builder.finish()


def _box(item: Element) -> Box | None:
    corners = item.find("segm/box")
    if corners is not None:
        return hull(
            [(corners.findtext("xmin"), corners.findtext("ymin")), (corners.findtext("xmax"), corners.findtext("ymax"))]
        )
    return hull([(point.findtext("x"), point.findtext("y")) for point in item.iterfind("polygon/pt")])
