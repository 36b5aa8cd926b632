"""A run needs its sets several times (classes, checks, training, each evaluation): their files are parsed once."""

import pickle

from .findings import Finding, Findings
from .paths import Source
from .readers import read_annotated_set
from .records import AnnotatedSet, ReadOptions

_parsed: dict[tuple[str, str, ReadOptions], tuple[bytes, list[Finding]]] = {}


def read_once(source: Source, options: ReadOptions, findings: Findings) -> AnnotatedSet:
    """What ``read_annotated_set`` gives, read by the first call; each caller gets a copy to change, and all findings.

    Raises:
        UserError: as ``read_annotated_set`` with strict findings.
    """
    key = (str(source), source.format, options)
    if key not in _parsed:
        found = Findings(strict=True)
        data = read_annotated_set(source, options, found)
        _parsed[key] = pickle.dumps(data), found.all
    content, found = _parsed[key]
    findings.add(found)
    return pickle.loads(content)


def forget_sets() -> None:
    """Have all sets read anew: another run starts, and files may have changed."""
    _parsed.clear()
