"""Reading and checking a set as training does."""

from fa_detectron.data.checks.boxes import clean_boxes
from fa_detectron.data.findings import Findings
from fa_detectron.data.readers import read_annotated_set
from fa_detectron.data.records import AnnotatedSet, ReadOptions
from fa_detectron.data.sources.find import parse_source


def read(text: str, split: str = "train", images_root: str = "", findings: Findings | None = None, **options):
    """The set that ``--train TEXT`` names; the first refusal raises, unless ``findings`` collect them."""
    findings = findings or Findings(strict=True)
    return read_annotated_set(parse_source(text, split), ReadOptions(images_root, **options), findings)


def clean(data: AnnotatedSet, bad_boxes: str = "stop") -> list[str]:
    """Check the boxes; what there is to say of them."""
    clean_boxes(data, bad_boxes, findings := Findings(strict=True))
    return [str(finding) for finding in findings.all]
