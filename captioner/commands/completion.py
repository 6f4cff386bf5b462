"""Completion scripts for shells, made of the parsers. They are static: completing starts no Python."""

import argparse
from collections.abc import Mapping
from typing import NamedTuple

from captioner.errors import OptionError
from captioner.shipped import DEFAULT_MODEL, shipped_answering_files, shipped_files
from captioner.training.recipe import BUILT_IN
from captioner.training.recipe_files import named_recipes


class _Option(NamedTuple):
    names: tuple[str, ...]
    choices: tuple[str, ...]
    proposed: tuple[str, ...]  # values beside which there are others, such as files
    takes_value: bool
    help: str


def script(shell: str, helps: Mapping[str, str], parsers: Mapping[str, argparse.ArgumentParser]) -> str:
    """The completion script of the program.

    Args:
        shell: bash, zsh or fish.
        helps: a line for each command.
        parsers: of the commands; one that is missing has its name completed alone.

    Raises:
        OptionError: another shell.
    """
    makers = {"bash": _bash, "zsh": _zsh, "fish": _fish}
    if shell not in makers:
        raise OptionError(f"there is no completion for '{shell}', only for {', '.join(makers)}")
    options = {name: _options(parsers[name], _proposed(name)) if name in parsers else [] for name in helps}
    return makers[shell](helps, options)


def _proposed(command: str) -> Mapping[str, tuple[str, ...]]:
    """Option -> values that it may take, not all of them."""
    return {
        "--device": ("auto", "cpu", "cuda", "mps"),
        "--backend": ("auto", "onnx", "torch"),
        "--model": tuple(shipped_answering_files() if command == "ask" else (*shipped_files(), DEFAULT_MODEL)),
        "--recipe": tuple(named_recipes()),
        **{f"--{option}": names for option, names in BUILT_IN.items()},
    }


def _options(parser: argparse.ArgumentParser, proposed: Mapping[str, tuple[str, ...]]) -> list[_Option]:
    return [
        _Option(
            names=tuple(action.option_strings),
            choices=tuple(map(str, action.choices or ())),
            proposed=proposed.get(action.option_strings[-1], ()),
            takes_value=action.nargs != 0,
            help=_short(action.help),
        )
        for action in parser._actions
        if action.option_strings and action.help != argparse.SUPPRESS
    ]


def _short(text: str | None) -> str:
    """A help text as a description: its first clause, without what a shell would read as syntax."""
    clause = (text or "").split(";")[0].split(" (")[0].replace("%%", "%")
    return "".join(character for character in clause if character not in "'\"`$\\[]:")


def _bash(helps: Mapping[str, str], options: Mapping[str, list[_Option]]) -> str:
    cases = []
    for command, some in options.items():
        names = " ".join(name for option in some for name in option.names)
        chosen = "".join(
            f"            {'|'.join(option.names)}) words='{' '.join(option.choices or option.proposed)}' ;;\n"
            for option in some
            if option.choices or option.proposed
        )
        files_alone = [one for one in some if one.takes_value and not (one.choices or one.proposed)]
        valued = "|".join(name for option in files_alone for name in option.names)
        files = f"            {valued}) words= ;;\n" if valued else ""
        cases.append(
            f"        {command})\n            words='{names}'\n            case \"$before\" in\n{chosen}{files}"
            "            esac ;;\n"
        )
    return f"""# bash completion for captioner: put this line into ~/.bashrc
#   eval "$(captioner --print-completion bash)"
_captioner() {{
    local current="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}" words=
    COMPREPLY=()
    if [ "$COMP_CWORD" -eq 1 ]; then
        words='{" ".join(helps)} --help --version --print-completion'
    else
        case "${{COMP_WORDS[1]}}" in
{"".join(cases)}        esac
        if [ "${{current:0:1}}" != - ] && [ "${{words:0:1}}" = - ]; then
            words=
        fi
    fi
    if [ -n "$words" ]; then
        COMPREPLY=($(compgen -W "$words" -- "$current"))
    fi
}}
complete -o default -o bashdefault -F _captioner captioner
"""


def _zsh(helps: Mapping[str, str], options: Mapping[str, list[_Option]]) -> str:
    commands = "\n".join(f"    '{name}:{_short(text)}'" for name, text in helps.items())
    cases = []
    for command, some in options.items():
        lines = []
        for option in some:
            value = f":value:({' '.join(option.choices)})" if option.choices else ":value:_files"
            if option.proposed:
                value = f":value:{{compadd -- {' '.join(option.proposed)}; _files}}"
            lines += [f"'{name}[{option.help}]{value if option.takes_value else ''}'" for name in option.names]
        cases.append(f"    {command}) _arguments {' '.join([*lines, chr(39) + '*:file:_files' + chr(39)])} ;;\n")
    return f"""#compdef captioner
# zsh completion for captioner: put this line into ~/.zshrc, after compinit
#   eval "$(captioner --print-completion zsh)"
_captioner() {{
  local -a commands
  commands=(
{commands}
  )
  if (( CURRENT == 2 )); then
    _describe command commands
    return
  fi
  local command="$words[2]"
  shift words
  (( CURRENT-- ))
  case "$command" in
{"".join(cases)}  esac
}}
compdef _captioner captioner
"""


def _fish(helps: Mapping[str, str], options: Mapping[str, list[_Option]]) -> str:
    lines = [
        "# fish completion for captioner",
        "#   captioner --print-completion fish > ~/.config/fish/completions/captioner.fish",
        "complete -c captioner -n __fish_use_subcommand -l help -d 'show the help'",
        "complete -c captioner -n __fish_use_subcommand -l version -d 'show the version'",
    ]
    for command, text in helps.items():
        lines.append(f"complete -c captioner -n __fish_use_subcommand -f -a {command} -d '{_short(text)}'")
        for option in options[command]:
            names = " ".join(f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names)
            value = f" -x -a '{' '.join(option.choices)}'" if option.choices else " -r" if option.takes_value else ""
            value += f" -a '{' '.join(option.proposed)}'" if option.proposed else ""
            lines.append(
                f"complete -c captioner -n '__fish_seen_subcommand_from {command}' {names}{value} -d '{option.help}'"
            )
    return "\n".join(lines) + "\n"
