"""Reading XML of unknown origin: without a document type, in the encoding that the file declares."""

import codecs
from collections.abc import Iterable
from contextlib import suppress
from xml.etree.ElementTree import Element, ParseError
from xml.sax import SAXException
from xml.sax.handler import ContentHandler

import defusedxml
import defusedxml.ElementTree
import defusedxml.sax

from fa_detectron.data.readers.text import xml_encoding
from fa_detectron.errors import UserError


def parse_xml(path: str) -> Element:
    """Parse an XML file that has no document type: with one, a small file could grow to any size or read others.

    The file is read in the encoding that it declares, any that Python knows.

    Raises:
        UserError: no such file, not XML, or it declares a document type or an entity.
    """
    try:
        with open(path, "rb") as stream:
            content: bytes | str = stream.read()
        if encoding := xml_encoding(content):
            content = content.decode(encoding)
        return defusedxml.ElementTree.fromstring(content, forbid_dtd=True)
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
