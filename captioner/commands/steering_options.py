"""The options of ``captioner caption`` that steer the words: given, forbidden and required ones, and diverse groups."""

import argparse
from typing import Any

from captioner.errors import OptionError

_NAMES = ("begin", "diverse_groups", "diversity")
_LISTS = ("forbid_words", "require_words")
_OF_BEAM = ("diverse_groups", "diversity", "require_words")


def add_steering_options(parser: "argparse.ArgumentParser | argparse._ArgumentGroup") -> None:
    """Declare --begin, --forbid-words, --require-words, --diverse-groups and --diversity."""
    parser.add_argument("--begin", metavar="TEXT", help="how each caption begins; the model reads these words first")
    parser.add_argument(
        "--forbid-words",
        action="append",
        metavar="WORDS",
        help='words and phrases that no caption holds, with commas between them: "man, fire hydrant"; may be repeated',
    )
    parser.add_argument(
        "--require-words",
        action="append",
        metavar="WORDS",
        help="words and phrases that each caption holds, 8 at most",
    )
    parser.add_argument(
        "--diverse-groups",
        type=int,
        metavar="N",
        help="N groups in the beam that avoid one another's words",
    )
    parser.add_argument("--diversity", type=float, metavar="A", help="how much they avoid them (default 0.5)")


def steering(options: argparse.Namespace) -> dict[str, Any]:
    """The options of the search among them that were given.

    Raises:
        OptionError: options that exclude each other.
    """
    if options.diversity is not None and options.diverse_groups is None:
        raise OptionError("--diversity is of diverse groups", remedy="add --diverse-groups")
    given = {name: getattr(options, name) for name in _NAMES if getattr(options, name) is not None}
    lists = {name: ",".join(getattr(options, name)) for name in _LISTS if getattr(options, name) is not None}
    found = given | lists
    for name in _OF_BEAM:
        if options.sample and name in found:
            raise OptionError(f"--sample draws at random: --{name.replace('_', '-')} does not go with it")
    return found
