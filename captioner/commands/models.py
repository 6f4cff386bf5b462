"""The command ``captioner models``: what the shipped model files hold about themselves."""

import argparse
import json

from captioner.commands.console import report
from captioner.errors import CheckpointError, DataError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--json", action="store_true", help="print all that the files hold about themselves, as JSON")


def run(options: argparse.Namespace) -> int:
    """Run the command: 0, or 1 if a file is damaged. Raises DataError if no model ships."""
    from captioner.header import read_header
    from captioner.shipped import shipped_answering_models, shipped_models
    from captioner.tokenizer.vocabulary import SPECIAL

    models = {**shipped_models(), **shipped_answering_models()}
    if not models:
        raise DataError("no models ship with this installation", remedy="give a model file with --model")
    code = 0
    for name, path in models.items():
        try:
            header = read_header(path)
        except CheckpointError as error:
            report(error)
            code = 1
            continue
        size = path.stat().st_size
        if options.json:
            print(json.dumps({"name": name, "path": str(path), "bytes": size, **header}))
            continue
        config, test = header["config"], header["about"].get("test", {})
        scores = "  ".join(f"{measure} {value:.1f}" for measure, value in test.get("scores", {}).items())
        part = config.get("decoder") or config.get("answerer", {})
        of_answers = f", {len(header['answers']):,} answers" if header["answers"] else ""
        print(
            f"{name:<12} {size / 1e6:5.1f} MB  {config['encoder'].get('backbone', '?')} + "
            f"{part.get('kind', '?')}, {len(header['vocabulary']) - len(SPECIAL):,} words{of_answers}  "
            f"{test.get('on', '')}{': ' if scores else ''}{scores}"
        )
    return code
