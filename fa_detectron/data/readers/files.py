"""Text, JSON and XML files of unknown origin, in the encodings that other programs write."""

import codecs
import json
import re
from collections.abc import Iterable
from contextlib import suppress
from typing import Any
from xml.etree.ElementTree import Element, ParseError
from xml.sax import SAXException
from xml.sax.handler import ContentHandler

import defusedxml
import defusedxml.ElementTree
import defusedxml.sax

from fa_detectron.errors import UserError
from fa_detectron.files import read_bounded

_MOST_BYTES = 64 << 20
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_DECLARED = re.compile(rb"""(\xef\xbb\xbf)?\s*<\?xml[^>]*\bencoding\s*=\s*["']([\w.:-]+)["']""")
_WIDER = {"gb2312": "gb18030", "gbk": "gb18030"}  # supersets, for files that use more than they declare


def text_encoding(data: bytes) -> str:
    """The encoding of a text file from its first bytes: UTF-16 with a byte-order mark, else UTF-8."""
    return "utf-16" if data.startswith(_UTF16) else "utf-8-sig"


def read_text(path: str) -> str:
    """The content of a UTF-8 file, or of a UTF-16 file with a byte-order mark; the mark itself is left out.

    Raises:
        UserError: it cannot be read, is longer than 64 MiB, or is neither.
    """
    data = read_bounded(path, _MOST_BYTES)
    try:
        text = data.decode(text_encoding(data))
    except UnicodeDecodeError:
        raise UserError(f"{path}: the encoding is neither UTF-8 nor UTF-16; save the file as UTF-8") from None
    if "\0" in text:
        raise UserError(f"{path}: not a text file (it holds NUL characters); save it as UTF-8")
    return text


def read_json(path: str) -> Any:
    """The content of a JSON file in UTF-8, UTF-16 or UTF-32.

    Raises:
        UserError: it cannot be read, or is not JSON.
    """
    try:
        with open(path, "rb") as stream:
            return json.loads(stream.read())
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not valid JSON: {error.msg} (line {error.lineno}, column {error.colno})") from error
    except (UnicodeDecodeError, RecursionError, ValueError) as error:
        raise UserError(f"{path}: not valid JSON: {error}") from error


def objects(value: Any) -> list[dict[str, Any]]:
    """The JSON objects in a list; none where it is no list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def xml_encoding(data: bytes) -> str:
    """The encoding of an XML file from its first bytes, as Python calls it.

    Returns:
        "" where XML parsers find out themselves. Of encodings with more than one byte per character they know UTF-8
        and UTF-16 alone.
    """
    declared = _DECLARED.match(data[:200])
    if not declared:
        return ""
    name = declared[2].decode().lower()
    # A declaration that reads as ASCII is not UTF-16: .NET writes this one into UTF-8 files.
    if declared[1] or name.startswith(("utf-16", "utf16", "utf-32", "utf32", "ucs-2", "unicode")):
        return "utf-8-sig"
    return _WIDER.get(name, name)


def parse_xml(path: str) -> Element:
    """Parse an XML file that has no document type: with one, a small file could grow to any size or read others.

    The file is read in the encoding that it declares, any that Python knows.

    Raises:
        UserError: no such file, not XML, or it declares a document type or an entity.
    """
    try:
        with open(path, "rb") as stream:
            data = stream.read()
        encoding = xml_encoding(data)
        return defusedxml.ElementTree.fromstring(data.decode(encoding) if encoding else data, forbid_dtd=True)
    except defusedxml.DefusedXmlException:
        raise UserError(f"{path}: holds a document type (DTD) or entity, which is not accepted. Remove it.") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except (ParseError, ValueError, LookupError) as error:
        raise UserError(f"{path}: not valid XML: {error}") from error


def walk_xml(chunks: Iterable[bytes], handler: ContentHandler) -> None:
    """Pass the elements of an XML file to ``handler``, up to the first fault, of which :func:`parse_xml` tells.

    Args:
        chunks: the file's content in parts, from its beginning; the end may be missing.
    """
    parser, decode = defusedxml.sax.make_parser(), None
    parser.setContentHandler(handler)
    with suppress(SAXException, defusedxml.DefusedXmlException, ValueError, LookupError):
        for index, chunk in enumerate(chunks):
            if index == 0 and (encoding := xml_encoding(chunk)):
                decode = codecs.getincrementaldecoder(encoding)("replace").decode
            parser.feed(decode(chunk) if decode else chunk)
