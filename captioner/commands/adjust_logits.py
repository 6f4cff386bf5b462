"""The command ``captioner adjust-logits``: words as often as people say them."""

import argparse
import json
import math
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
from captioner.commands.ranges import check_positive
from captioner.errors import DataError, OptionError

_SHOWN_FAULTS = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.description = (
        "Make a model say each word nearer to as often as people do (logit adjustment): it captions training pictures, "
        "and the words that it says too seldom become likelier, the others less likely. Its captions then have more "
        "different words."
    )
    parser.add_argument("model", metavar="MODEL", help="a name that 'captioner models' lists, or a model file")
    parser.add_argument(
        "--data",
        type=Path,
        nargs="+",
        required=True,
        metavar="PATH",
        help="captions of pictures, of which the training split is read",
    )
    parser.add_argument("--images", type=Path, help="the folder of the pictures, where it is not beside the captions")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="the file to write, in 32 bits")
    parser.add_argument(
        "--strength",
        type=float,
        default=0.2,
        metavar="X",
        help="what the logarithms of the ratios are multiplied by (default 0.2)",
    )
    parser.add_argument(
        "--pictures", type=int, default=2000, metavar="N", help="the most, evenly spread over the split (default 2000)"
    )
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:1, mps")
    parser.add_argument("--threads", type=int, metavar="N", help="of the CPU (default: as many as torch takes)")


def run(options: argparse.Namespace) -> int:
    """Write the adjusted model: 0, or 1 if pictures were left out. Raises CaptionerError."""
    require("torch", "adjusting logits")
    check_positive(options, "pictures", "threads")
    if not (options.strength > 0 and math.isfinite(options.strength)):
        raise OptionError(f"--strength must be above 0, not {options.strength}", remedy="0.2 is usual")
    check_model_output(options.output)
    if options.images is not None and len(options.data) > 1:
        raise OptionError(
            "--images is given with several --data", remedy="several look for their pictures beside their captions"
        )
    file = find_weights(options.model, "adjust-logits")
    refuse_overwriting({"--output": options.output}, [*model_files(file), *options.data])

    from captioner.data.readers import read
    from captioner.data.records import of_split, usable

    records = [one for path in options.data for one in of_split(read(path, images=options.images), "train")]
    if not records:
        raise DataError(
            f"{', '.join(map(str, options.data))}: no pictures of the split 'train'", remedy="give training data"
        )
    if options.pictures < len(records):
        records = [records[len(records) * i // options.pictures] for i in range(options.pictures)]
    refuse_overwriting({"--output": options.output}, (one.image for one in records if isinstance(one.image, Path)))
    records, faults = usable(records, threads=options.threads)
    for what in list(faults.values())[:_SHOWN_FAULTS]:
        print(f"captioner: {what}", file=sys.stderr)
    if faults:
        print(f"captioner: {len(faults)} of {len(records) + len(faults)} pictures are left out", file=sys.stderr)
    if not records:
        raise DataError("no picture opens", remedy="look at the lines above")

    import torch

    from captioner import checkpoint
    from captioner.backends.torch import find_device
    from captioner.commands.progress import progress
    from captioner.training.logit_adjustment import adjust_logits

    if options.threads is not None:
        torch.set_num_threads(options.threads)
    model = checkpoint.load(file, device=find_device(options.device))
    with progress("pictures", len(records)) as (advance, _):
        adjusted = adjust_logits(model, records, strength=options.strength, file=str(file), advance=advance)
    checkpoint.save(options.output, adjusted.model, half=False)
    report_old_graphs(options.output)
    print(json.dumps({"pictures": adjusted.pictures, "words": adjusted.before, "words_of_people": adjusted.references}))
    return 1 if faults else 0
