"""The table of commands. A command's module is imported only when the command runs.

Exit codes: 0 all well; 1 some pictures failed, each named on standard error, the others done; 2 wrong usage, or nothing
could be done.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections import namedtuple

from captioner.commands.console import end_process, exit_code, standard_streams
from captioner.errors import OptionError
from captioner.training.processes import leave
from captioner.version import __version__

TYPE_CHECKING = False  # here and below: what --help does not need is imported where it is used
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from types import ModuleType
    from typing import NoReturn


class Command(namedtuple("Command", ["module", "help"])):
    """A line of the table.

    Attributes:
        module: has ``add_arguments(parser)``, which imports nothing large, and ``run(options)``, which returns the
            exit code. It may have ``TAKES_URLS``, the options that are not files of this machine alone.
        help: one line.
    """

    module: str
    help: str

    __slots__ = ()


COMMANDS = {
    "caption": Command("captioner.commands.caption", "caption pictures or folders of them"),
    "ask": Command("captioner.commands.ask", "answer questions about pictures"),
    "bulk": Command("captioner.commands.bulk", "caption very many pictures, on one machine or a Ray cluster"),
    "alt": Command("captioner.commands.alt", "propose alternative texts for the pictures of a site"),
    "evaluate": Command("captioner.commands.evaluate", "compute the scores of captions, or of answers"),
    "ground": Command("captioner.commands.ground", "measure whether the maps lie on what the words name"),
    "train": Command("captioner.commands.train", "train a model"),
    "serve": Command("captioner.commands.serve", "serve a page for your pictures, and an HTTP API"),
    "review": Command("captioner.commands.review", "walk pictures in the browser, and accept or edit their captions"),
    "models": Command("captioner.commands.models", "list the models that ship"),
    "export": Command("captioner.commands.export", "make a trained model ready to ship, with its scores"),
    "average": Command("captioner.commands.average", "average the weights of several models (model soup)"),
    "ensemble": Command("captioner.commands.ensemble", "average the words' probabilities of several models"),
    "adjust-logits": Command(
        "captioner.commands.adjust_logits", "make a model say words nearer to as often as people do"
    ),
    "train-reranker": Command(
        "captioner.commands.train_reranker",
        "make a model choose among its beam's captions by what the picture predicts",
    ),
    "prune": Command("captioner.commands.prune", "take hidden channels out of a model's encoder"),
    "select-heads": Command("captioner.commands.select_heads", "find the attention heads whose maps are truest"),
    "plot": Command("captioner.commands.plot", "plot the learning curves of training runs"),
    "scenes": Command("captioner.commands.scenes", "draw scenes with captions, as a data set without downloads"),
    "shards": Command("captioner.commands.shards", "pack pictures and captions into tar files for training"),
}
SHELLS = ("bash", "zsh", "fish")

_URL = r"(?i)([a-z][a-z0-9+.-]+):/+"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code. In a launched process it ends the process with that code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    with standard_streams():
        code = exit_code(lambda: _run(words))
    leave(code)
    return code


def program() -> NoReturn:
    """The program ``captioner``: run the command line of this process, and end the process."""
    end_process(main())


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
    options = _parse(words, module)
    from captioner.commands.notices import warnings_as_lines

    with warnings_as_lines():
        try:
            code: int = module.run(options)
        except OptionError as error:
            raise _named_as_given(error, words) from None
    return code


_ALIASES = {"max_length": "--max-words", "min_length": "--min-words", "width": "--beam"}


def _named_as_given(error: OptionError, words: list[str]) -> OptionError:
    """The error of an argument by the name of the option that was given: "n_best must be" as "--n-best must be"."""
    import re

    name, space, rest = str(error).partition(" ")
    plain = name.removesuffix(":")
    given = {word.partition("=")[0] for word in words}
    for option in (f"--{plain.replace('_', '-')}", _ALIASES.get(plain, "")):
        if option in given and option:
            rest = re.sub(rf"\b{plain}\b", option, rest) if "_" in plain else rest  # the remedy has it too
            return OptionError(f"{option}{name[len(plain) :]}{space}{rest}")
    return error


def _parse(words: list[str], module: ModuleType) -> argparse.Namespace:
    """The options of a command. Where none are given and the module has the defaults, argparse is not imported: that
    would take as long as such a command."""
    if len(words) == 1 and hasattr(module, "DEFAULTS"):
        from types import SimpleNamespace

        return SimpleNamespace(**module.DEFAULTS)  # type: ignore[return-value]
    options = _parser_of(words[0], module).parse_args(words[1:])
    _refuse_urls(options, ("pictures", "question", *getattr(module, "TAKES_URLS", ())))
    return options


def _run_without_command(words: list[str]) -> int:
    if words in ([], ["--help"], ["-h"]):
        print(_help(), end="")
        return 0 if words else 2
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


def _overview() -> argparse.ArgumentParser:
    import argparse

    from captioner.commands.parser import Parser

    class Overview(Parser):
        def format_help(self) -> str:
            return _help()

    parser = Overview(prog="captioner", usage="captioner COMMAND ...")
    parser.add_argument("--version", action="version", version=f"captioner {__version__}")
    parser.add_argument("--print-completion", choices=SHELLS, help=argparse.SUPPRESS)
    parser.add_argument("command", type=_command, nargs="?", metavar="COMMAND")
    return parser


def _help() -> str:
    """What ``captioner --help`` prints; without argparse, whose import takes as long as all the rest."""
    width = max(map(len, COMMANDS))
    table = "\n".join(f"  {name:<{width}}  {command.help}" for name, command in COMMANDS.items())
    return f"""usage: captioner COMMAND ...

Caption pictures, and show where the model looked for each word.

options:
  -h, --help            show this help message and exit
  --version             show the program's version number and exit
  --print-completion {{{",".join(SHELLS)}}}
                        print a script that completes commands and options

commands:
{table}

'captioner COMMAND --help' lists the options of a command.
"""


def _command(name: str) -> str:
    if name in COMMANDS:
        return name
    import argparse
    import difflib

    close = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f"did you mean '{close[0]}'?" if close else f"choose from {', '.join(COMMANDS)}"
    raise argparse.ArgumentTypeError(f"invalid choice: '{name}'; {hint}")


def _parser_of(name: str, module: ModuleType) -> argparse.ArgumentParser:
    from captioner.commands.parser import Parser

    parser = Parser(
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


def _refuse_urls(options: argparse.Namespace, but: tuple[str, ...]) -> None:
    """Options name files. A URL gets a message of its own, with the slashes that `pathlib.Path` removes."""
    import re

    for name, value in vars(options).items():
        if name in but:
            continue
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, (str, os.PathLike)) and (found := re.match(_URL, str(one))) and len(found[1]) > 1:
                rest = str(one)[found.end() :]
                raise OptionError(
                    f"--{name.replace('_', '-')} {found[1]}://{rest}: a URL, where a file is due",
                    remedy="fetch the file first and give its path",
                )


if __name__ == "__main__":
    program()
