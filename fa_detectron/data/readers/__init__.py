"""One module per annotation format: each reads a :class:`Source` into an :class:`AnnotatedSet`, boxes unchecked."""

from collections.abc import Callable

from fa_detectron.data.findings import Findings
from fa_detectron.data.image_list import check_image_list
from fa_detectron.data.paths import Source
from fa_detectron.data.records import AnnotatedSet, ReadOptions

from .coco import read_coco
from .voc import read_voc
from .yolo import read_yolo

_READERS: dict[str, Callable[[Source, ReadOptions, Findings], AnnotatedSet]] = {
    "coco": read_coco,
    "voc": read_voc,
    "yolo": read_yolo,
}


def read_annotated_set(source: Source, options: ReadOptions, findings: Findings) -> AnnotatedSet:
    """Read one set of any format.

    Args:
        source: of :func:`fa_detectron.data.paths.parse_source`, which has told the format.
        options: see there.
        findings: gets what cannot be used, what looks wrong and what is worth knowing.

    Raises:
        UserError: a file is missing or broken; or an entry cannot be used and the findings are strict. Boxes are left
            as the files have them: see :func:`fa_detectron.data.checks.clean_boxes`.
    """
    data = _READERS[source.format](source, options, findings)
    check_image_list(data, options, findings)
    return data
