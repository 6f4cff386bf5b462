"""The command ``captioner caption``: pictures in, captions out, to the terminal and to files."""

import argparse
import os
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from captioner.commands.caption_views import add_view_arguments, run_views
from captioner.commands.caption_views import wanted as views_wanted
from captioner.commands.confidence import Confidence, add_confidence_options, holds_words
from captioner.commands.console import Terminated, report, stopping_on_signals
from captioner.commands.decoding_options import add_decoding_options, decoding_options, provenance_of
from captioner.commands.model_options import add_model_options, load_model
from captioner.commands.packages import import_numpy, require
from captioner.commands.picture_options import add_picture_options, check_given, find_chosen
from captioner.commands.ranges import check_positive
from captioner.commands.sidecar_options import add_sidecar_options, affixes_of, endings_of, open_sidecars
from captioner.errors import CaptionerError, OptionError

if TYPE_CHECKING:
    from captioner.commands.caption_run import CaptionRun
    from captioner.data.pictures import FoundPictures
    from captioner.data.writers import FailedFolder, FigureFiles, PageFile


_PACKED = (".tar", ".parquet")  # as of `captioner.data.packed.PACKED`, whose import is saved
_MORE = (
    *("from", "include", "exclude", "shard", "column", "output", "figure", "page", "overwrite", "failures"),
    *("move_failed", "watch", "dry_run", "sidecar", "xmp", "alt_text", "xmp_name", "existing", "separator", "prefix"),
    *("suffix", "min_confidence", "sort", "frames", "heads", "contrast"),
)
"""Options with which there is more to do than to caption."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add_picture_options(parser)
    add_model_options(parser, default="default")
    output = parser.add_argument_group("output")
    output.add_argument(
        "--json", action="store_true", help="print one JSON object for each picture, with the maps, beside other output"
    )
    output.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="write results to a .txt, .jsonl, .csv or .parquet file; a run that was stopped goes on where it was",
    )
    output.add_argument(
        "--figure",
        metavar="FILE",
        help="draw each word's map over the picture: a .png, .pdf or .svg file, or a folder for several pictures",
    )
    output.add_argument(
        "--page", type=Path, metavar="FILE", help="write one .html page of all pictures: hover a word, see its map"
    )
    output.add_argument(
        "--overwrite", action="store_true", help="start --output again, and with it draw figures again that are there"
    )
    output.add_argument("--cells", action="store_true", help="show the cells of the maps without interpolation")
    add_sidecar_options(parser)
    add_decoding_options(parser)
    add_confidence_options(parser)
    add_view_arguments(parser)
    work = parser.add_argument_group("work")
    work.add_argument("--batch", type=int, default=16, metavar="N", help="pictures at a time (default 16)")
    work.add_argument("--max-pixels", type=int, metavar="N", help="refuse larger pictures (default 100,000,000)")
    work.add_argument("--failures", type=Path, metavar="FILE", help="write the pictures that failed to a .csv file")
    work.add_argument("--move-failed", type=Path, metavar="DIR", help="move pictures that do not open to this folder")
    work.add_argument(
        "--watch",
        nargs="?",
        type=float,
        const=2.0,
        metavar="SECONDS",
        help="go on until stopped: caption what appears in the folders, looking every 2 seconds or so many",
    )
    work.add_argument("--dry-run", action="store_true", help="say what would be written, and write nothing")
    work.add_argument("--quiet", action="store_true", help="no progress, notes or summary; failures are still named")


def run(options: argparse.Namespace) -> int:
    """Run the command: 0, 1 if some pictures failed, 2 if all did. Raises CaptionerError."""
    check_given(options)
    import_numpy()
    _check(options)
    # ONNX Runtime then starts beside the imports.
    ahead = load_model(options, wait=False) if _is_one_picture(options) else None
    from captioner.commands.caption_run import CaptionRun, Outputs, dry_run, raise_or_report
    from captioner.commands.files import model_files, refuse_overwriting
    from captioner.header import read_header
    from captioner.shipped import find_model

    if views_wanted(options):
        model = find_model(options.model)
        with stopping_on_signals():
            return run_views(options, decoding_options(options, dict(read_header(model)["about"])), model)
    Confidence(options)  # raises for what does not go together, before any work
    affixes, sidecars = affixes_of(options), open_sidecars(options)
    outputs = [Path(path) for path in (options.output, options.page, options.figure, *_of_failures(options)) if path]
    found = _find(options, outputs)
    if sidecars and len(found.files) < len(found.pictures):
        raise OptionError(
            f"{sidecars[0].option}: the pictures in {found.containers[0]} have no files beside which to write",
            remedy="write their captions to --output",
        )
    if options.figure is not None:
        require("matplotlib", "--figure")
    figures = _figure_files(options, found)
    page = _page_file(options, found)
    model = find_model(options.model)
    files = {"--output": options.output, "--page": options.page, "--failures": options.failures}
    if figures is not None:
        files["--figure"] = figures.target if figures.folder is None else None
        figures.refuse_pictures_inside(found.files)
    failed = _failed_folder(options)
    if failed is not None:
        failed.refuse_pictures_inside(found.files)
    given = Path(getattr(options, "from") or "-")
    inputs = [*found.containers, *model_files(model), *([given] if given.is_file() else [])]
    refuse_overwriting(files, (*found.files, *inputs))
    about = dict(read_header(model)["about"])
    decoding = decoding_options(options, about)
    with ExitStack() as stack:
        stack.enter_context(stopping_on_signals())
        results = failures = None
        if options.output:
            from captioner.data.writers import has_begun, open_results

            if not options.dry_run or has_begun(options.output):
                results = stack.enter_context(open_results(options.output, overwrite=options.overwrite))
                marks = {"picture_gain": options.picture_gain, "min_confidence": options.min_confidence}
                marks = marks if holds_words(options.output) else {}
                results.check(provenance_of(model, options, decoding, about, asdict(affixes), **marks))
            if results is not None and results.lost_detail and (options.n_best or 1) > 1 and not options.json:
                report(f"{options.output}: holds {results.lost_detail}; a .jsonl file holds all {options.n_best}")
        if options.failures is not None and not options.dry_run:
            from captioner.data.writers import FailuresFile

            failures = FailuresFile(options.failures, moved_to=options.move_failed)
            stack.callback(failures.close)
        everywhere = Outputs(
            figures=figures,
            page=page,
            results=results,
            sidecars=sidecars,
            failures=failures,
            failed=failed,
            affixes=affixes,
        )
        work = CaptionRun(options, everywhere, decoding, inputs=inputs)
        if options.dry_run:
            return dry_run(work, found)
        if options.watch is not None:
            return _watch(work, outputs, files)
        work.named = found.several
        todo = work.plan(found)
        for one in sidecars:
            one.refuse(files)
        if not found.pictures:
            if failures is not None:
                failures.begin()
            return 2 if found.failures else 0
        try:
            if todo:
                work.caption(todo, ahead or load_model(options))
            elif not work.failed or work.done:
                work.begin()
        except CaptionerError as error:
            raise_or_report(work, error)
        return work.finish()


def _watch(work: "CaptionRun", outputs: list[Path], files: dict[str, Path | None]) -> int:
    """Caption what appears until the command is stopped, by Ctrl-C or a signal; the exit code."""
    from captioner.commands.watch import Watcher

    options = work.options
    model = load_model(options)
    if work.outputs.failures is not None:
        work.begin()  # a failure is in the table before there is a caption
    watcher = Watcher(lambda: _find(options, outputs, quiet=True), seconds=options.watch)
    try:
        for found in watcher.rounds():
            todo = work.plan(found)
            for one in work.outputs.sidecars:
                one.refuse(files)
            work.caption(todo, model)
    except (KeyboardInterrupt, Terminated):
        pass
    return work.finish() if work.done or work.failed else 0


def _find(options: argparse.Namespace, outputs: list[Path], *, quiet: bool = False) -> "FoundPictures":
    found = find_chosen(options, leave_out=outputs, uncounted=endings_of(options))
    if not (options.quiet or quiet):
        for line in found.notes:
            report(line)
        if not found.pictures and not found.failures:
            report("no pictures are in this shard")
    return found


def _is_one_picture(options: argparse.Namespace) -> bool:
    """Whether one picture is captioned, to the terminal: nothing is to be found out before the model opens."""
    if len(options.pictures) != 1 or str(options.pictures[0]).lower().endswith(_PACKED):
        return False
    is_file = os.path.isfile(options.pictures[0])  # noqa: PTH113 - no name raises there
    return is_file and not any(vars(options)[name] for name in _MORE)


def _of_failures(options: argparse.Namespace) -> tuple[Path | None, Path | None]:
    return options.failures, options.move_failed


def _check(options: argparse.Namespace) -> None:
    check_positive(options, "max_pixels", "batch")
    if not options.device:
        raise OptionError("there is no device ''", remedy="leave out --device, or give cpu, cuda, cuda:1 or mps")
    if options.overwrite and options.output is None and options.figure is None:
        raise OptionError("--overwrite goes with --output or --figure: nothing else is kept of a former run")
    if options.cells and options.figure is None and options.page is None:
        raise OptionError(
            "--cells is of the maps of a figure or page", remedy="add --figure words.png or --page words.html"
        )
    if options.watch is not None:
        _check_watch(options)
    if options.move_failed is not None and options.move_failed.exists() and not options.move_failed.is_dir():
        raise OptionError(f"--move-failed {options.move_failed}: is no folder", remedy="name a folder")


def _check_watch(options: argparse.Namespace) -> None:
    from captioner.commands.watch import check_watch

    given = {"--page": options.page, "--from": getattr(options, "from"), "--dry-run": options.dry_run or None}
    for name, value in given.items():
        if value is not None:
            raise OptionError(f"--watch goes on until it is stopped, and {name} needs an end", remedy="leave one out")
    check_watch(options.watch, options.pictures)


def _figure_files(options: argparse.Namespace, found: "FoundPictures") -> "FigureFiles | None":
    if options.figure is None:
        return None
    from captioner.data.writers import FigureFiles  # here and below: one caption as text starts without the writers

    return FigureFiles(options.figure, several=found.several)


def _failed_folder(options: argparse.Namespace) -> "FailedFolder | None":
    if options.move_failed is None:
        return None
    from captioner.data.writers import FailedFolder

    return FailedFolder(options.move_failed)


def _page_file(options: argparse.Namespace, found: "FoundPictures") -> "PageFile | None":
    """Where the page of the pictures goes, if one is asked for."""
    if options.page is None:
        return None
    from captioner.data.writers import PageFile

    count = len(found.pictures)
    if count > PageFile.MOST:
        raise OptionError(f"--page {options.page}: {count} pictures are too many for a page, {PageFile.MOST} at most")
    folder = Path(options.pictures[0]).resolve().name if len(options.pictures) == 1 else ""
    title = (folder or "Captions") if count > 1 else None
    by_doubt = options.sort == "doubt"
    return PageFile(options.page, title=title, several=count > 1, smooth=not options.cells, by_doubt=by_doubt)
