"""Pictures of web pages that have no alternative text: where they are in HTML and Markdown, and texts put in there.

A page is edited where its pictures are, and stays as it is everywhere else, to the byte. ``alt=""`` is a text: HTML
marks decorative pictures so (https://html.spec.whatwg.org/multipage/images.html#alt).
"""

import html
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from captioner.errors import DataError
from captioner.registry import Registry

Finder = Callable[[str], "list[Place]"]
PAGES: Registry[Finder] = Registry("kind of page")
"""What finds the pictures without a text, by the ending of the page."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A picture without an alternative text.

    Attributes:
        source: what the page calls the picture.
        position: of the text that is put in, in characters.
        line: from 1.
        base: what relative names count from, as the page's ``<base>`` has it; "" for the page's folder.
        markdown: whether it is Markdown, not HTML.
    """

    source: str
    position: int
    line: int
    base: str = ""
    markdown: bool = False

    def text(self, caption: str, *, ascii_only: bool = False) -> str:
        """A caption as it stands in the page."""
        words = " ".join(caption.split())
        if self.markdown:
            return re.sub(r"([\\\[\]*_`<>&!])", r"\\\1", words)
        written = html.escape(words, quote=True)
        if ascii_only:
            written = written.encode("ascii", "xmlcharrefreplace").decode()
        return f' alt="{written}"'


@dataclass(frozen=True, kw_only=True)
class Page:
    """A page that was read.

    Attributes:
        path: of the file.
        content: its bytes.
        text: its characters; bytes that are not UTF-8 are kept as they are.
        places: of the pictures without a text, in order.
    """

    path: Path
    content: bytes
    text: str
    places: tuple[Place, ...]

    def edited(self, captions: Mapping[Place, str]) -> str:
        """The page with captions at these places."""
        ascii_only = "\ufffd" in self.content.decode("utf-8", "replace")
        parts, end = [], 0
        for place in self.places:
            if place in captions:
                parts += [self.text[end : place.position], place.text(captions[place], ascii_only=ascii_only)]
                end = place.position
        return "".join((*parts, self.text[end:]))


