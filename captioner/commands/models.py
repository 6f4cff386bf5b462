"""The command ``captioner models``: what the shipped model files hold about themselves."""

import argparse
import json
from pathlib import Path

from captioner.commands.console import report
from captioner.errors import CheckpointError, DataError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "name", nargs="?", metavar="NAME", help="one model: a name that ships, a model file, or an exported folder"
    )
    parser.add_argument(
        "--diagram",
        type=Path,
        metavar="FILE",
        help="draw how the model attends, with shapes: a .svg or .png file (needs graphviz), or its source, .gv",
    )
    parser.add_argument("--json", action="store_true", help="print all that the files hold about themselves, as JSON")


def run(options: argparse.Namespace) -> int:
    """Run the command: 0, or 1 if a file is damaged. Raises DataError if no model ships, and CaptionerError where a
    diagram cannot be drawn."""
    from captioner.header import read_header
    from captioner.shipped import find_model, shipped_models
    from captioner.tokenizer.vocabulary import SPECIAL

    if options.diagram is not None:
        return _draw(options)
    if options.name is not None:
        found = find_model(options.name)
        models = {found.stem: found}
    else:
        models = shipped_models()
    if not models:
        raise DataError("no models ship with this installation", remedy="give a model file")
    code = 0
    for name, path in models.items():
        try:
            header = read_header(path)
        except CheckpointError as error:
            report(error)
            code = 1
            continue
        size = sum(file.stat().st_size for file in ([path] if path.is_file() else path.glob("*")))
        if options.json:
            print(json.dumps({"name": name, "path": str(path), "bytes": size, **header}))
            continue
        config, test = header["config"], header["about"].get("test", {})
        scores = "  ".join(f"{measure} {value:.1f}" for measure, value in test.get("scores", {}).items())
        print(
            f"{name:<12} {size / 1e6:5.1f} MB  {config['encoder'].get('backbone', '?')} + "
            f"{config['decoder'].get('kind', '?')}, {len(header['vocabulary']) - len(SPECIAL):,} words  "
            f"{test.get('on', '')}{': ' if scores else ''}{scores}"
        )
    return code


def _draw(options: argparse.Namespace) -> int:
    """Draw the diagram of a model; where there is no graphviz, write its source and say so."""
    from captioner.commands.files import refuse_overwriting
    from captioner.errors import OptionError
    from captioner.header import read_header
    from captioner.pipeline import load
    from captioner.shipped import DEFAULT_MODEL, find_model
    from captioner.show.diagram import FORMATS, diagram, write_diagram

    if options.diagram.suffix.lower() not in FORMATS:
        raise OptionError(f"--diagram {options.diagram}: a diagram ends in {', '.join(FORMATS)}")
    path = find_model(options.name or DEFAULT_MODEL)
    refuse_overwriting({"--diagram": options.diagram}, [path])
    source = diagram(read_header(path), load(path, device="cpu").backend.grid_shape, name=path.stem)
    written = write_diagram(source, options.diagram)
    if written != options.diagram:
        report(f"{written}: the source alone, because graphviz' program dot is not installed")
    print(written)
    return 0
