"""The command ``captioner adjust-logits``: words as often as people say them."""

import argparse
import json
import math

from captioner.commands.files import report_old_graphs
from captioner.commands.packages import require
from captioner.commands.training_pictures import (
    add_training_picture_options,
    check_training_picture_options,
    load_model,
    training_pictures,
)
from captioner.errors import OptionError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.description = (
        "Make a model say each word nearer to as often as people do (logit adjustment): it captions training pictures, "
        "and of the words of their references those that it says too seldom become likelier, those that it says too "
        "often less likely."
    )
    add_training_picture_options(parser, pictures=2000)
    parser.add_argument(
        "--strength",
        type=float,
        default=0.3,
        metavar="X",
        help="what the logarithms of the ratios are multiplied by (default 0.3)",
    )


def run(options: argparse.Namespace) -> int:
    """Write the adjusted model: 0, or 1 if pictures were left out. Raises CaptionerError."""
    require("torch", "adjusting logits")
    if not (options.strength > 0 and math.isfinite(options.strength)):
        raise OptionError(f"--strength must be a number above 0, not {options.strength}")
    file = check_training_picture_options(options, "adjust-logits")

    from captioner import checkpoint
    from captioner.commands.progress import progress
    from captioner.training.logit_adjustment import adjust_logits

    model = load_model(options, file)
    records, left_out = training_pictures(options)
    with progress("pictures", len(records)) as (advance, _):
        adjusted = adjust_logits(model, records, strength=options.strength, file=str(file), advance=advance)
    checkpoint.save(options.output, adjusted.model, half=False)
    report_old_graphs(options.output)
    counts = {"pictures": adjusted.pictures, "vocabulary": adjusted.vocabulary, "references": adjusted.references}
    print(json.dumps(counts))
    return 1 if left_out else 0
