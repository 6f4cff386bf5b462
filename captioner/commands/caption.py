"""The command ``captioner caption``: pictures in, captions out, to the terminal and to files."""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captioner.commands.caption_views import add_view_arguments, run_views
from captioner.commands.caption_views import wanted as views_wanted
from captioner.commands.console import ReaderGone, message_line, printable, report, stopping_on_signals
from captioner.commands.model_options import add_model_options, load_model
from captioner.commands.packages import require
from captioner.commands.ranges import check_positive
from captioner.errors import CaptionerError, ImageError, OptionError

if TYPE_CHECKING:
    from captioner.data.pictures import FoundPictures
    from captioner.data.writers import FigureFiles, PageFile, Provenance, ResultsFile
    from captioner.options import Greedy
    from captioner.results import Caption, Outcome


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("pictures", nargs="+", metavar="PICTURE", help="a picture, or a folder of them")
    add_model_options(parser, default="default")
    output = parser.add_argument_group("output")
    output.add_argument(
        "--json", action="store_true", help="print one JSON object for each picture, with the maps, beside other output"
    )
    output.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="write results to a .txt, .jsonl or .csv file; a run that was stopped goes on where it was",
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
        "--overwrite", action="store_true", help="start --output again, and draw figures again that are there"
    )
    output.add_argument("--cells", action="store_true", help="show the cells of the maps without interpolation")
    parser.add_argument(
        "--explain",
        choices=("attention", "gradient", "occlusion"),
        help="what the maps are computed from; occlusion is slow. Default: what was measured best for the model",
    )
    search = parser.add_argument_group("decoding (default: what the model's file holds)")
    search.add_argument("--beam", type=int, metavar="N", help="width of the beam; 1 is greedy")
    search.add_argument("--n-best", type=int, metavar="N", help="captions for each picture, the best first")
    search.add_argument("--length-penalty", type=float, metavar="A", help="score = sum(log p) / words ** A")
    search.add_argument("--max-length", type=int, metavar="N", help="most words of a caption")
    search.add_argument("--min-length", type=int, metavar="N", help="fewest words of a caption")
    search.add_argument("--no-repeat-ngram", type=int, metavar="N", help="no sequence of N words twice in a caption")
    search.add_argument("--sample", action="store_true", help="draw words at random instead of by beam search")
    search.add_argument("--temperature", type=float, help="of sampling; below 1 sharpens the distribution")
    search.add_argument("--top-k", type=int, metavar="N", help="sample from the N likeliest words")
    search.add_argument(
        "--top-p", type=float, metavar="P", help="sample from the likeliest words that reach P together"
    )
    search.add_argument("--seed", type=int, help="of sampling")
    add_view_arguments(parser)
    work = parser.add_argument_group("work")
    work.add_argument("--batch", type=int, default=16, metavar="N", help="pictures at a time (default 16)")
    work.add_argument("--max-pixels", type=int, metavar="N", help="refuse larger pictures (default 100,000,000)")


def run(options: argparse.Namespace) -> int:
    """Run the command: 0, 1 if some pictures failed, 2 if all did. Raises CaptionerError."""
    from captioner.commands.files import refuse_overwriting
    from captioner.data.pictures import find_pictures
    from captioner.data.writers import FigureFiles, ResultsFile
    from captioner.header import read_header
    from captioner.shipped import find_model

    _check(options)
    if views_wanted(options):
        model = find_model(options.model)
        return run_views(options, _decoding_options(options, dict(read_header(model)["about"])), model)
    outputs = [Path(path) for path in (options.output, options.page, options.figure) if path]
    found = find_pictures(options.pictures, leave_out=outputs)
    for line in (*found.failures, *found.notes):
        report(line)
    if not found.pictures:
        return 2
    if options.figure is not None:
        require("matplotlib", "--figure")
    figures = FigureFiles(options.figure, several=found.several) if options.figure is not None else None
    page = _page_file(options, found)
    model = find_model(options.model)
    files = {"--output": options.output, "--page": options.page}
    if figures is not None:
        files["--figure"] = figures.target if figures.folder is None else None
        figures.refuse_pictures_inside(found.pictures)
    refuse_overwriting(files, (*found.pictures, model))
    about = dict(read_header(model)["about"])
    decoding = _decoding_options(options, about)
    with ExitStack() as stack:
        stack.enter_context(stopping_on_signals())
        results = (
            stack.enter_context(ResultsFile(options.output, overwrite=options.overwrite)) if options.output else None
        )
        if results is not None:
            results.check(_provenance(model, options, decoding, about))
            if results.lost_detail and (options.n_best or 1) > 1 and not options.json:
                report(f"{options.output}: holds {results.lost_detail}; a .jsonl file holds all {options.n_best}")
        return _Run(options, found, figures, page, results, decoding).run(stack)


