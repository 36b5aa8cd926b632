"""One module per annotation format: each reads a :class:`Source` into an :class:`AnnotatedSet`, boxes unchecked."""

from collections.abc import Callable

from fa_detectron.data.checks.boxes import refuse_fractions
from fa_detectron.data.findings import Findings
from fa_detectron.data.readers.coco import read_coco
from fa_detectron.data.readers.createml import read_createml
from fa_detectron.data.readers.csv_boxes import read_csv
from fa_detectron.data.readers.cvat import read_cvat
from fa_detectron.data.readers.image_list import check_image_list
from fa_detectron.data.readers.label_studio import read_label_studio
from fa_detectron.data.readers.labelme import read_labelme
from fa_detectron.data.readers.labelme_xml import read_labelme_xml
from fa_detectron.data.readers.via import read_via
from fa_detectron.data.readers.voc import read_voc
from fa_detectron.data.readers.yolo.reader import read_yolo
from fa_detectron.data.records import AnnotatedSet, ReadOptions
from fa_detectron.data.sources.formats import FORMATS
from fa_detectron.data.sources.source import Source

_READERS: dict[str, Callable[[Source, ReadOptions, Findings], AnnotatedSet]] = {
    "coco": read_coco,
    "createml": read_createml,
    "csv": read_csv,
    "cvat": read_cvat,
    "label_studio": read_label_studio,
    "labelme": read_labelme,
    "labelme_xml": read_labelme_xml,
    "via": read_via,
    "voc": read_voc,
    "yolo": read_yolo,
}


def read_annotated_set(source: Source, options: ReadOptions, findings: Findings) -> AnnotatedSet:
    """Read one set of any format.

    Args:
        source: of :func:`fa_detectron.data.sources.find.parse_source`, which determines the format.
        options: how files are read.
        findings: gets what cannot be used, what looks wrong and what is worth knowing.

    Raises:
        UserError: a file is missing or broken; or an entry cannot be used and the findings are strict. Boxes stay as
            in the files: see :func:`fa_detectron.data.checks.boxes.clean_boxes`.
    """
    data = _READERS[source.format](source, options, findings)
    check_image_list(data, options, findings)
    refuse_fractions(data, findings)
    data.format = FORMATS[source.format].title
    return data
