"""Header values with parameters: quoting, and the extended form of RFC 8187."""

import pytest

from captioner.serve.headers import parameter, parse_header

VALUES = {
    "plain": (b'form-data; name="file"; filename="a.png"', "a.png"),
    "token": (b"form-data; name=file; filename=a.png", "a.png"),
    "upper case": (b'Form-Data; NAME="file"; FileName="a.png"', "a.png"),
    "spaces": (b'form-data ;  name = "file" ; filename = "a.png" ', "a.png"),
    "no spaces": (b'form-data;name="file";filename="a.png"', "a.png"),
    "escaped quote": (rb'form-data; name="file"; filename="a\"b;c.png"', 'a"b;c.png'),
    "escaped backslash": (rb'form-data; name="file"; filename="a\\b.png"', "a\\b.png"),
    "folders of Windows": (rb'form-data; name="file"; filename="C:\Users\me\a.png"', r"C:\Users\me\a.png"),
    "UTF-8": ('form-data; name="file"; filename="bä.png"'.encode(), "bä.png"),
    "Latin-1": ('form-data; name="file"; filename="bä.png"'.encode("latin-1"), "b\ufffd.png"),
    "extended": (b"form-data; name=\"file\"; filename*=UTF-8''b%C3%A4.png", "bä.png"),
    "extended, quoted": (b'form-data; name="file"; filename*="utf-8\'en\'b%C3%A4.png"', "bä.png"),
    "extended, Latin-1": (b"form-data; name=\"file\"; filename*=ISO-8859-1''b%E4.png", "bä.png"),
    "extended after plain": (b"form-data; name=file; filename=\"b_.png\"; filename*=UTF-8''b%C3%A4.png", "bä.png"),
    "extended before plain": (b"form-data; name=file; filename*=UTF-8''b%C3%A4.png; filename=\"b_.png\"", "bä.png"),
    "extended, not UTF-8": (b"form-data; name=file; filename*=UTF-8''b%E4.png; filename=\"b_.png\"", "b_.png"),
    "extended, other charset": (b"form-data; name=file; filename*=KOI8-R''b%E4.png; filename=b_.png", "b_.png"),
    "extended, without charset": (b"form-data; name=file; filename*=b.png", "b.png"),
    "name extended too": (b"form-data; name*=UTF-8''file; filename=a.png", "a.png"),
    "in pieces": (b"form-data; name=file; filename*0*=UTF-8''b%C3%A4; filename*1=\"%41.png\"", "bä%41.png"),
    "first of two": (b'form-data; name=file; filename="a.png"; filename="b.png"', "a.png"),
    "empty": (b'form-data; name="file"; filename=""', ""),
    "open quote": (b'form-data; name="file"; filename="a.png', "a.png"),
    "none": (b'form-data; name="file"', None),
    "in a quoted value": (b'form-data; name="file"; x="; filename=a.png"', None),
    "junk": (b'form-data; ; =; name="file";; "x"; filename', None),
}


@pytest.mark.parametrize(("value", "name"), VALUES.values(), ids=VALUES)
def test_the_name_of_a_file(value: bytes, name: str | None) -> None:
    kind, parameters = parse_header(value)
    assert kind == "form-data"
    assert parameter(parameters, "name") == "file"
    assert parameter(parameters, "filename") == name


def test_content_types() -> None:
    assert parse_header(b"") == ("", {})
    assert parse_header(b"Text/Plain") == ("text/plain", {})
    kind, parameters = parse_header(b'multipart/form-data; boundary="a;b=\\"c"; charset=utf-8')
    assert (kind, parameters) == ("multipart/form-data", {"boundary": 'a;b="c', "charset": "utf-8"})
