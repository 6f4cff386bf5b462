"""The options that say which pictures a command takes."""

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from captioner.errors import OptionError

if TYPE_CHECKING:
    from captioner.data.pictures import FoundPictures


def add_picture_options(parser: argparse.ArgumentParser) -> None:
    """Declare PICTURE, --from, --recursive, --include, --exclude, --shard and --column."""
    parser.add_argument(
        "pictures", nargs="*", metavar="PICTURE", help="a picture, a folder of them, or a .tar or .parquet file of them"
    )
    group = parser.add_argument_group("which pictures")
    group.add_argument(
        "--from",
        metavar="FILE",
        help="a list of pictures, a path a line, or with null characters between them; - is standard input",
    )
    add_folder_options(group)
    group.add_argument("--shard", metavar="I/N", help="the I-th of N parts of the pictures, the same on every machine")
    group.add_argument("--column", metavar="NAME", help="of a .parquet file: the one with the pictures or their paths")


def add_folder_options(group: "argparse._ArgumentGroup") -> None:
    """Declare --recursive, --include and --exclude."""
    group.add_argument(
        "--recursive",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="search subfolders too (default: they are searched)",
    )
    group.add_argument(
        "--include", action="append", default=[], metavar="GLOB", help="take only files such as '*.jpg' or '2024/**'"
    )
    group.add_argument(
        "--exclude", action="append", default=[], metavar="GLOB", help="leave out files and folders such as 'thumbs'"
    )


def check_given(options: argparse.Namespace) -> None:
    """Make sure that there is something to caption. Raises OptionError."""
    if not options.pictures and getattr(options, "from") is None:
        raise OptionError(
            "the following arguments are required: PICTURE, or --from FILE (see captioner caption --help)"
        )


def find_chosen(
    options: argparse.Namespace, *, leave_out: Iterable[Path] = (), uncounted: Iterable[str] = ()
) -> "FoundPictures":
    """The pictures that the options choose; other arguments as of `captioner.data.pictures.find_pictures`.

    Raises:
        OptionError: no pictures are given, or an option is not understood.
        DataError: the list of pictures cannot be read.
    """
    from captioner.data.pictures import find_pictures
    from captioner.data.selection import Selection, parse_shard

    selection = Selection(
        recursive=options.recursive,
        include=tuple(options.include),
        exclude=tuple(options.exclude),
        shard=None if options.shard is None else parse_shard(options.shard),
    )
    names = [*options.pictures, *_listed(getattr(options, "from"))]
    if options.column is not None and not any(name.lower().endswith(".parquet") for name in names):
        raise OptionError(f"--column {options.column}: is of Parquet tables, and none is given", remedy="leave it out")
    return find_pictures(names, leave_out=leave_out, selection=selection, column=options.column, uncounted=uncounted)


def _listed(source: str | None) -> list[str]:
    """The names of a list. Raises OptionError where it cannot be read, or holds none."""
    from captioner.data.pictures import names_in_list
    from captioner.image import SUFFIXES

    if source is None:
        return []
    if not source:
        raise OptionError("--from is empty", remedy="give a list of files, or - for standard input")
    if Path(source).suffix.lower() in SUFFIXES:
        raise OptionError(f"--from {source}: is a picture, and no list of pictures", remedy="give it as PICTURE")
    if source == "-" and sys.stdin is None:
        raise OptionError("--from -: standard input is closed", remedy="give a list of files")
    try:
        content = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    except (OSError, AttributeError, ValueError) as error:  # standard input may be closed, or a stream of text
        reason = getattr(error, "strerror", None) or error
        raise OptionError(f"--from {source}: cannot be read ({reason})", remedy="give a list of files") from None
    names = names_in_list(content)
    if not names:
        raise OptionError(f"--from {source}: the list is empty")
    return names
