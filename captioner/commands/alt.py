"""The command ``captioner alt``: alternative texts for the pictures of a site that have none."""

import argparse
import difflib
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captioner.commands.console import message_line, report, stopping_on_signals
from captioner.commands.files import write_whole
from captioner.commands.model_options import add_model_options, load_model
from captioner.commands.picture_options import add_folder_options
from captioner.commands.ranges import check_positive
from captioner.errors import CaptionerError, DataError

if TYPE_CHECKING:
    from captioner.data.alt_texts import Page, Place
    from captioner.data.selection import Selection


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.description = (
        "Propose alternative texts for pictures of HTML and Markdown pages that have none, as a diff. Pictures with an "
        'alt text, alt="" (decorative) included, are left alone. Read every proposal over before you publish it.'
    )
    parser.add_argument("site", type=Path, metavar="SITE", help="a folder of pages, or a page")
    parser.add_argument("--write", action="store_true", help="write the texts into the pages, and print no diff")
    add_folder_options(parser.add_argument_group("which pages"))
    add_model_options(parser, default="default")
    parser.add_argument("--batch", type=int, default=16, metavar="N", help="pictures at a time (default 16)")


def run(options: argparse.Namespace) -> int:
    """Run the command: 0, 1 if some pictures or pages failed, 2 if nothing could be done. Raises CaptionerError."""
    from captioner.data.selection import Selection

    check_positive(options, "batch")
    selection = Selection(recursive=options.recursive, include=tuple(options.include), exclude=tuple(options.exclude))
    pages, failed = _read_pages(options.site, selection)
    site = options.site if options.site.is_dir() else options.site.parent
    wanted: dict[Path, list[tuple[Page, Place]]] = {}
    for page in pages:
        for place in page.places:
            picture = _picture(place, page, site)
            if isinstance(picture, Path):
                wanted.setdefault(picture, []).append((page, place))
            else:
                failed += picture
    texts: dict[int, dict[Place, str]] = {}  # of each page
    open_places = Counter(id(page) for found in wanted.values() for page, _ in found)
    done = 0
    with stopping_on_signals(), _bytes_kept():
        for picture, text in _captions(options, list(wanted)):
            failed += text is None
            for page, place in wanted[picture]:
                if text is not None:
                    texts.setdefault(id(page), {})[place] = text
                open_places[id(page)] -= 1
                if options.write and not open_places[id(page)] and (found := texts.get(id(page))):
                    # at once, so that a run that is stopped has lost no page that it had the texts of
                    changed = _write(page, found)
                    done += len(found) if changed else 0
                    failed += not changed
        for page in pages:
            if not options.write and (found := texts.get(id(page))):
                _print_diff(page, found, site)
                done += len(found)
    what = "written" if options.write else "proposed"
    without = sum(len(page.places) for page in pages) - done
    report(f"{done:,} text{'s'[: done != 1]} {what}, {without:,} picture{'s'[: without != 1]} left without")
    return (1 if done else 2) if failed else 0


def _read_pages(site: Path, selection: "Selection") -> tuple[list["Page"], int]:
    """The pages of a site, and how many cannot be read. Raises DataError where there are none."""
    from captioner.data.alt_texts import PAGES, read_page

    if not site.exists():
        raise DataError(f"{site}: no such file or folder")
    if site.is_file() and site.suffix.lower() not in PAGES:
        raise DataError(f"{site}: no page", remedy=f"pages end in {', '.join(PAGES)}")
    pages, failed = [], 0
    paths, unreadable = _pages(site, selection, tuple(PAGES))
    for error in unreadable:
        report(f"{error.filename}: cannot be read ({error.strerror or error})")
        failed += 1
    for path in paths:
        try:
            pages.append(read_page(path))
        except CaptionerError as error:
            report(error)
            failed += 1
    if not paths:
        raise DataError(f"{site}: no pages in this folder", remedy=f"pages end in {', '.join(PAGES)}")
    return pages, failed


