"""Text files as other programs write them."""

import codecs
import re

from fa_detectron.errors import UserError
from fa_detectron.files import read_bounded

_MOST_BYTES = 64 << 20
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_DECLARED = re.compile(rb"""(\xef\xbb\xbf)?\s*<\?xml[^>]*\bencoding\s*=\s*["']([\w.:-]+)["']""")
_WIDER = {"gb2312": "gb18030", "gbk": "gb18030"}  # supersets, for files that use more than they declare


def text_encoding(data: bytes) -> str:
    """The encoding of a text file from its first bytes: UTF-16 with a byte-order mark, else UTF-8."""
    return "utf-16" if data.startswith(_UTF16) else "utf-8-sig"


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
