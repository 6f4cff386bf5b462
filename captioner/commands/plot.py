"""The command ``captioner plot``."""

import argparse
from pathlib import Path

from captioner.commands.files import refuse_overwriting
from captioner.errors import DataError, OptionError
from captioner.partial import written_output

_ENDINGS = (".png", ".pdf", ".svg")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.description = "Draw the training loss and the dev score of runs over the hours that they took."
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folders of runs, one after the other")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help=f"{', '.join(_ENDINGS)}")


def run(options: argparse.Namespace) -> int:
    """Write the figure and print a line for each run: 0. Raises DataError, OptionError."""
    if options.output.suffix.lower() not in _ENDINGS:
        raise OptionError(f"--output {options.output}: no kind of figure", remedy=f"end it in {', '.join(_ENDINGS)}")
    refuse_overwriting({"--output": options.output}, [path for run in options.runs for path in run.glob("*")])
    from captioner.training.plot import draw_runs, read_run

    runs = [read_run(folder) for folder in options.runs]
    figure = draw_runs(runs)
    try:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        with written_output(options.output) as partial:  # its ending says the format
            figure.savefig(partial)
    except OSError as error:
        raise DataError(f"{options.output}: cannot be written ({error.strerror or error})") from None
    for one in runs:
        print(one.summary())
    return 0