def read_page(path: Path) -> Page:
    """Read a page and find its pictures without a text.

    Raises:
        DataError: it cannot be read, or is in UTF-16.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    if content.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in content[:1000]:
        raise DataError(f"{path}: in UTF-16, or no text", remedy="save the page as UTF-8")
    text = content.decode("utf-8", "surrogateescape")
    return Page(path=path, content=content, text=text, places=tuple(PAGES[path.suffix.lower()](text)))


def picture_of(place: Place, page: Path, site: Path) -> Path | str:
    """The file that a page means: relative to the page, or to the site where it begins with a slash.

    Returns:
        The path; or, where it is no file of the site, what it is: "remote", "data" (bytes in the page) or "none".
    """
    source = place.source.strip()
    if not source or source.startswith("#"):
        return "none"
    if source.lower().startswith("data:"):
        return "data"
    try:
        parts = urlsplit(source)
        base = urlsplit(place.base)
    except ValueError:
        return "none"
    if parts.scheme or parts.netloc or ((base.scheme or base.netloc) and not source.startswith("/")):
        return "remote"
    name = unquote(parts.path, errors="surrogateescape")
    if not name or "\0" in name:
        return "none"
    if name.startswith("/"):
        return site / name.lstrip("/")
    folder = unquote(base.path)
    start = site if folder.startswith("/") else page.parent
    return Path(os.path.normpath(start / folder.lstrip("/").rpartition("/")[0] / name))


@PAGES.register(".html")
@PAGES.register(".htm")
def html_places(text: str) -> list[Place]:
    """``<img>`` without ``alt``. Those that are marked as decorative by ``role`` or ``aria-hidden``, or named by
    ``aria-label``, are left out."""
    return _places(text, xml=False)


@PAGES.register(".xhtml")
def xhtml_places(text: str) -> list[Place]:
    """As `html_places`, of XHTML, in which ``<textarea/>`` is a whole element."""
    return _places(text, xml=True)


def _places(text: str, *, xml: bool) -> list[Place]:
    finder = _Images(text, xml=xml)
    finder.feed(text)
    finder.close()
    return finder.places


_OF_TEXT = frozenset(("textarea", "title", "xmp", "iframe", "noembed", "noframes", "plaintext"))
"""Elements whose tags are characters for a browser, as those of ``script`` and ``style`` are for the parser."""


_FOREIGN = frozenset(("svg", "math"))


class _Images(HTMLParser):
    def __init__(self, text: str, *, xml: bool) -> None:
        super().__init__(convert_charrefs=True)
        self._xml = xml
        self._foreign = 0  # how many <svg> and <math> are open
        self.places: list[Place] = []
        self._base = self._of_text = ""
        self._starts = [0]
        for found in re.finditer("\n", text):
            self._starts.append(found.end())

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        """See `HTMLParser`."""
        if self._of_text:
            return
        if tag in _OF_TEXT:
            self._of_text = tag
        self._foreign += tag in _FOREIGN
        values = {name.lower(): value or "" for name, value in reversed(attrs)}  # of two of a name, the first counts
        if tag == "base" and not self._base:
            self._base = values.get("href", "")
        if tag != "img" or "alt" in values or values.get("aria-label") or values.get("aria-labelledby"):
            return
        if values.get("role") in ("presentation", "none") or values.get("aria-hidden") == "true":
            return
        line, column = self.getpos()
        source = values.get("src") or values.get("data-src") or values.get("srcset", "").split(",")[0].split(" ")[0]
        position = self._starts[line - 1] + column + len("<img")
        self.places.append(Place(source=source, position=position, line=line, base=self._base))

    def handle_endtag(self, tag: str) -> None:
        """See `HTMLParser`."""
        if tag == self._of_text != "plaintext":  # which has no end
            self._of_text = ""
        if tag in _FOREIGN and not self._of_text:
            self._foreign = max(self._foreign - 1, 0)

    def handle_startendtag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        """See `HTMLParser`. For a browser ``<textarea/>`` is a beginning, but for XML, and in a drawing or formula."""
        whole = self._xml or self._foreign > 0 or tag in _FOREIGN
        self.handle_starttag(tag, attrs)
        if whole:
            self.handle_endtag(tag)


# Further than three spaces only in a list, and it ends where it began.
_FENCE = re.compile(
    r"^(?P<deep>[ \t]*?) {0,3}(?P<fence>`{3,}|~{3,})[^\n]*\n"
    r".*?(?:^(?:(?P=deep) {0,3}| {0,3})(?P=fence)[`~]*[ \t]*$|\Z)",
    re.MULTILINE | re.DOTALL,
)
# What holds indented text that is no code: items of lists; admonitions and tabs of MkDocs, footnotes.
_LIST_ITEM = re.compile(r"^ {0,3}(?:(?:[-+*]|\d{1,9}[.)])(?:[ \t]|$)|(?:!!!|\?\?\?\+?|===)[ \t]|\[\^[^\]\n]+\]:)")
_INDENTED = re.compile(r"^(?: {4}| {0,3}\t)[ \t]*\S")
_CODE = re.compile(r"(?<!`)(`+)(?!`)(?:(?!\n[ \t]*\n).)+?(?<!`)\1(?!`)", re.DOTALL)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_IMAGE = re.compile(
    r"(?<!\\)!\[(?P<alt>)\](?:\(\s*(?:<(?P<angled>[^<>\n]*)>|(?P<plain>(?:[^\s()\\]|\\.|\((?:[^\s()\\]|\\.)*\))*))"
    r"(?:\s+(?:\"[^\"]*\"|'[^']*'|\([^()]*\)))?\s*\)|\[(?P<label>[^\]\n]+)\])"
)
_DEFINITION = re.compile(r"^ {0,3}\[(?P<label>[^\]\n]+)\]:\s*<?(?P<target>[^\s>]+)>?", re.MULTILINE)


@PAGES.register(".md")
@PAGES.register(".markdown")
def markdown_places(text: str) -> list[Place]:
    """``![](picture)`` and ``![][label]`` without a text, and ``<img>`` without ``alt``; not in code or comments."""
    plain = text
    plain = _without_indented_code(plain)
    for hidden in (_FENCE, _COMMENT, _CODE):
        plain = hidden.sub(_hidden, plain)
    definitions = reversed(list(_DEFINITION.finditer(plain)))  # of two of a label, the first counts
    targets = {found["label"].casefold(): found["target"] for found in definitions}
    # What stands in angles there is a name, and no tag.
    tags = _DEFINITION.sub(_hidden, re.sub(r"\]\(\s*<[^<>\n]*>", _hidden, plain))
    places = html_places(tags)
    for found in _IMAGE.finditer(plain):
        source = found["angled"] if found["angled"] is not None else found["plain"]
        if found["label"] is not None:
            source = targets.get(found["label"].casefold(), "")
        source = re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", source or "")
        line = plain.count("\n", 0, found.start()) + 1
        places.append(Place(source=source, position=found.start("alt"), line=line, markdown=True))
    return sorted(places, key=lambda place: place.position)


def _without_indented_code(text: str) -> str:
    """The text, with the lines of indented code hidden: those behind a blank line, and in no list."""
    lines, in_list, after_blank, in_code = [], False, True, False
    for line in text.split("\n"):
        blank = not line.strip()
        if _LIST_ITEM.match(line):
            in_list = True
        elif after_blank and not blank and not line.startswith((" ", "\t", "\0")):
            in_list = False
        in_code = not blank and _INDENTED.match(line) is not None and not in_list and (after_blank or in_code)
        lines.append("\0" * len(line) if in_code else line)
        after_blank = blank
    return "\n".join(lines)


def _hidden(found: "re.Match[str]") -> str:
    return re.sub(r"[^\n]", "\0", found[0])
