"""One module per annotation format: each reads a :class:`Source` into an :class:`AnnotatedSet`, boxes unchecked."""

from collections.abc import Callable

from fa_detectron.data.findings import Findings
from fa_detectron.data.formats import FORMATS
from fa_detectron.data.fractions import refuse_fractions
from fa_detectron.data.image_list import check_image_list
from fa_detectron.data.paths import Source
from fa_detectron.data.records import AnnotatedSet, ReadOptions

from .coco import read_coco
from .createml import read_createml
from .csv_boxes import read_csv
from .cvat import read_cvat
from .label_studio import read_label_studio
from .labelme import read_labelme
from .labelme_xml import read_labelme_xml
from .via import read_via
from .voc import read_voc
from .yolo import read_yolo

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
        source: of :func:`fa_detectron.data.detection.parse_source`, which has told the format.
        options: see there.
        findings: gets what cannot be used, what looks wrong and what is worth knowing.

    Raises:
        UserError: a file is missing or broken; or an entry cannot be used and the findings are strict. Boxes are left
            as the files have them: see :func:`fa_detectron.data.checks.clean_boxes`.
    """
    data = _READERS[source.format](source, options, findings)
    check_image_list(data, options, findings)
    refuse_fractions(data, findings)
    data.format = FORMATS[source.format].title
    return data
