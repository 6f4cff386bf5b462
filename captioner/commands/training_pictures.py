"""Options of commands that read training pictures to change a model, and the records that they name."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from captioner.commands.console import report_left_out
from captioner.commands.files import check_images, check_model_output, find_weights, model_files, refuse_overwriting
from captioner.commands.ranges import check_positive
from captioner.errors import DataError

if TYPE_CHECKING:
    from captioner.checkpoint import Checkpoint
    from captioner.data.records import Record


def add_training_picture_options(parser: argparse.ArgumentParser, *, pictures: int) -> None:
    """Declare the model, the data, the file to write and what computes; ``pictures`` is how many are read."""
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
        "--pictures",
        type=int,
        default=pictures,
        metavar="N",
        help=f"the most, evenly spread over all (default {pictures})",
    )
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:1, mps")
    parser.add_argument("--threads", type=int, metavar="N", help="of the CPU (default: as many as torch takes)")


def check_training_picture_options(options: argparse.Namespace, command: str) -> Path:
    """The model's file. Raises OptionError for options that do not fit, CheckpointError where there is no such file."""
    check_positive(options, "pictures", "threads")
    check_model_output(options.output)
    check_images(options.images, options.data)
    file = find_weights(options.model, command)
    refuse_overwriting({"--output": options.output}, [*model_files(file), *options.data])
    return file


def load_model(options: argparse.Namespace, file: Path) -> "Checkpoint":
    """The model on the device of the options. Raises OptionError, CheckpointError."""
    import torch

    from captioner import checkpoint
    from captioner.backends.torch import find_device

    device = find_device(options.device)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    return checkpoint.load(file, device=device)


def training_pictures(options: argparse.Namespace) -> tuple[list["Record"], int]:
    """Records whose pictures open, evenly spread over the training splits, and how many others were left out.

    Raises:
        DataError: there are none, or a picture is in two splits.
        OptionError: the file to write is one of the pictures.
    """
    from captioner.data.records import evenly_spread, usable

    records = evenly_spread(_training_records(options), options.pictures)
    refuse_overwriting({"--output": options.output}, (one.image for one in records if isinstance(one.image, Path)))
    records, faults = usable(records, threads=options.threads)
    report_left_out(faults, len(records) + len(faults))
    if not records:
        raise DataError("no picture opens", remedy="look at the lines above")
    return records, len(faults)


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
