"""``captioner alt``: a diff that patch takes, or pages that are written; nothing else changes."""

import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from captioner.commands import alt
from captioner.data import alt_texts
from tests.commands.conftest import Command

HTML = '<p><img src="img/a.png"> <img src="img/a.png" alt=""> <img src="https://example.org/b.png">\r\n</p>'
MARKDOWN = "A ![](../img/a.png) and ![dog](../img/a.png)\n\n<img src='/img/b%20c.png'>\n"


@pytest.fixture
def site(make_picture: Callable[..., Path], tmp_path: Path) -> Path:
    """Two pages and two pictures."""
    make_picture("site/img/a.png")
    make_picture("site/img/b c.png", seed=1)
    (tmp_path / "site" / "posts").mkdir()
    (tmp_path / "site" / "index.html").write_bytes(HTML.encode())
    (tmp_path / "site" / "posts" / "one.md").write_text(MARKDOWN)
    return Path("site")


def patch(diff: str, folder: Path) -> None:
    """Apply a diff; the test is skipped where there is no patch, after all else that it asserts."""
    if not shutil.which("patch"):
        pytest.skip("needs patch, which is not installed")
    subprocess.run(["patch", "-p1", "--binary"], input=diff.encode(), cwd=folder, check=True)


def contents() -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(Path().rglob("*")) if path.is_file()}


def test_a_diff_is_proposed_and_written(command: Command, site: Path) -> None:
    before = contents()
    run = command("alt", site)
    assert run.code == 0
    assert contents() == before
    assert "https://example.org/b.png is remote" in run.err
    assert "3 texts proposed, 1 picture left without" in run.err
    text = command("caption", site / "img" / "a.png").out.strip()
    assert f'+<p><img alt="{text}" src="img/a.png"> <img src="img/a.png" alt="">' in run.out
    assert f"+A ![{text}](../img/a.png) and ![dog](../img/a.png)" in run.out
    shutil.copytree(site, "patched")
    written = command("alt", site, "--write")
    assert (written.code, written.out) == (0, "")
    again = command("alt", site)
    assert (again.code, again.out) == (0, "")
    patch(run.out, Path("patched"))
    assert (Path("patched") / "index.html").read_bytes() == (site / "index.html").read_bytes()
    assert (Path("patched") / "posts" / "one.md").read_bytes() == (site / "posts" / "one.md").read_bytes()


def test_a_diff_has_the_bytes_of_a_page_that_is_not_utf8(
    command: Command, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (site / "old.html").write_bytes(b'caf\xe9 <img src="img/a.png">')
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    assert command("alt", site / "old.html").code == 0
    assert b"\n-caf\xe9 <img src=" in stream.buffer.getvalue()  # type: ignore[attr-defined]
    assert stream.encoding == "ascii"


def test_what_fails_is_named_and_the_rest_is_done(command: Command, site: Path) -> None:
    (site / "img" / "bad.png").write_text("no picture")
    (site / "two.htm").write_text('<img src="gone.png"><img src="img/bad.png"><img src="img/a.png">')
    (site / "utf16.html").write_text("<img>", encoding="utf-16")
    run = command("alt", site, "--exclude", "posts")
    assert run.code == 1
    for part in ("site/two.htm:1: gone.png: no such picture", "site/img/bad.png", "utf16.html"):
        assert part in run.err
    assert run.out.count('alt="a') == 2
    assert "one.md" not in run.out


def test_a_run_that_is_stopped_has_written_the_pages_before(
    command: Command, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captions = alt._captions

    def stopped(*given: object) -> object:
        found = captions(*given)  # type: ignore[arg-type]
        yield next(found)
        raise KeyboardInterrupt

    monkeypatch.setattr(alt, "_captions", stopped)
    assert command("alt", site, "--write").code == 130
    assert 'alt="a' in (site / "index.html").read_text()
    assert (site / "posts" / "one.md").read_text() == MARKDOWN


def test_a_page_that_changes_meanwhile_stays(command: Command, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    captions = alt._captions

    def edit(*given: object) -> object:
        (site / "index.html").write_text("edited")
        return captions(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(alt, "_captions", edit)
    run = command("alt", site, "--write")
    assert run.code == 1
    assert "site/index.html: has changed meanwhile" in run.err
    assert (site / "index.html").read_text() == "edited"


@pytest.mark.parametrize(
    ("arguments", "part"), [("nowhere", "nowhere"), ("site/img", "no pages"), ("site/img/a.png", "no page")]
)
def test_nothing_to_do_is_one_line(command: Command, site: Path, arguments: str, part: str) -> None:
    run = command("alt", *arguments.split())
    assert (run.code, run.err.count("\n")) == (2, 1)
    assert part in run.err


def test_patch_finds_pages_whatever_their_names(command: Command, site: Path) -> None:
    names = ["my page.html", 'a "b".html', "c\\d\ne.html"]
    for name in names:
        (site / name).write_text('<img src="img/a.png">\n')
    diff = command("alt", site, "--exclude", "posts").out
    heads = [line for line in diff.splitlines() if line.startswith("+++ ")]
    assert heads == ['+++ "b/a \\"b\\".html"', '+++ "b/c\\\\d\\012e.html"', "+++ b/index.html", "+++ b/my page.html\t"]
    patch(diff, site)
    assert all(" alt=" in (site / name).read_text() for name in names)


def test_folders_that_are_not_searched_are_named(command: Command, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("elsewhere").mkdir()
    Path("elsewhere", "page.html").write_text("<img src=a.png>")
    (site / "linked").symlink_to(Path("elsewhere").absolute())
    (site / "posts" / "loop").symlink_to(site.absolute())
    (site / "locked").mkdir()
    scan = os.scandir

    def scandir(path: str) -> object:
        if Path(path).name == "locked":  # the superuser may read all
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    run = command("alt", site)
    assert run.code == 1
    assert "site/locked: cannot be read" in run.err
    assert "site/linked: a link" in run.err and "loop" not in run.err
    assert "elsewhere" not in run.out


def test_tags_that_are_text_for_a_browser_stay() -> None:
    text = "<textarea><img src=a></textarea><title><img src=a></title><xmp><img src=a></xmp><img src=b>"
    (place,) = alt_texts.html_places(text + "<textarea/><img src=a></textarea><plaintext><img src=a></plaintext><img>")
    assert (place.source, place.position) == ("b", text.rindex(" src"))
    (place,) = alt_texts.html_places("<svg><title/></svg><svg/><math><svg><title>x</title></svg></math><img src=c>")
    assert place.source == "c", "in a drawing it is a whole element"
    (place,) = alt_texts.xhtml_places('<iframe src="a"/><textarea/><img src="d"/>')
    assert place.source == "d"
