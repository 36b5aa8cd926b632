"""The outline of an annotation file, from its beginning: large files are not read completely."""

import codecs
import csv
import json
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple
from xml.sax.handler import ContentHandler
from xml.sax.xmlreader import AttributesImpl

from fa_detectron.data.readers.files import text_encoding, walk_xml
from fa_detectron.errors import UserError

_READ = 1 << 20  # bytes from the beginning of a file
_TOKEN = re.compile(r'"([^"\\]*(?:\\.[^"\\]*)*)"(\s*:)?|[{}\[\]]', re.DOTALL)


class Glance(NamedTuple):
    """The outline of a file.

    Attributes:
        kind: "json", "xml" or "text".
        top: JSON: "object" or "list"; XML: the root's tag.
        keys: JSON: the keys of the outermost object; XML: the tags below the root; text: the fields of the first line.
        inner: JSON: the keys of the objects one level deeper; XML: the tags two levels below the root, and "@NAME" for
            the attributes of the elements below the root.
    """

    kind: str
    top: str = ""
    keys: frozenset[str] = frozenset()
    inner: frozenset[str] = frozenset()


def glance(path: str) -> Glance:
    """The outline of a file.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb") as stream:
        data = stream.read(_READ)
    first = data.lstrip(codecs.BOM_UTF8 + b" \t\r\n\0\xff\xfe")[:1]
    if first in (b"{", b"["):
        return _json_outline(data.decode(json.detect_encoding(data), "replace"))
    if first == b"<":
        found = _outline([data])
        return Glance("xml", found.top, frozenset(found.keys), frozenset(found.inner))
    try:
        fields = next(csv_rows(path, data.decode(text_encoding(data), "replace").lstrip().splitlines()[:1]), [])
    except UserError:
        fields = []
    return Glance("text", keys=frozenset(fields))


def csv_rows(path: str, lines: list[str]) -> Iterator[list[str]]:
    """The rows of a CSV file, stripped. The delimiter is the most frequent of comma, semicolon and tab in line 1.

    Raises:
        UserError: a row cannot be read.
    """
    delimiter = max(",;\t", key=lines[0].count) if lines else ","
    try:
        for row in csv.reader(lines, delimiter=delimiter, skipinitialspace=True):
            yield [field.strip() for field in row]
    except csv.Error as error:
        raise UserError(f"{path}: not a CSV file: {error}") from None


def _json_outline(text: str) -> Glance:
    depth, keys = 0, {1: set(), 2: set()}
    top = ""
    for token in _TOKEN.finditer(text):
        if token[0][0] in "{[":
            top = top or ("object" if token[0] == "{" else "list")
            depth += 1
        elif token[0][0] in "}]":
            depth -= 1
        elif token[2] and depth in keys:
            keys[depth].add(token[1])
    return Glance("json", top, frozenset(keys[1]), frozenset(keys[2]))


class _Outline(ContentHandler):
    def __init__(self) -> None:
        super().__init__()
        self.depth, self.top = 0, ""
        self.keys: set[str] = set()
        self.inner: set[str] = set()
        self.subsets: set[str] = set()  # of CVAT's images

    def startElement(self, name: str, attrs: AttributesImpl) -> None:
        if self.depth == 0:
            self.top = name
        elif self.depth == 1:
            self.keys.add(name)
            if name == "image":
                self.subsets.add(attrs.get("subset", "default"))
            self.inner.update(f"@{key}" for key in attrs.getNames())
        elif self.depth == 2:
            self.inner.add(name)
        self.depth += 1

    def endElement(self, name: str) -> None:
        self.depth -= 1


def _outline(chunks: Iterable[bytes]) -> _Outline:
    walk_xml(chunks, outline := _Outline())
    return outline


def cvat_subsets(path: str) -> set[str]:
    """The subsets of the images in a CVAT XML file; CVAT calls the subset of images without one "default"."""
    with open(path, "rb") as stream:
        return _outline(iter(lambda: stream.read(_READ), b"")).subsets
