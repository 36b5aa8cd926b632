"""A run needs its sets several times (classes, checks, training, each evaluation): their files are parsed once."""

import pickle

from fa_detectron.data.findings import Finding, Findings
from fa_detectron.data.readers import read_annotated_set
from fa_detectron.data.records import AnnotatedSet, ReadOptions
from fa_detectron.data.sources.find import parse_source
from fa_detectron.data.sources.source import Source
from fa_detectron.errors import UserError

_sources: dict[tuple[str, str], Source] = {}
_sets: dict[tuple[Source, ReadOptions], tuple[bytes | UserError, list[Finding]]] = {}


def source_of(text: str, default_split: str) -> Source:
    """:func:`parse_source`, once per path. Raises UserError as it does."""
    key = (text, default_split)
    if key not in _sources:
        _sources[key] = parse_source(text, default_split)
    return _sources[key]


def read_once(source: Source, options: ReadOptions, findings: Findings) -> AnnotatedSet:
    """The set, parsed by the first call; each caller gets its own copy, and all findings.

    Raises:
        UserError: as ``read_annotated_set`` does.
    """
    key = (source, options)
    if key not in _sets:
        found = Findings()
        result: bytes | UserError
        try:
            result = pickle.dumps(read_annotated_set(source, options, found))
        except UserError as error:
            result = error
        _sets[key] = result, found.all
    result, all_found = _sets[key]
    findings.add(all_found)
    if isinstance(result, UserError):
        raise result
    return pickle.loads(result)


def forget_sets() -> None:
    """Have all sets read anew: another run starts, and files may have changed."""
    _sources.clear()
    _sets.clear()
