"""The command ``captioner ensemble``."""

import argparse
from pathlib import Path

from captioner.commands.files import check_model_output, model_files, refuse_overwriting, report_old_graphs
from captioner.commands.packages import require


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.description = (
        "Make one model of several that were trained apart on the grids of one encoder: it averages the probabilities "
        "of their words."
    )
    parser.add_argument(
        "models", nargs="+", type=Path, metavar="MODEL", help="model files; the maps and the options are the first's"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="the file to write, in 32 bits")


def run(options: argparse.Namespace) -> int:
    """Write the ensemble: 0. Raises OptionError, CheckpointError."""
    require("torch", "making an ensemble")
    check_model_output(options.output)
    refuse_overwriting({"--output": options.output}, (one for model in options.models for one in model_files(model)))
    from captioner import checkpoint
    from captioner.training.ensembles import make_ensemble

    checkpoint.save(options.output, make_ensemble(options.models), half=False)
    report_old_graphs(options.output)
    print(options.output)
    return 0
