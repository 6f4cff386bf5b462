"""The command ``captioner prune``: an encoder with fewer hidden channels."""

import argparse
import json

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
        "Take hidden channels out of the blocks of a model's encoder, those that the others make up for best, so that "
        "it takes less time (channel pruning). Training the model further makes good what that costs."
    )
    add_training_picture_options(parser, pictures=120)
    parser.add_argument(
        "--keep",
        type=float,
        nargs="+",
        required=True,
        metavar="X",
        help="the share of the hidden channels that stays, one for all blocks or one for each",
    )


def run(options: argparse.Namespace) -> int:
    """Write the pruned model: 0, or 1 if pictures were left out. Raises CaptionerError."""
    require("torch", "pruning")
    for share in options.keep:
        if not 0 < share <= 1:
            raise OptionError(f"--keep must be above 0 and at most 1, not {share}")
    file = check_training_picture_options(options, "prune")

    from captioner import checkpoint
    from captioner.commands.progress import progress
    from captioner.model.inverted_residuals import inverted_residuals
    from captioner.training.prune import prune

    model = load_model(options, file)
    blocks = len(inverted_residuals(model.model.encoder.stages))
    if len(options.keep) not in (1, blocks):
        raise OptionError(f"--keep needs one number, or one for each of {blocks} blocks, not {len(options.keep)}")
    records, left_out = training_pictures(options)
    with progress("blocks", blocks) as (advance, _):
        pruned = prune(model, records, keep=options.keep, file=str(file), advance=advance)
    checkpoint.save(options.output, pruned.model, half=False)
    report_old_graphs(options.output)
    errors = [round(error, 4) for error in pruned.errors]
    print(json.dumps({"before": pruned.before, "after": pruned.after, "errors": errors}))
    return 1 if left_out else 0
