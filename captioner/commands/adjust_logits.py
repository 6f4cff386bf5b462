"""The command ``captioner adjust-logits``: words as often as people say them."""

import argparse
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

from captioner.commands.console import report_left_out
from captioner.commands.files import (
    check_images,
    check_model_output,
    find_weights,
    model_files,
    refuse_overwriting,
    report_old_graphs,
)
from captioner.commands.packages import require
from captioner.commands.ranges import check_positive
from captioner.errors import DataError, OptionError

if TYPE_CHECKING:
    from captioner.data.records import Record


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.description = (
        "Make a model say each word nearer to as often as people do (logit adjustment): it captions training pictures, "
        "and of the words of their references those that it says too seldom become likelier, those that it says too "
        "often less likely."
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
        default=0.3,
        metavar="X",
        help="what the logarithms of the ratios are multiplied by (default 0.3)",
    )
    parser.add_argument(
        "--pictures", type=int, default=2000, metavar="N", help="the most, evenly spread over all (default 2000)"
    )
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:1, mps")
    parser.add_argument("--threads", type=int, metavar="N", help="of the CPU (default: as many as torch takes)")


def run(options: argparse.Namespace) -> int:
    """Write the adjusted model: 0, or 1 if pictures were left out. Raises CaptionerError."""
    require("torch", "adjusting logits")
    check_positive(options, "pictures", "threads")
    if not (options.strength > 0 and math.isfinite(options.strength)):
        raise OptionError(f"--strength must be a number above 0, not {options.strength}")
    check_model_output(options.output)
    check_images(options.images, options.data)
    file = find_weights(options.model, "adjust-logits")
    refuse_overwriting({"--output": options.output}, [*model_files(file), *options.data])

    import torch

    from captioner import checkpoint
    from captioner.backends.torch import find_device
    from captioner.commands.progress import progress
    from captioner.data.records import evenly_spread, usable
    from captioner.training.logit_adjustment import adjust_logits

    device = find_device(options.device)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    model = checkpoint.load(file, device=device)
    records = evenly_spread(_training_records(options), options.pictures)
    refuse_overwriting({"--output": options.output}, (one.image for one in records if isinstance(one.image, Path)))
    records, faults = usable(records, threads=options.threads)
    report_left_out(faults, len(records) + len(faults))
    if not records:
        raise DataError("no picture opens", remedy="look at the lines above")

    with progress("pictures", len(records)) as (advance, _):
        adjusted = adjust_logits(model, records, strength=options.strength, file=str(file), advance=advance)
    checkpoint.save(options.output, adjusted.model, half=False)
    report_old_graphs(options.output)
    counts = {"pictures": adjusted.pictures, "vocabulary": adjusted.vocabulary, "references": adjusted.references}
    print(json.dumps(counts))
    return 1 if faults else 0


def _training_records(options: argparse.Namespace) -> list["Record"]:
    """The records of the training splits that have captions. Raises DataError."""
    from captioner.data.readers import read
    from captioner.data.records import refuse_leaks, require_split

    sets = [read(path, images=options.images) for path in options.data]
    refuse_leaks(*([record for record in one if record.split] for one in sets))
    found = []
    for path, one in zip(options.data, sets, strict=True):
        found += [record for record in require_split(one, "train", source=path) if record.captions]
    if not found:
        raise DataError(f"{', '.join(map(str, options.data))}: no captions", remedy="give captions of pictures")
    return found
