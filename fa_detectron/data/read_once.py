"""A run needs its sets several times (classes, checks, training, each evaluation): their files are parsed once."""

import pickle

from .detection import parse_source
from .findings import Finding, Findings
from .readers import read_annotated_set
from .records import AnnotatedSet, ReadOptions

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
