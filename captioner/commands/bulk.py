"""The command ``captioner bulk``: very many pictures into a folder of Parquet files, by workers of a Ray cluster."""

import argparse
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captioner.commands.console import message_line, printable, report, stopping_on_signals
from captioner.commands.decoding_options import add_decoding_options, decoding_options, provenance_of
from captioner.commands.model_options import add_model_options, check_model_options
from captioner.commands.packages import require
from captioner.commands.picture_options import add_folder_options
from captioner.commands.ranges import check_positive
from captioner.errors import DataError, OptionError

if TYPE_CHECKING:
    from captioner.bulk import CaptionBatch
    from captioner.bulk.plan import Counts
    from captioner.data.selection import Selection
    from captioner.results import Failure

TAKES_URLS = ("source", "output", "address")
_NAMED = 100  # failures
_MAPS = ("none", "fp32", "fp16", "uint8")  # `captioner.bulk.MAPS`, which imports numpy


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="a folder of pictures, of .parquet or of .tar files, or such a file; a path, or a URL such as s3://bucket/folder",
    )
    parser.add_argument(
        "--output",
        required=True,
        metavar="DIR",
        help="the folder of the Parquet files, a path or a URL; a run that was stopped goes on where it was",
    )
    parser.add_argument("--overwrite", action="store_true", help="remove the files of former runs, and start again")
    parser.add_argument("--retry-failed", action="store_true", help="try pictures again that failed in an earlier run")
    parser.add_argument(
        "--maps", choices=_MAPS, default="none", help="store the words' maps: 4, 2 or 1 byte a cell (default none)"
    )
    parser.add_argument(
        "--part-size", type=int, default=1000, metavar="N", help="rows of a file, at most (default 1000)"
    )
    group = parser.add_argument_group("which pictures")
    add_folder_options(group)
    group.add_argument("--column", metavar="NAME", help="of .parquet files: the one with the pictures or their paths")
    group.add_argument("--key", metavar="NAME", help="of .parquet files: the one that names each picture")
    add_model_options(
        parser,
        default="default",
        threads="of each actor, which takes as many CPUs of the cluster (default 1)",
        heads=False,
    )
    add_decoding_options(parser)
    work = parser.add_argument_group("workers")
    work.add_argument(
        "--address",
        metavar="ADDRESS",
        help="of a Ray cluster: auto, HOST:PORT or ray://HOST:PORT (default: one is started on this machine)",
    )
    work.add_argument(
        "--actors", type=int, metavar="N", help="processes that caption (default: as many as there is room for)"
    )
    work.add_argument(
        "--gpus-per-actor", type=float, default=0.0, metavar="N", help="GPUs of each, or a part of one: 0.5"
    )
    work.add_argument(
        "--batch-size",
        "--batch",
        dest="batch",
        type=int,
        default=16,
        metavar="N",
        help="pictures at a time (default 16)",
    )
    work.add_argument("--max-pixels", type=int, metavar="N", help="refuse larger pictures (default 100,000,000)")
    work.add_argument("--quiet", action="store_true", help="no progress, notes or summary; failures are still named")


def run(options: argparse.Namespace) -> int:
    """Run the command: 0, 1 if some pictures failed, 2 if all did. Raises CaptionerError."""
    from captioner.bulk.cluster import connected
    from captioner.bulk.parts import Parts
    from captioner.bulk.plan import plan
    from captioner.bulk.sources import Source
    from captioner.constraints import Constraints
    from captioner.header import read_header, require_captions
    from captioner.shipped import find_model
    from captioner.tokenizer.vocabulary import Vocabulary

    _check(options)
    model = find_model(options.model)
    header = read_header(model)
    require_captions(header, model)
    about = dict(header["about"])
    decoding = decoding_options(options, about)
    Constraints.of(decoding, Vocabulary(tuple(header["vocabulary"])))  # raises for words that the model cannot say
    batch = _batch(options, model, decoding)
    source = Source.of(options.source)
    parts = Parts(options.output, overwrite=options.overwrite)
    _refuse_source_in_output(source, parts)
    made_by = provenance_of(model, options, decoding, about, {}, storage=options.maps)
    parts.check(made_by, source.name)
    notes: list[str] = []
    selection = _selection(options)
    chunks = list(
        source.chunks(column=options.column, key=options.key, selection=selection, leave_out=[parts.path], notes=notes)
    )
    _refuse_files_in_output(chunks, source, parts, selection)
    if not options.quiet:
        for line in notes:
            report(line)
    with ExitStack() as stack:
        stack.enter_context(stopping_on_signals())
        stack.callback(parts.close)
        parts.lock()
        parts.check(made_by, source.name)  # again: another run may have ended meanwhile
        retried = options.retry_failed
        planned = plan(chunks, (one for one in parts.done() if not (retried and one[1])))
        counts = planned.counts
        failures = _Failures()
        if planned.chunks:
            ray = stack.enter_context(connected(options.address))
            counts = _caption(options, ray, source, parts, planned, batch, failures)
    return _finish(options, counts, failures)