def _pages(site: Path, selection: "Selection", endings: tuple[str, ...]) -> tuple[list[Path], list[OSError]]:
    """The pages of a site in order, and what folders could not be read. A link that leads to a folder elsewhere is
    named, since what is behind it is not of the site, and ``patch`` does not follow it."""
    from captioner.data.selection import relative

    if site.is_file():
        return [site], []
    found: list[Path] = []
    faults: list[OSError] = []
    inside = os.path.join(os.path.realpath(site), "")  # noqa: PTH118
    for place, folders, files in os.walk(site, onerror=faults.append):
        paths = {name: os.path.join(place, name) for name in sorted(folders) if not name.startswith(".")}  # noqa: PTH118
        folders[:] = [name for name, path in paths.items() if selection.enters(relative(path, site))]
        for path in (paths[name] for name in folders):
            if os.path.islink(path) and not os.path.join(os.path.realpath(path), "").startswith(inside):  # noqa: PTH114, PTH118
                report(f"{path}: a link to a folder elsewhere, and is left out; give that folder itself")
        for name in sorted(files):
            file = Path(place, name)
            if not name.startswith(".") and file.suffix.lower() in endings and selection.takes(relative(file, site)):
                found.append(file)
    return found, faults


def _picture(place: "Place", page: "Page", site: Path) -> Path | int:
    """The file of a picture; or how many failures it is that there is none: 0 for those that are not of the site."""
    from captioner.data.alt_texts import picture_of

    found = picture_of(place, page.path, site)
    where = f"{page.path}:{place.line}"
    if found == "remote":
        report(f"{where}: {place.source} is remote, and is left out")
        return 0
    if found == "data":
        report(f"{where}: a picture that lies in the page itself is left out")
        return 0
    if not isinstance(found, Path):
        report(f"{where}: a picture without a name is left out")
        return 0
    try:
        is_file = found.is_file()
    except OSError:  # a name that is too long
        is_file = False
    if not is_file:
        report(f"{where}: {place.source}: no such picture ({found})")
        return 1
    return found


def _captions(options: argparse.Namespace, pictures: list[Path]) -> Iterator[tuple[Path, str | None]]:
    """Each picture with its caption, or None where it does not open, which is reported."""
    from captioner.commands.progress import progress
    from captioner.results import Failure

    if not pictures:
        return
    model = load_model(options)
    with progress("captions", len(pictures)) as (advance, print_line):
        for picture, outcome in zip(pictures, model.caption_all(pictures, batch=options.batch), strict=True):
            if isinstance(outcome, Failure):
                print_line(message_line(outcome))
            advance()
            yield picture, None if isinstance(outcome, Failure) else outcome.text


def _write(page: "Page", captions: dict["Place", str]) -> bool:
    """Write a page; False where it has changed since it was read."""
    try:
        if page.path.read_bytes() != page.content:
            report(f"{page.path}: has changed meanwhile, and stays as it is; run the command again")
            return False
        write_whole(page.path, page.edited(captions), errors="surrogateescape")
    except OSError as error:
        report(f"{page.path}: cannot be written ({error.strerror or error})")
        return False
    except DataError as error:
        report(error)
        return False
    return True


def _print_diff(page: "Page", captions: dict["Place", str], site: Path) -> None:
    """Print the change as a unified diff that ``patch -p1`` takes in the site's folder."""
    name = page.path.relative_to(site).as_posix()
    before, after = _lines(page.text), _lines(page.edited(captions))
    for line in difflib.unified_diff(before, after, _in_diff(f"a/{name}"), _in_diff(f"b/{name}")):
        sys.stdout.write(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n")


def _in_diff(name: str) -> str:
    """A name in the head of a diff as git writes it: a tab ends one with spaces, and one with signs is quoted."""
    if re.search(r'[\x00-\x1f"\\\x7f]', name):
        quoted = re.sub(r'["\\]', r"\\\g<0>", name)
        return '"' + re.sub(r"[\x00-\x1f\x7f]", lambda found: f"\\{ord(found[0]):03o}", quoted) + '"'
    return f"{name}\t" if " " in name else name


@contextmanager
def _bytes_kept() -> Iterator[None]:
    """Inside, standard output has pages to the byte, also where they are not UTF-8, since patch compares bytes."""
    stream: Any = sys.stdout
    if stream.isatty() or not hasattr(stream, "reconfigure"):
        yield
        return
    before = {"encoding": stream.encoding, "errors": stream.errors}
    stream.reconfigure(encoding="utf-8", errors="surrogateescape")
    try:
        yield
    finally:
        stream.reconfigure(**before)


def _lines(text: str) -> list[str]:
    """Lines that end in a line feed alone, as diff and patch have them."""
    parts = text.split("\n")
    return [f"{part}\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])