class _Run:
    """The work of one command: what is to be captioned, and where it goes."""

    def __init__(
        self,
        options: argparse.Namespace,
        found: "FoundPictures",
        figures: "FigureFiles | None",
        page: "PageFile | None",
        results: "ResultsFile | None",
        decoding: "Greedy",
    ) -> None:
        self.options, self.figures, self.page, self.results, self.decoding = options, figures, page, results, decoding
        self.failed = len(found.failures)
        self.named = len(found.pictures) > 1
        self.there = {os.fspath(one) for one in found.pictures if one in results} if results is not None else set()
        self.todo = [picture for picture in found.pictures if self._is_wanted(os.fspath(picture))]
        self.done = len(found.pictures) - len(self.todo)
        self.printing = True

    def run(self, stack: ExitStack) -> int:
        """Caption what is to be captioned; the exit code."""
        if self.todo:
            try:
                self._caption(stack)
            except CaptionerError as error:
                if not self.done:
                    raise
                self.failed += 1
                report(error)
        elif self.results is not None:
            self.results.begin()
        if self.results is not None:
            for note in self.results.notes:
                report(note)
            already = f" ({len(self.there)} were there)" if self.there else ""
            print(printable(f"{self.options.output}: {self.done} captions{already}"), file=sys.stderr)
        return (1 if self.done else 2) if self.failed else 0

    def _is_wanted(self, picture: str) -> bool:
        """Whether a picture is to be captioned: it has no row yet, or something asked for needs its maps."""
        everything = self.page is not None or self.options.json
        return everything or picture not in self.there or self._needs_figure(picture)

    def _needs_figure(self, picture: str) -> bool:
        if self.figures is None:
            return False
        return picture not in self.there or self.options.overwrite or self.figures.missing(picture)

    def _caption(self, stack: ExitStack) -> None:
        from captioner.commands.progress import progress
        from captioner.results import Failure

        if self.figures is not None:
            self.figures.prepare()
        with ExitStack() as pages:
            if self.page is not None:
                pages.enter_context(self.page)
            outcomes = self._outcomes(load_model(self.options))
            if self.results is not None:
                self.results.begin()
            advance, print_line = pages.enter_context(progress("captions", len(self.todo)))
            for outcome in outcomes:
                failure = outcome if isinstance(outcome, Failure) else self._write(outcome)
                advance()
                if failure is None:
                    self.done += 1
                else:
                    self.failed += 1
                    print_line(message_line(failure))

    def _outcomes(self, model: Any) -> "Iterator[Outcome]":
        from captioner.image import MAX_PIXELS

        shown = self.figures is not None or self.page is not None
        outcomes: Iterator[Outcome] = model.caption_all(
            self.todo,
            options=self.decoding,
            explain=self.options.explain,
            batch=self.options.batch,
            max_pixels=self.options.max_pixels or MAX_PIXELS,
            keep=_kept_pixels() if shown else None,
        )
        return outcomes

    def _write(self, caption: "Caption") -> "CaptionerError | None":
        """Write a caption everywhere; an error where its picture can no longer be shown."""
        try:
            if self.figures is not None and self._needs_figure(caption.image):
                self.figures.write(caption, smooth=not self.options.cells)
            if self.page is not None:
                self.page.write(caption)
        except ImageError as error:
            return error
        if self.results is not None:
            self.results.write(caption)
        if self.printing and (self.options.json or self.results is None):
            try:
                print(json.dumps(caption.as_dict()) if self.options.json else self._text(caption), flush=True)
            except ReaderGone:
                if self.figures is None and self.page is None and self.results is None:
                    raise
                self.printing = False  # the files are wanted all the same
        return None

    def _text(self, caption: "Caption") -> str:
        """The caption on a line; further captions of the picture on lines of their own that begin with a tab."""
        best = f"{printable(caption.image)}\t{caption.text}" if self.named else caption.text
        return "\n".join([best, *(f"\t{other.text}" for other in caption.alternatives)])


def _check(options: argparse.Namespace) -> None:
    check_positive(options, "max_pixels", "batch")
    if not options.device:
        raise OptionError("there is no device ''", remedy="leave out --device, or give cpu, cuda, cuda:1 or mps")
    if options.overwrite and options.output is None and options.figure is None:
        raise OptionError("--overwrite goes with --output or --figure: nothing else is kept of a former run")


def _kept_pixels() -> int:
    from captioner.show.page import PAGE_PIXELS

    return PAGE_PIXELS


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
    return PageFile(options.page, title=title, several=count > 1, smooth=not options.cells)


def _decoding_options(options: argparse.Namespace, about: dict[str, Any]) -> "Greedy":
    """The options of decoding: those of the command line, and for the rest those of the model's file."""
    from captioner.options import Beam, Sampling

    shared = _given(options, "max_length", "min_length", "no_repeat_ngram")
    sampling = _given(options, "temperature", "top_k", "top_p", "seed")
    beam = _given(options, "n_best", "length_penalty") | ({} if options.beam is None else {"width": options.beam})
    if options.sample:
        if options.beam is not None or options.length_penalty is not None:
            raise OptionError("--sample draws at random: --beam and --length-penalty do not go with it")
        samples = {"samples": options.n_best} if options.n_best is not None else {}
        return Sampling(**shared, **sampling, **samples)
    if sampling:
        name = next(iter(sampling)).replace("_", "-")
        raise OptionError(f"--{name} is an option of sampling: add --sample")
    default = Beam(**about.get("decoding", {}))
    return replace(default, **{"width": max(default.width, beam.get("n_best", 1)), **shared, **beam})


def _given(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    return {name: getattr(options, name) for name in names if getattr(options, name) is not None}


def _provenance(model: Path, options: argparse.Namespace, decoding: "Greedy", about: dict[str, Any]) -> "Provenance":
    """What makes the captions of this run."""
    from captioner.data.writers import Provenance, digest_of
    from captioner.options import MapOptions

    search = {"search": type(decoding).__name__.lower(), **asdict(decoding)}
    maps = asdict(MapOptions.stored(about, options.explain))
    return Provenance(model=model.stem, digest=digest_of(model), decoding=search, maps=maps)