def _caption(
    options: argparse.Namespace,
    ray: Any,
    source: Any,
    parts: Any,
    planned: Any,
    batch: "CaptionBatch",
    failures: "_Failures",
) -> "Counts":
    from captioner.bulk.cluster import is_client
    from captioner.bulk.run import Workers, run, run_by_client
    from captioner.commands.progress import progress

    workers = Workers.fitting(
        ray,
        actors=options.actors,
        threads=batch.threads or 1,
        gpus=options.gpus_per_actor,
        can_grow=options.address is not None,
    )
    if workers.at_least < workers.actors:
        report(f"room for {workers.at_least} of {workers.actors} actors; the others start when machines join")
    staging = parts.begin()  # from here on the output changes
    if options.retry_failed:
        parts.remove_failures({name for chunk in planned.chunks for name in chunk.ids})
    with progress("captions", planned.total, quiet=options.quiet) as (advance, print_line):
        failures.print_line = print_line
        start = partial(run_by_client, ray) if is_client(options.address) else run
        return start(
            source,
            staging,
            planned,
            batch,
            workers=workers,
            part_size=options.part_size,
            advance=advance,
            fail=failures.name,
        )


class _Failures:
    """Names failures, the first of them."""

    def __init__(self) -> None:
        self.print_line: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True)
        self.named = 0

    def name(self, failure: "Failure") -> None:
        """Print a failure."""
        self.named += 1
        if self.named <= _NAMED:
            self.print_line(message_line(failure))


def _finish(options: argparse.Namespace, counts: "Counts", failures: _Failures) -> int:
    """Say what was done; the exit code."""
    if counts.failed > min(failures.named, _NAMED):
        report(
            f"{counts.failed:,} failed, of which {min(failures.named, _NAMED)} are named here; 'error' has the others"
        )
    if not options.quiet:
        before = f", {counts.failed_before:,} of them failed: --retry-failed" if counts.failed_before else ""
        skipped = f"{counts.skipped:,} skipped (there before{before})"
        done = f"{counts.captioned:,} captioned, {counts.failed:,} failed, {skipped}"
        line = f"{options.output}: {counts.pictures:,} {'picture' if counts.pictures == 1 else 'pictures'}: {done}"
        print(printable(line), file=sys.stderr, flush=True)
    failed = counts.failed + counts.failed_before
    return (2 if failed == counts.pictures else 1) if failed else 0


def _batch(options: argparse.Namespace, model: Path, decoding: Any) -> "CaptionBatch":
    """What the actors do. A model that ships goes by its name: each machine has its own."""
    from captioner.bulk import CaptionBatch
    from captioner.image import MAX_PIXELS
    from captioner.shipped import shipped_models, with_default

    ships = with_default(shipped_models()).get(options.model) == model
    on_gpu = options.gpus_per_actor > 0
    return CaptionBatch(
        model=model.stem if ships else os.path.realpath(model),
        column="bytes",
        name="image",
        options=decoding,
        explain=options.explain,
        maps=options.maps,
        batch=options.batch,
        max_pixels=options.max_pixels or MAX_PIXELS,
        device="cpu" if options.device == "auto" and not on_gpu else options.device,
        backend=options.backend,
        threads=options.threads or 1,
    )


def _selection(options: argparse.Namespace) -> "Selection":
    from captioner.data.selection import Selection

    return Selection(recursive=options.recursive, include=tuple(options.include), exclude=tuple(options.exclude))


def _check(options: argparse.Namespace) -> None:
    require("ray", "captioner bulk")
    check_positive(options, "batch", "max_pixels", "actors", "part_size")
    check_model_options(options)
    if not 0 <= options.gpus_per_actor <= 64 or (options.gpus_per_actor > 1 and options.gpus_per_actor % 1):
        raise OptionError(
            f"--gpus-per-actor must be a part of one or a whole number to 64, not {options.gpus_per_actor:g}"
        )
    if options.device.startswith("cuda") and not options.gpus_per_actor:
        raise OptionError(
            f"--device {options.device}: an actor sees the GPUs that it takes", remedy="add --gpus-per-actor 1"
        )
    if options.overwrite and options.retry_failed:
        raise OptionError("--overwrite starts again, and nothing is left to retry", remedy="leave --retry-failed out")


def _refuse_source_in_output(source: Any, parts: Any) -> None:
    """The output's Parquet files would be pictures of the next run, and the source's would be taken for parts. Raises
    DataError."""
    if type(source.filesystem) is not type(parts.filesystem):
        return
    output = parts.path.rstrip("/")
    if source.path.rstrip("/") == output:
        raise DataError(f"--output {parts.name}: is the folder of the pictures", remedy="name a folder of its own")
    if source.path.startswith(output + "/"):
        raise DataError(f"--output {parts.name}: holds the source {source.name}", remedy="name a folder of its own")


def _refuse_files_in_output(chunks: Any, source: Any, parts: Any, selection: "Selection") -> None:
    """As `_refuse_source_in_output`, for single files, and for tables and shards by links. Raises DataError."""
    inside = parts.path.rstrip("/") + "/"
    found = None
    if type(source.filesystem) is type(parts.filesystem) and inside.startswith(source.path.rstrip("/") + "/"):
        found = source.in_folder(parts.path, selection)
    if found is None and source.local and parts.local:
        files = sorted({chunk.file for chunk in chunks if hasattr(chunk, "file")})
        found = next((file for file in files if os.path.realpath(file).startswith(inside)), None)
    if found is not None:
        raise DataError(f"--output {parts.name}: holds {found} of the source", remedy="name a folder of its own")
