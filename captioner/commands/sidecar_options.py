"""The options of what is written beside the pictures, and of what goes before and after every caption."""

import argparse
from collections.abc import Callable
from pathlib import PurePath
from typing import TYPE_CHECKING

from captioner.errors import OptionError

if TYPE_CHECKING:
    from captioner.data.affixes import Affixes
    from captioner.data.writers import BesideFiles


def add_sidecar_options(parser: argparse.ArgumentParser) -> None:
    """Declare --sidecar, --xmp and their options, --prefix and --suffix."""
    group = parser.add_argument_group("beside the pictures")
    group.add_argument(
        "--sidecar", metavar="ENDING", help="write a file beside each picture: .txt, .caption or .json (a.jpg -> a.txt)"
    )
    group.add_argument(
        "--xmp",
        action="store_true",
        help="write dc:description, as photo archives read it, beside each picture",
    )
    group.add_argument("--alt-text", action="store_true", help="with --xmp, IPTC's AltTextAccessibility too")
    group.add_argument(
        "--xmp-name", choices=("stem", "name"), help="a.jpg has a.xmp (stem, the default) or a.jpg.xmp (name)"
    )
    group.add_argument(
        "--existing",
        choices=("skip", "overwrite", "append", "prepend"),
        help="what becomes of a caption that is there (default skip)",
    )
    group.add_argument(
        "--separator", metavar="TEXT", help="between captions, with --existing append or prepend (default ', ')"
    )
    texts = parser.add_argument_group("every caption")
    fields = "{name} {stem} {folder} {parent} {index} stand for the picture's"
    texts.add_argument("--prefix", default="", metavar="TEXT", help=f"put before it; {fields}")
    texts.add_argument("--suffix", default="", metavar="TEXT", help="put after it")


def affixes_of(options: argparse.Namespace) -> "Affixes":
    """What goes before and after every caption. Raises OptionError."""
    from captioner.data.affixes import Affixes

    return Affixes(prefix=options.prefix, suffix=options.suffix)


def endings_of(options: argparse.Namespace) -> list[str]:
    """The endings of the sidecars that are asked for. Raises OptionError for one that is no form of sidecars."""
    from captioner.data.sidecars import SIDECARS
    from captioner.image import SUFFIXES

    endings = []
    if options.sidecar is not None:
        ending = f".{options.sidecar.lower().removeprefix('.')}"
        known = [one for one in SIDECARS if one != ".xmp"]
        if ending == ".xmp":
            raise OptionError("--sidecar .xmp: descriptions of photo archives have an option", remedy="give --xmp")
        if ending in SUFFIXES or ending not in known:
            raise OptionError(f"--sidecar {options.sidecar}: sidecars end in {', '.join(known)}")
        endings.append(ending)
    if options.xmp:
        endings.append(".xmp")
    return endings


def open_sidecars(options: argparse.Namespace) -> "list[BesideFiles]":
    """The sidecars that the options ask for. Raises OptionError where they do not go together."""
    endings = endings_of(options)
    for name in ("alt_text", "xmp_name"):
        if getattr(options, name) and not options.xmp:
            raise OptionError(f"--{name.replace('_', '-')} goes with --xmp", remedy="add --xmp")
    for name in ("existing", "separator"):
        if getattr(options, name) is not None and not endings:
            raise OptionError(
                f"--{name} is of sidecars, and none are asked for",
                remedy="add --sidecar or --xmp; --overwrite starts --output again",
            )
    if not endings:
        return []
    from captioner.data.sidecars import SIDECARS, Join
    from captioner.data.writers import BesideFiles
    from captioner.data.xmp import XmpSidecar

    existing = options.existing or "skip"
    if options.separator is not None and existing not in ("append", "prepend"):
        raise OptionError(f"--separator goes with --existing append or prepend, not {existing}")
    join = Join(existing=existing, separator=", " if options.separator is None else options.separator)
    found = []
    for ending in endings:
        if ending == ".xmp":
            naming = _named_whole if options.xmp_name == "name" else _named
            form = XmpSidecar(alt_text=options.alt_text)
            found.append(BesideFiles(form, naming(ending), join, option="--xmp"))
        else:
            found.append(BesideFiles(SIDECARS[ending](), _named(ending), join, option="--sidecar"))
    return found


def _named(ending: str) -> Callable[[str], str]:
    """Names a sidecar after its picture's stem."""
    return lambda name: f"{PurePath(name).stem}{ending}"


def _named_whole(ending: str) -> Callable[[str], str]:
    """Names a sidecar after its picture's whole name."""
    return lambda name: f"{name}{ending}"
