"""The work of ``captioner caption``: what is to be captioned, and where each caption goes."""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captioner.commands.confidence import Confidence
from captioner.commands.console import ReaderGone, message_line, printable, report, text_of
from captioner.commands.decoding_options import readable
from captioner.commands.progress import Pace, progress, span
from captioner.data.affixes import Affixes
from captioner.errors import CaptionerError, DataError, ImageError
from captioner.results import Failure, path_of

if TYPE_CHECKING:
    from captioner.data.packed import PackedPicture
    from captioner.data.pictures import FoundPictures
    from captioner.data.writers import BesideFiles, FailedFolder, FailuresFile, FigureFiles, PageFile, ResultsFile
    from captioner.options import Greedy
    from captioner.pipeline import Captioner
    from captioner.results import Caption, Outcome


_LONG = 60.0  # seconds


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """Where the captions and the failures of a run go; None for what was not asked for."""

    figures: "FigureFiles | None" = None
    page: "PageFile | None" = None
    results: "ResultsFile | None" = None
    sidecars: "list[BesideFiles]" = field(default_factory=list)
    failures: "FailuresFile | None" = None
    failed: "FailedFolder | None" = None
    affixes: Affixes = field(default_factory=Affixes)


class CaptionRun:
    """One run, in one round or several.

    Args:
        options: of the command.
        outputs: where everything goes.
        decoding: options of the search.
        inputs: files that are read besides pictures, onto which nothing is written.

    Attributes:
        done: pictures that have what was asked for, those of earlier runs included.
        there: those of earlier runs.
        failed: pictures that failed.
    """

    def __init__(
        self, options: argparse.Namespace, outputs: Outputs, decoding: "Greedy | None", *, inputs: Sequence[Path] = ()
    ) -> None:
        self.options, self.outputs, self.decoding, self.inputs = options, outputs, decoding, inputs
        self.done = self.there = self.failed = self.rows_there = self.other_names = 0
        self.others: set[str] = set()  # pictures whose file has another picture's row
        self.named = True
        self.confidence = Confidence(options)
        self._printing = True
        self._begun = False
        self._pace = Pace(0)

    def plan(self, found: "FoundPictures") -> "list[tuple[Path | PackedPicture, int]]":
        """The pictures that are to be captioned, with their numbers. Failures are reported."""
        lacking: set[str] = set()
        unfit: dict[str, Failure] = {}
        for sidecars in self.outputs.sidecars:
            plans, failures = sidecars.plan(found.files, inputs=self.inputs, elsewhere=found.elsewhere)
            lacking |= {os.fspath(one) for one, plan in zip(found.files, plans, strict=True) if plan}
            for failure in failures:
                unfit.setdefault(failure.image, failure)
        for failure in (*found.failures, *unfit.values()):
            self.fail(failure)
        todo = []
        rows: set[int] = set()
        place_of = os.path.realpath if self.outputs.results is None else self.outputs.results.place_of
        for picture, number in zip(found.pictures, found.numbers, strict=True):
            name = path_of(picture)
            if name in unfit:
                continue
            has_row = self.outputs.results is not None and name in self.outputs.results
            if self.options.output is not None:
                place = hash(place_of(name))
                if place in rows:
                    self.others.add(name)
                rows.add(place)
            self.rows_there += has_row and name not in self.others
            if self._is_wanted(name, has_row=has_row, lacks_sidecar=name in lacking):
                todo.append((picture, number))
            else:
                self.there += 1
                self._count(name)
        return todo

    def caption(self, todo: "list[tuple[Path | PackedPicture, int]]", model: "Captioner") -> None:
        """Caption pictures and write what was asked for. Raises CaptionerError where a run cannot go on."""
        self.begin()
        with ExitStack() as pages:
            if self.outputs.page is not None:
                pages.enter_context(self.outputs.page)
            advance, print_line = pages.enter_context(progress("captions", len(todo), quiet=self.options.quiet))
            outcomes = self._outcomes(model, [picture for picture, _ in todo])
            for (picture, number), outcome in zip(todo, outcomes, strict=True):
                failure = outcome if isinstance(outcome, Failure) else self._write(outcome, number)
                advance()
                if failure is None:
                    self._count(path_of(picture))
                    self._pace.done += 1
                    if (doubt := self.confidence.line(outcome)) is not None:
                        print_line(doubt)
                else:
                    self.fail(failure, print_line, picture if failure is outcome else None)

    def _count(self, name: str) -> None:
        """Count a picture as done."""
        self.done += 1
        self.other_names += name in self.others

    def begin(self) -> None:
        """Make the outputs ready, once. Raises OptionError where they cannot be written."""
        if self._begun:
            return
        self._begun = True
        self._pace = Pace(0)
        if self.outputs.figures is not None:
            self.outputs.figures.prepare()
        if self.outputs.failed is not None:
            self.outputs.failed.prepare()
        if self.outputs.results is not None:
            self.outputs.results.begin()
        if self.outputs.failures is not None:
            self.outputs.failures.begin()

    def fail(self, failure: Failure, print_line: Any = None, picture: "Path | PackedPicture | None" = None) -> None:
        """Count a failure, print it, move its picture where that is asked for, and put it into the table of failures by
        the path where the picture then is."""
        self.failed += 1
        print_line = print_line or (lambda line: print(line, file=sys.stderr, flush=True))
        print_line(message_line(failure))
        moved = self._move(picture, print_line)
        if self.outputs.failures is not None:
            self.outputs.failures.write(failure if moved is None else replace(failure, image=os.fsdecode(moved)))

    def finish(self) -> int:
        """Say what was done; the exit code."""
        if self.outputs.failures is not None:
            self.outputs.failures.begin()
        results = self.outputs.results
        if results is not None:
            for note in results.notes:
                report(note)
        if not self.options.quiet:
            if results is not None:
                already = f" ({_were_there(self.rows_there)})" if self.rows_there else ""
                rows = self.done - self.other_names
                captions = "1 caption" if rows == 1 else f"{rows} captions"
                others = (
                    f"; {self.other_names} more pictures are these files by other names" if self.other_names else ""
                )
                print(printable(f"{self.options.output}: {captions}{already}{others}"), file=sys.stderr)
            # A short run into a file has its line; captions on standard output speak for themselves.
            worth = self.outputs.sidecars or self.options.watch is not None or self._pace.seconds >= _LONG
            if self.named and self._pace.done and (worth or sys.stderr.isatty()):
                print(message_line(self._summary()), file=sys.stderr, flush=True)
            self.confidence.report()
        return (1 if self.done else 2) if self.failed else 0

    def _summary(self) -> str:
        parts = [f"{self._pace.done:,} captioned"]
        parts += [_were_there(self.there)] if self.there else []
        parts += [f"{self.failed:,} failed"] if self.failed else []
        return f"{', '.join(parts)}, in {span(self._pace.seconds)} ({self._pace.per_hour:,.0f} an hour)"

    def _is_wanted(self, picture: str, *, has_row: bool, lacks_sidecar: bool) -> bool:
        """Whether a picture is to be captioned: something that was asked for is not there yet."""
        outputs = self.outputs
        if outputs.page is not None or self.options.json or lacks_sidecar:
            return True
        if outputs.figures is not None and self._needs_figure(picture, has_row=has_row):
            return True
        return not has_row if outputs.results is not None else not outputs.sidecars

    def _needs_figure(self, picture: str, *, has_row: bool) -> bool:
        figures = self.outputs.figures
        if figures is None:
            return False
        return not has_row or self.options.overwrite or figures.missing(picture)

    def _outcomes(self, model: "Captioner", pictures: "list[Path | PackedPicture]") -> "Iterator[Outcome]":
        from captioner.image import MAX_PIXELS

        shown = self.outputs.figures is not None or self.outputs.page is not None
        outcomes: Iterator[Outcome] = model.caption_all(
            pictures,
            options=None if self.decoding is None else readable(self.decoding, self.options, model),
            explain=self.options.explain,
            batch=self.options.batch,
            max_pixels=self.options.max_pixels or MAX_PIXELS,
            keep=_kept_pixels() if shown else None,
        )
        return self.confidence.applied(model, outcomes)

    def _write(self, caption: "Caption", number: int) -> Failure | None:
        """Write a caption everywhere; a failure where its picture can no longer be shown, or has no sidecar."""
        outputs = self.outputs
        caption = outputs.affixes.applied(caption, number)
        has_row = outputs.results is not None and caption.image in outputs.results
        try:
            if outputs.figures is not None and self._needs_figure(caption.image, has_row=has_row):
                outputs.figures.write(caption, smooth=not self.options.cells)
            if outputs.page is not None:
                outputs.page.write(caption)
            for sidecars in outputs.sidecars:
                sidecars.write(caption)
        except (ImageError, DataError) as error:
            return Failure.of(caption.image, error)
        if outputs.results is not None:
            outputs.results.write(caption)
        if self._printing and (self.options.json or (outputs.results is None and not outputs.sidecars)):
            try:
                name = caption.image if self.named else None
                print(caption.as_json() if self.options.json else text_of(caption, name=name), flush=True)
            except ReaderGone:
                if outputs == Outputs(affixes=outputs.affixes):
                    raise
                self._printing = False  # the files are wanted all the same
        return None

    def _move(self, picture: "Path | PackedPicture | None", print_line: Any) -> Path | None:
        """Where the picture was moved; None where it stays."""
        if self.outputs.failed is None or not isinstance(picture, Path):
            return None
        try:
            moved = self.outputs.failed.move(picture)
        except OSError as error:
            print_line(message_line(f"{picture}: cannot be moved ({error.strerror or error}), and stays"))
            return None
        print_line(message_line(f"{picture}: moved to {moved}" if moved else f"{picture}: stays where it is"))
        return moved


