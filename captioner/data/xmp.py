"""XMP files of photo archives: a description and an alternative text are put in, everything else stays.

ISO 16684-1 (XMP part 1); the properties are Dublin Core's ``dc:description`` and IPTC's ``AltTextAccessibility``
(IPTC Photo Metadata Standard 2021.1), both language alternatives, here in ``x-default``.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.dom.minidom import Document, Element, parseString
from xml.parsers.expat import ExpatError

from captioner.data.sidecars import SIDECARS, Join
from captioner.errors import DataError

_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_XML = "http://www.w3.org/XML/1998/namespace"
_XMLNS = "http://www.w3.org/2000/xmlns/"
_DC = "http://purl.org/dc/elements/1.1/"
_IPTC = "http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/"
DESCRIPTION = (_DC, "dc", "description")
ALT_TEXT = (_IPTC, "Iptc4xmpCore", "AltTextAccessibility")

_EMPTY = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/">\n'
    f' <rdf:RDF xmlns:rdf="{_RDF}">\n'
    '  <rdf:Description rdf:about=""/>\n'
    " </rdf:RDF>\n"
    "</x:xmpmeta>\n"
    '<?xpacket end="w"?>\n'
)
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
# A parser turns line ends in attributes to spaces where they are not escaped, and minidom does not escape them.
_KEPT = {"\n": ("\ue00a", "&#10;"), "\r": ("\ue00d", "&#13;"), "\t": ("\ue009", "&#9;")}


@SIDECARS.register(".xmp")
class XmpSidecar:
    """A caption as a language alternative.

    Args:
        alt_text: write it as the alternative text too.
    """

    needs_content = True

    def __init__(self, *, alt_text: bool = False) -> None:
        self.properties = (DESCRIPTION, ALT_TEXT) if alt_text else (DESCRIPTION,)

    def is_complete(self, content: bytes | None) -> bool:
        """Whether the file has all properties, and none is blank."""
        document = _parsed(content or b"")
        return all(_filled(_find(document, one)) is not None for one in self.properties)

    def merged(self, content: bytes | None, text: str, facts: Mapping[str, Any], join: Join) -> bytes | None:
        """See `captioner.data.sidecars.SidecarForm`. Other properties, other languages, comments and the packet's
        wrapper stay."""
        document = _parsed(_EMPTY.encode() if content is None else content)
        changed = content is None
        for one in self.properties:
            element = _find(document, one)
            found = join(_filled(element), _clean(text))
            if found is not None:
                _set(document, element, one, found)
                changed = True
        return _written(document) if changed else None

    def captions(self, path: Path) -> list[str]:
        """The description of a file. Raises DataError."""
        try:
            element = _find(_parsed(path.read_bytes()), DESCRIPTION)
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
        except DataError as error:
            raise DataError(f"{path}: {error}") from None
        text = "" if element is None else _text_of(element).strip()
        return [text] if text else []


def _parsed(content: bytes) -> Document:
    """The document. Raises DataError where it is no XMP."""
    if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
        raise DataError("declares a document type, which XMP has none of, and stays as it is")
    try:
        document = parseString(content)
    except (ExpatError, ValueError, LookupError, RecursionError) as error:
        raise DataError(f"is no XML ({error}), and stays as it is", remedy="mend it, or move it away") from None
    if not document.getElementsByTagNameNS(_RDF, "RDF"):
        raise DataError("is no XMP: it has no rdf:RDF, and stays as it is", remedy="mend it, or move it away")
    return document


def _descriptions(document: Document) -> list[Element]:
    root = document.getElementsByTagNameNS(_RDF, "RDF")[0]
    return [one for one in _children(root) if one.namespaceURI == _RDF and one.localName == "Description"]


def _find(document: Document, name: tuple[str, str, str]) -> Element | None:
    """The element of a property. One that was written as an attribute, which old programs do, is made an element."""
    space, _, local = name
    for description in _descriptions(document):
        for child in _children(description):
            if child.namespaceURI == space and child.localName == local:
                return child
        if description.hasAttributeNS(space, local):
            text = description.getAttributeNS(space, local)
            description.removeAttributeNS(space, local)
            element = _added(document, description, name)
            _set(document, element, name, text)
            return element
    return None


def _filled(element: Element | None) -> str | None:
    """The text of a property; None where it is missing or blank."""
    text = "" if element is None else _text_of(element)
    return text if text.strip() else None


def _text_of(element: Element) -> str:
    """The text in the default language, else the first one."""
    items = list(element.getElementsByTagNameNS(_RDF, "li"))
    chosen = next((one for one in items if one.getAttributeNS(_XML, "lang") == "x-default"), None)
    source = chosen or (items[0] if items else element)
    return "".join(
        node.data for node in source.childNodes if node.nodeType in (node.TEXT_NODE, node.CDATA_SECTION_NODE)
    )


def _set(document: Document, element: Element | None, name: tuple[str, str, str], text: str) -> None:
    """Write a text in the default language; other languages stay."""
    if element is None:
        descriptions = _descriptions(document)
        if not descriptions:
            root = document.getElementsByTagNameNS(_RDF, "RDF")[0]
            description = document.createElementNS(_RDF, _prefixed(root, _RDF, "rdf", "Description"))
            description.setAttributeNS(_RDF, _prefixed(root, _RDF, "rdf", "about"), "")
            root.appendChild(description)
            descriptions = [description]
        element = _added(document, descriptions[0], name)
    items = list(element.getElementsByTagNameNS(_RDF, "li"))
    item = next((one for one in items if one.getAttributeNS(_XML, "lang") == "x-default"), None)
    if item is None:
        alternatives = element.getElementsByTagNameNS(_RDF, "Alt")
        if alternatives:
            group = alternatives[0]
        else:  # a plain text, which is no language alternative
            for node in list(element.childNodes):
                element.removeChild(node)
            group = document.createElementNS(_RDF, _prefixed(element, _RDF, "rdf", "Alt"))
            element.appendChild(group)
        item = document.createElementNS(_RDF, _prefixed(group, _RDF, "rdf", "li"))
        item.setAttributeNS(_XML, "xml:lang", "x-default")
        group.insertBefore(item, group.firstChild)  # the default comes first
    for node in list(item.childNodes):
        item.removeChild(node)
    item.appendChild(document.createTextNode(text))


def _added(document: Document, description: Element, name: tuple[str, str, str]) -> Element:
    space, prefix, local = name
    element = document.createElementNS(space, _prefixed(description, space, prefix, local))
    description.appendChild(element)
    return element


def _prefixed(element: Element, space: str, wanted: str, local: str) -> str:
    """A name with the prefix that a namespace has here; it is declared on the element where it has none."""
    node: Any = element
    hidden: set[str] = set()
    while node is not None and node.nodeType == node.ELEMENT_NODE:
        for attribute, value in node.attributes.items():
            prefix = attribute.partition(":")[2]
            if attribute.startswith("xmlns:") and prefix not in hidden:
                if value == space:
                    return f"{prefix}:{local}"
                hidden.add(prefix)
        node = node.parentNode
    prefix = next(one for one in (wanted, *(f"{wanted}{i}" for i in range(1, 1000))) if one not in hidden)
    element.setAttributeNS(_XMLNS, f"xmlns:{prefix}", space)
    return f"{prefix}:{local}"


def _children(element: Element) -> Iterator[Element]:
    for node in element.childNodes:
        if isinstance(node, Element):
            yield node


def _clean(text: str) -> str:
    """The text without characters that XML has no place for."""
    return _NO_XML.sub("", text)


def _written(document: Document) -> bytes:
    for element in document.getElementsByTagName("*"):
        for attribute in list(element.attributes.values()):
            if any(plain in attribute.value for plain in _KEPT):
                attribute.value = attribute.value.translate({ord(plain): kept for plain, (kept, _) in _KEPT.items()})
    # Without the XML declaration: an XMP packet has none, and UTF-8 is what XML takes without one.
    text = "".join(node.toxml() + ("\n" if node is not document.lastChild else "") for node in document.childNodes)
    for kept, escaped in _KEPT.values():
        text = text.replace(kept, escaped)
    return f"{text}\n".encode("utf-8", "replace")
