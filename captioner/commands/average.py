"""The command ``captioner average``."""

import argparse
import sys
from pathlib import Path

from captioner.commands.files import (
    check_model_output,
    find_weights,
    model_files,
    refuse_overwriting,
    report_old_graphs,
)
from captioner.commands.packages import require
from captioner.errors import OptionError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.description = "Average the weights of models that were trained from one start (model soup)."
    parser.add_argument(
        "models",
        nargs="+",
        metavar="MODEL",
        help="names that 'captioner models' lists, or files; options are the first's",
    )
    parser.add_argument("--weights", nargs="+", type=float, metavar="W", help="of each model (default: equal)")
    parser.add_argument("--shares", nargs="+", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="the file to write, in 32 bits")


def run(options: argparse.Namespace) -> int:
    """Write the average: 0. Raises OptionError, CheckpointError."""
    require("torch", "averaging weights")
    weights = options.weights
    if options.shares is not None:
        if weights is not None:
            raise OptionError("--shares and --weights are one option and both are given", remedy="give only --weights")
        print("captioner: --shares is now --weights", file=sys.stderr)
        weights = options.shares
    check_model_output(options.output)
    models = [find_weights(model, "averaging weights") for model in options.models]
    refuse_overwriting({"--output": options.output}, (file for one in models for file in model_files(one)))
    from captioner import checkpoint
    from captioner.training.average_checkpoints import average_checkpoints

    checkpoint.save(options.output, average_checkpoints(models, weights=weights), half=False)
    report_old_graphs(options.output)
    print(options.output)
    return 0
