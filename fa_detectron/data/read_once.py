"""A run needs its sets several times (classes, checks, training, each evaluation): their files are parsed once."""

import pickle

from fa_detectron.data.findings import Finding, Findings
from fa_detectron.data.readers import read_annotated_set
from fa_detectron.data.records import AnnotatedSet, ReadOptions
from fa_detectron.data.sources.find import parse_source

_parsed: dict[tuple[str, str, ReadOptions], tuple[bytes, list[Finding]]] = {}


def read_once(text: str, default_split: str, options: ReadOptions, findings: Findings) -> AnnotatedSet:
    """The set that ``text`` names, as ``parse_source`` takes it, told and read by the first call.

    Each caller gets a copy to change, and all findings.

    Raises:
        UserError: as ``parse_source``, and ``read_annotated_set`` with strict findings.
    """
    key = (text, default_split, options)
    if key not in _parsed:
        found = Findings(strict=True)
        data = read_annotated_set(parse_source(text, default_split), options, found)
        _parsed[key] = pickle.dumps(data), found.all
    content, found = _parsed[key]
    findings.add(found)
    return pickle.loads(content)


def forget_sets() -> None:
    """Have all sets read anew: another run starts, and files may have changed."""
    _parsed.clear()
