"""The command ``captioner models``: what the shipped model files hold about themselves."""

from __future__ import annotations

import os

from captioner.commands.console import printable, report
from captioner.errors import CheckpointError, DataError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

DEFAULTS = {"name": None, "diagram": None, "json": False}
"""See `captioner.cli`."""
_SPECIAL = 4  # `captioner.tokenizer.vocabulary.SPECIAL`, whose import takes longer than all of this


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "name", nargs="?", metavar="NAME", help="one model: a name that ships, a model file, or an exported folder"
    )
    parser.add_argument(
        "--diagram",
        metavar="FILE",
        help="draw how the model attends, with shapes: a .svg or .png file (needs graphviz), or its source, .gv",
    )
    parser.add_argument("--json", action="store_true", help="print all that the files hold about themselves, as JSON")


def run(options: argparse.Namespace) -> int:
    """Run the command: 0, 1 if some files are damaged, 2 if all are. Raises DataError if no model ships, and
    CaptionerError where a diagram cannot be drawn."""
    from captioner.shipped import SHIPPED_DEFAULT, shipped_answering_files, shipped_files

    if options.diagram is not None:
        from captioner.commands.diagram import draw

        return draw(options.name, options.diagram)
    if options.name is None:
        models = {**shipped_files(), **shipped_answering_files()}
    else:
        from captioner.shipped import find_model

        found = find_model(options.name, answering=None)
        models = {found.stem: str(found)}
    if not models:
        raise DataError("no models ship with this installation", remedy="give a model file")
    default = shipped_files().get(SHIPPED_DEFAULT)
    damaged = 0
    for name, path in models.items():
        try:
            print(_as_json(name, path) if options.json else _line(name, path) + "  (default)" * (path == default))
        except CheckpointError as error:
            report(error)
            damaged += 1
    return 0 if not damaged else 2 if damaged == len(models) else 1


def _as_json(name: str, path: str) -> str:
    import json

    from captioner.header import read_header

    header = read_header(path)
    shared = None if header["shared"] is None else header["shared"][0]  # whose own line has the rest
    return json.dumps({"name": name, "path": path, "bytes": _size(path), **header, "shared": shared})


def _line(name: str, path: str) -> str:
    from captioner.header import damaged, read_header, read_summary

    model: dict[str, Any] = {**read_header(path)} if os.path.isdir(path) else read_summary(path)  # noqa: PTH112
    try:
        config, about = model["config"], model["about"]
        test = about.get("test", {})
        if not test and model.get("answers"):
            test = about.get("dev", {})  # its scores, where nobody has looked at test
        counts = test.get("counts", {})
        scores = "  ".join(
            f"{measure} {value:.1f}" + (f" ({counts[measure]:,})" if measure in counts else "")
            for measure, value in test.get("scores", {}).items()
        )
        part, answers = config.get("decoder") or config["answerer"], model.get("answers") or ()
        of_answers = f", {len(answers):,} answers" if answers else ""
        owner = f" of {model['shares']['file'].removesuffix('.safetensors')}" if model.get("shares") is not None else ""
        return printable(  # nothing in the file is validated
            f"{name:<12} {_size(path) / 1e6:5.1f} MB  {config['encoder'].get('backbone', '?')}{owner} + "
            f"{part.get('kind', '?')}, {len(model['vocabulary']) - _SPECIAL:,} words{of_answers}  "
            f"{test.get('on', '')}{': ' if scores else ''}{scores}"
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise damaged(path, error) from None


def _size(path: str) -> int:
    """Bytes of a model file, or of the files of an exported folder."""
    if os.path.isdir(path):  # noqa: PTH112
        return sum(entry.stat().st_size for entry in os.scandir(path) if entry.is_file())
    return os.stat(path).st_size  # noqa: PTH116
