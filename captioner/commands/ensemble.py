"""The command ``captioner ensemble``."""

import argparse
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
    parser.description = (
        "Make one model of several that were trained apart on the grids of one encoder: it averages the probabilities "
        "of their words. Or write one of its decoders as a model of its own."
    )
    parser.add_argument(
        "models",
        nargs="+",
        metavar="MODEL",
        help="names that 'captioner models' lists, or files; the maps and the options are the first's",
    )
    parser.add_argument(
        "--member", type=int, metavar="N", help="write this decoder of the one model, an ensemble; the first is 1"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="the file to write, in 32 bits")


def run(options: argparse.Namespace) -> int:
    """Write the ensemble, or its member: 0. Raises OptionError, CheckpointError."""
    require("torch", "making an ensemble")
    if options.member is not None and len(options.models) > 1:
        raise OptionError(f"--member takes one out of one ensemble, and {len(options.models)} models are given")
    check_model_output(options.output)
    models = [find_weights(model, "an ensemble") for model in options.models]
    refuse_overwriting({"--output": options.output}, (file for one in models for file in model_files(one)))
    from captioner import checkpoint
    from captioner.training.ensembles import make_ensemble, take_member

    made = make_ensemble(models) if options.member is None else take_member(models[0], options.member)
    checkpoint.save(options.output, made, half=False)
    report_old_graphs(options.output)
    print(options.output)
    return 0
