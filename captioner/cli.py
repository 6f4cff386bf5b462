"""The table of commands. A command's module is imported only when the command runs.

Exit codes: 0 all well; 1 some pictures failed, each named on standard error, the others done; 2 wrong usage, or nothing
could be done.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import sys
from collections import namedtuple
from collections.abc import Sequence
from types import ModuleType

from captioner.commands.console import exit_code, standard_streams
from captioner.commands.notices import warnings_as_lines
from captioner.errors import OptionError
from captioner.training.processes import leave
from captioner.version import __version__

TYPE_CHECKING = False  # here and below: typing, dataclasses and pathlib would take half the time of --help
if TYPE_CHECKING:
    from typing import Any


class Command(namedtuple("Command", ["module", "help"])):
    """A line of the table.

    Attributes:
        module: has ``add_arguments(parser)``, which imports nothing large, and ``run(options)``, which returns the
            exit code.
        help: one line.
    """

    module: str
    help: str

    __slots__ = ()


COMMANDS = {
    "caption": Command("captioner.commands.caption", "caption pictures or folders of them"),
    "alt": Command("captioner.commands.alt", "propose alternative texts for the pictures of a site"),
    "evaluate": Command("captioner.commands.evaluate", "compute the COCO scores of captions"),
    "ground": Command("captioner.commands.ground", "measure whether the maps lie on what the words name"),
    "train": Command("captioner.commands.train", "train a model"),
    "serve": Command("captioner.commands.serve", "serve a page for your pictures, and an HTTP API"),
    "models": Command("captioner.commands.models", "list the models that ship"),
    "export": Command("captioner.commands.export", "make a trained model ready to ship, with its scores"),
    "average": Command("captioner.commands.average", "average the weights of several models (model soup)"),
    "select-heads": Command("captioner.commands.select_heads", "find the attention heads whose maps are truest"),
    "plot": Command("captioner.commands.plot", "plot the learning curves of training runs"),
    "scenes": Command("captioner.commands.scenes", "draw scenes with captions, as a data set without downloads"),
    "shards": Command("captioner.commands.shards", "pack pictures and captions into tar files for training"),
}
SHELLS = ("bash", "zsh", "fish")

_URL = re.compile(r"([a-z][a-z0-9+.-]+):/+", re.IGNORECASE)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code. In a launched process it ends the process with that code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    with standard_streams():
        code = exit_code(lambda: _run(words))
    leave(code)
    return code


def parser_of(name: str) -> argparse.ArgumentParser:
    """The parser of a command.

    Raises:
        OptionError: the command is not part of this installation.
    """
    return _parser_of(name, _module_of(name))


def _run(words: list[str]) -> int:
    if not words or words[0] not in COMMANDS:
        return _run_without_command(words)
    module = _module_of(words[0])
    options = _parser_of(words[0], module).parse_args(words[1:])
    _refuse_urls(options)
    with warnings_as_lines():
        code: int = module.run(options)
    return code


def _run_without_command(words: list[str]) -> int:
    parser = _overview()
    options = parser.parse_args(words)
    if options.print_completion is None:
        parser.print_help()
        return 2
    from captioner.commands.completion import script

    helps = {name: command.help for name, command in COMMANDS.items()}
    parsers = {name: known for name in COMMANDS if (known := _known(name)) is not None}
    print(script(options.print_completion, helps, parsers), end="")
    return 0


def _known(name: str) -> argparse.ArgumentParser | None:
    try:
        return parser_of(name)
    except OptionError:
        return None


class _Parser(argparse.ArgumentParser):
    """Wrong usage is reported in one line, without the whole usage before it."""

    def error(self, message: str) -> Any:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _overview() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS))
    table = "\n".join(f"  {name:<{width}}  {command.help}" for name, command in COMMANDS.items())
    parser = _Parser(
        prog="captioner",
        usage="captioner COMMAND ...",
        description="Caption pictures, and show where the model looked for each word.",
        epilog=f"commands:\n{table}\n\n'captioner COMMAND --help' lists the options of a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"captioner {__version__}")
    parser.add_argument("--print-completion", choices=SHELLS, help="print a script that completes commands and options")
    parser.add_argument("command", type=_command, nargs="?", metavar="COMMAND", help="one of the commands below")
    return parser


def _command(name: str) -> str:
    if name in COMMANDS:
        return name
    import difflib

    close = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f"did you mean '{close[0]}'?" if close else f"choose from {', '.join(COMMANDS)}"
    raise argparse.ArgumentTypeError(f"invalid choice: '{name}'; {hint}")


def _parser_of(name: str, module: ModuleType) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=f"captioner {name}", description=f"{COMMANDS[name].help[:1].upper()}{COMMANDS[name].help[1:]}."
    )
    module.add_arguments(parser)
    return parser


def _module_of(name: str) -> ModuleType:
    module = COMMANDS[name].module
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise OptionError(f"the command '{name}' is not part of this installation ({module} is missing)") from None


def _refuse_urls(options: argparse.Namespace) -> None:
    """Options name files. A URL gets a message of its own, with the slashes that `pathlib.Path` removes."""
    for name, value in vars(options).items():
        for one in value if isinstance(value, list) and name != "pictures" else [value]:
            if isinstance(one, (str, os.PathLike)) and (found := _URL.match(str(one))) and len(found[1]) > 1:
                rest = str(one)[found.end() :]
                raise OptionError(
                    f"--{name.replace('_', '-')} {found[1]}://{rest}: a URL, where a file is due",
                    remedy="fetch the file first and give its path",
                )


if __name__ == "__main__":
    sys.exit(main())
