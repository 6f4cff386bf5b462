"""Header values with parameters, as Content-Type and Content-Disposition have them (RFC 9110, 5.6.6; RFC 8187).

python-multipart leaves out every parameter whose name has a star, because RFC 7578 asks senders not to use them in
forms. Some clients send them all the same, and a file's name that is not ASCII is then found nowhere else.
"""

import re
from urllib.parse import unquote_to_bytes

_PARAMETER = re.compile(r';\s*([^\s;="]+)\s*=\s*("(?:[^"\\]|\\.)*"|"[^"]*\Z|[^;]*)', re.DOTALL)
_ESCAPED = re.compile(r'\\([\\"])')  # no other: old browsers send C:\photo.png with single backslashes
_EXTENDED = re.compile(r"([A-Za-z0-9-]*)'[A-Za-z0-9-]*'(.*)", re.DOTALL)
_CONTINUED = re.compile(r"\*(\d{1,3})(\*?)\Z")
_CHARSETS = {"": "utf-8", "utf-8": "utf-8", "iso-8859-1": "latin-1", "us-ascii": "ascii"}


def parse_header(value: bytes) -> tuple[str, dict[str, str]]:
    """The first part of a header's value, in lower case, and its parameters by their names in lower case.

    Names and values are text of UTF-8. Of two parameters with one name, the first counts. A name that ends in a star
    (``filename*=UTF-8''b%C3%A4.png``) is left as it is; `parameter` decodes it.
    """
    text = value.decode("utf-8", "replace")
    first = text.partition(";")[0]
    found: dict[str, str] = {}
    for name, raw in _PARAMETER.findall(text[len(first) :]):
        found.setdefault(name.lower(), _unquoted(raw.strip()))
    return first.strip().lower(), found


def parameter(parameters: dict[str, str], name: str) -> str | None:
    """The value of a parameter: the extended form where it can be decoded, else the plain one; None without either.

    Understood are ``name*=UTF-8''...`` (RFC 8187), which RFC 6266 prefers to ``name=...``, and the numbered pieces
    ``name*0*=...; name*1=...`` (RFC 2231). An extended value in another form stands as it was sent.
    """
    plain, extended = parameters.get(name), parameters.get(f"{name}*")
    if extended is not None:
        decoded = _decoded(extended)
        return decoded if decoded is not None else plain if plain is not None else extended
    return plain if plain is not None else _joined(parameters, name)


def _unquoted(raw: str) -> str:
    if not raw.startswith('"'):
        return raw
    inner = raw[1:-1] if len(raw) > 1 and raw.endswith('"') else raw[1:]
    return _ESCAPED.sub(r"\1", inner)


def _decoded(value: str) -> str | None:
    """The text of an extended value; None where it is none, or in a charset that is not known."""
    found = _EXTENDED.fullmatch(value)
    charset = _CHARSETS.get(found[1].lower()) if found else None
    if found is None or charset is None:
        return None
    try:
        return unquote_to_bytes(found[2]).decode(charset)
    except UnicodeDecodeError:
        return None


def _joined(parameters: dict[str, str], name: str) -> str | None:
    """The pieces of a value that was sent in numbered parts."""
    pieces: dict[int, tuple[str, bool]] = {}
    for key, value in parameters.items():
        found = _CONTINUED.fullmatch(key[len(name) :]) if key.startswith(name) else None
        if found is not None:
            pieces[int(found[1])] = value, bool(found[2])
    if 0 not in pieces:
        return None
    charset = "utf-8"
    joined = b""
    for number in range(len(pieces)):
        if number not in pieces:
            break
        value, extended = pieces[number]
        if number == 0 and extended and (found := _EXTENDED.fullmatch(value)):
            charset, value = _CHARSETS.get(found[1].lower(), charset), found[2]
        joined += unquote_to_bytes(value) if extended else value.encode()
    return joined.decode(charset, "replace")
