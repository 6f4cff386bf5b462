"""The command ``captioner shards``: WebDataset shards of a data set."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from captioner.commands.console import message_line
from captioner.commands.ranges import check_positive
from captioner.errors import OptionError

if TYPE_CHECKING:
    from captioner.data.records import Record


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.description = "Write a data set as WebDataset shards. 'captioner train' reads both in the same way."
    parser.add_argument("data", type=Path, metavar="DATA", help="any data set that 'captioner train' reads")
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="the folder of the shards")
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="the folder of the pictures, if it is not beside the captions"
    )
    parser.add_argument(
        "--shard-size", "--pictures", type=int, default=1000, metavar="N", help="pictures in each shard (default 1000)"
    )


def run(options: argparse.Namespace) -> int:
    """Run the command: 0, or 1 if some pictures could not be read. Raises DataError, OptionError."""
    from captioner.commands.progress import progress
    from captioner.data.readers import read
    from captioner.data.shards import write_shards

    check_positive(options, "shard_size")
    records = read(options.data, images=options.images)
    _refuse_folders_of_inputs(options, records)
    with progress("pictures", len(records)) as (advance, say):
        files, failures = write_shards(records, options.output, pictures=options.shard_size, advance=advance)
        for failure in failures.values():
            say(message_line(failure))
    left_out = f" ({len(failures)} left out)" if failures else ""
    print(f"{len(files)} shards of {len(records) - len(failures):,} pictures{left_out} in {options.output}")
    sys.stdout.flush()
    return 1 if failures else 0


def _refuse_folders_of_inputs(options: argparse.Namespace, records: Sequence["Record"]) -> None:
    """Shards beside other captions would make their folder a data set of two formats. Raises OptionError."""
    if not options.output.is_dir():
        return
    folders = {options.data if options.data.is_dir() else options.data.parent, options.images}
    folders |= {record.image.parent for record in records if isinstance(record.image, Path)}
    for folder in folders:
        if folder is not None and folder.is_dir() and folder.samefile(options.output):
            raise OptionError(
                f"{options.output} holds captions or pictures that are read", remedy="give a folder of its own"
            )
