"""Pictures without alternative texts, in HTML and Markdown."""

from pathlib import Path

import pytest

from captioner.data.alt_texts import Place, html_places, markdown_places, picture_of, read_page
from captioner.errors import DataError


@pytest.mark.parametrize(
    ("text", "sources"),
    [
        ('<img src="a.png">', ["a.png"]),
        ("<p>\n<IMG\n SRC=a.png />", ["a.png"]),
        ('<img src="a.png" alt="">', []),
        ('<img src="a.png" alt>', []),
        ('<img src="a.png" ALT="a dog">', []),
        ('<img src="a.png" role="presentation"><img src="b" aria-hidden="true"><img src="c" aria-label="x">', []),
        ('<!-- <img src="a.png"> --><script>"<img src=a>"</script><style>/*<img src=b>*/</style>', []),
        ('<img src="a&amp;b.png"><img data-src="c.png"><img srcset="d.png 2x, e.png">', ["a&b.png", "c.png", "d.png"]),
        ("<img>", [""]),
    ],
)
def test_html(text: str, sources: list[str]) -> None:
    assert [place.source for place in html_places(text)] == sources


@pytest.mark.parametrize(
    ("text", "sources"),
    [
        ("![](a.png) ![dog](b.png)", ["a.png"]),
        ('![](<a b.png> "title") ![]( c(1).png )', ["a b.png", "c(1).png"]),
        ("`![](a.png)` ``x ` ![](b.png)`` ![](c.png)", ["c.png"]),
        ("```\n![](a.png)\n```\n![](b.png)\n~~~ md\n![](c.png)", ["b.png"]),
        ("<!-- ![](a.png) -->\\![](b.png)", []),
        ("![][k] and ![][none]\n\n[k]: <img/a.png>", ["img/a.png", ""]),
        ('<img src="a.png"> <img src="b.png" alt="">', ["a.png"]),
        ("![][k]\n\n[k]: first.png\n[k]: second.png", ["first.png"]),
        ("code:\n\n    ![](a.png)\n\n    ![](b.png)\n\n![](c.png)\n    ![](d.png)", ["c.png", "d.png"]),
        ("\t![](a.png)", []),
        ("- item\n\n    ![](a.png)\n\n1. other\n\n      ![](b.png)\n\ntext\n\n    ![](c.png)", ["a.png", "b.png"]),
        ("- item\n\n    ```\n    ![](a.png)\n\n    ![](b.png)\n    ```\n\n    ![](c.png)", ["c.png"]),
        ('```py\n"""\n    ```\n"""\n```\n![](b.png)', ["b.png"]),
        ("text\n\n    ```\n\nprose\n![](b.png)", ["b.png"]),
        ("```md\n- item\n\n    ```\n    ![](a.png)\n    ```\n![](b.png)\n```\n![](c.png)", ["c.png"]),
        ('!!! note\n\n    ![](a.png)\n\n=== "Tab"\n\n    ![](b.png)', ["a.png", "b.png"]),
        ("[^1]:\n\n    ![](a.png)", ["a.png"]),
    ],
)
def test_markdown(text: str, sources: list[str]) -> None:
    assert [place.source for place in markdown_places(text)] == sources


def test_pages_are_edited_at_their_pictures_alone(tmp_path: Path) -> None:
    page = tmp_path / "a.html"
    before = b'\xef\xbb\xbf<p>caf\xe9\r\n<img src=a.png/><img src="b.png"/>\r\n'
    page.write_bytes(before)
    read = read_page(page)
    edited = read.edited({read.places[0]: 'a "dög" & co'}).encode("utf-8", "surrogateescape")
    assert edited == before.replace(b"<img src=a", b'<img alt="a &quot;d&#246;g&quot; &amp; co" src=a')
    markdown = tmp_path / "a.md"
    markdown.write_text("![](a.png)")
    read = read_page(markdown)
    assert read.edited({read.places[0]: "a [dog]_"}) == "![a \\[dog\\]\\_](a.png)"


def test_pages_in_utf_16_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text("<img src=a>", encoding="utf-16")
    with pytest.raises(DataError, match=r"a\.html.*UTF-8"):
        read_page(tmp_path / "a.html")


@pytest.mark.parametrize(
    ("source", "base", "found"),
    [
        ("img/a%20b.png?v=1#x", "", Path("site/sub/img/a b.png")),
        ("../a.png", "", Path("site/a.png")),
        ("/img/a.png", "", Path("site/img/a.png")),
        ("a.png", "/static/", Path("site/static/a.png")),
        ("a.png", "https://example.org/", "remote"),
        ("https://example.org/a.png", "", "remote"),
        ("//example.org/a.png", "", "remote"),
        ("data:image/png;base64,AAAA", "", "data"),
        ("", "", "none"),
        ("#x", "", "none"),
        ("http://[", "", "none"),
    ],
)
def test_what_a_name_means(source: str, base: str, found: object) -> None:
    place = Place(source=source, position=0, line=1, base=base)
    assert picture_of(place, Path("site/sub/page.html"), Path("site")) == found
