"""Reading XML of unknown origin: without a document type, in the encoding that the file declares."""

import codecs
from collections.abc import Iterable
from contextlib import suppress
from types import ModuleType
from xml.etree.ElementTree import Element, ParseError
from xml.sax import SAXException
from xml.sax.handler import ContentHandler

from fa_detectron.data.readers.text import xml_encoding
from fa_detectron.errors import UserError


def _defused() -> ModuleType:
    try:
        import defusedxml
        import defusedxml.ElementTree
        import defusedxml.sax
    except ImportError:
        raise UserError("XML files need the package defusedxml: pip install defusedxml (the extra 'xml')") from None
    return defusedxml


def parse_xml(path: str) -> Element:
    """Parse an XML file that has no document type: with one, a small file could grow to any size or read others.

    The file is read in the encoding that it declares, any that Python knows.

    Raises:
        UserError: no such file, not XML, or it declares a document type or an entity.
    """
    defused = _defused()
    try:
        with open(path, "rb") as stream:
            content: bytes | str = stream.read()
        if encoding := xml_encoding(content):
            content = content.decode(encoding)
        return defused.ElementTree.fromstring(content, forbid_dtd=True)
    except defused.DefusedXmlException:
        raise UserError(f"{path}: holds a document type (DTD) or entity, which is not accepted. Remove it.") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except (ParseError, ValueError, LookupError) as error:
        raise UserError(f"{path}: not valid XML: {error}") from error


def walk_xml(chunks: Iterable[bytes], handler: ContentHandler) -> None:
    """Pass the elements of an XML file to ``handler``, up to the first fault, of which :func:`parse_xml` tells.

    Args:
        chunks: the file's content in parts, from its beginning; the end may be missing.

    Raises:
        UserError: the package defusedxml is missing.
    """
    defused = _defused()
    parser, decode = defused.sax.make_parser(), None
    parser.setContentHandler(handler)
    with suppress(SAXException, defused.DefusedXmlException, ValueError, LookupError):
        for index, chunk in enumerate(chunks):
            if index == 0 and (encoding := xml_encoding(chunk)):
                decode = codecs.getincrementaldecoder(encoding)("replace").decode
            parser.feed(decode(chunk) if decode else chunk)