def _were_there(count: int) -> str:
    return "1 was there" if count == 1 else f"{count:,} were there"


def dry_run(run: CaptionRun, found: "FoundPictures") -> int:
    """Print what a run would write, a line each on standard output, and write nothing; the exit code."""
    todo = run.plan(found)
    wanted = {path_of(picture) for picture, _ in todo}
    for sidecars in run.outputs.sidecars:
        plans, _ = sidecars.plan(found.files, inputs=run.inputs)
        for picture, plan in zip(found.files, plans, strict=True):
            if path_of(picture) in wanted:
                print(printable(f"{sidecars.path_of(picture)}: {plan or 'stays'}"))
    figures = run.outputs.figures
    if figures is not None:
        for name in sorted(wanted):
            print(printable(f"{figures.path_of(name)}: {'new' if figures.missing(name) else 'replace'}"))
    if run.outputs.page is not None:
        print(printable(f"{run.outputs.page.path}: a page of {len(todo)} pictures"))
    if run.options.output is not None:
        results = run.outputs.results
        rows = sum(results is None or name not in results for name in wanted - run.others)
        replaced = run.options.overwrite and os.path.exists(run.options.output)  # noqa: PTH110
        print(
            printable(
                f"{run.options.output}: {'replaced, ' if replaced else ''}{rows} {'rows' if replaced else 'more rows'}"
            )
        )
    report(f"dry run: {len(todo):,} would be captioned, {run.there:,} are there, {run.failed:,} failed")
    return (1 if todo or run.there else 2) if run.failed else 0


def raise_or_report(run: CaptionRun, error: CaptionerError) -> None:
    """Report what stopped a run that has done something; else raise it."""
    if not run.done:
        raise error
    run.failed += 1
    report(error)


def _kept_pixels() -> int:
    from captioner.show.page import PAGE_PIXELS

    return PAGE_PIXELS
