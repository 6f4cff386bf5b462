"""The result of an evaluation for people (tables) and for programs (JSON, CSV)."""

import csv
import io
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from captioner.grounding.hallucination import Hallucination
from captioner.metrics.description import Description
from captioner.metrics.evaluate import NAMES, Scores
from captioner.metrics.resampling import Difference, Interval


@dataclass(frozen=True, eq=False)
class Report:
    """The result of one call of the command; what was not asked for is None or empty."""

    scores: Scores
    signature: str  # that of the scores, and the set's name
    description: Description
    notes: tuple[str, ...] = ()
    extra: Mapping[str, float] = field(default_factory=dict)  # METEOR, SPICE
    extra_per_picture: Mapping[str, Mapping[Any, float]] = field(default_factory=dict)
    intervals: Mapping[str, Interval] | None = None
    constant: tuple[str, Scores] | None = None
    human: Scores | None = None
    other: Scores | None = None
    differences: Mapping[str, Difference] | None = None
    hallucination: Hallucination | None = None

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON holds it; figures have their full precision."""
        content: dict[str, Any] = {
            "signature": self.signature,
            "scores": {**self.scores.as_dict(), **self.extra},
            "captions": self.description.as_dict(),
            "notes": list(self.notes),
        }
        if self.intervals is not None:
            content["intervals"] = {name: [bounds.low, bounds.high] for name, bounds in self.intervals.items()}
        if self.constant is not None:
            content["constant"] = {"caption": self.constant[0], "scores": self.constant[1].as_dict()}
        if self.human is not None:
            content["human"] = {"signature": self.human.signature, "scores": self.human.as_dict()}
        if self.other is not None and self.differences is not None:
            content["compare"] = {
                "scores": self.other.as_dict(),
                "difference": {name: change.value for name, change in self.differences.items()},
                "p_value": {name: change.p_value for name, change in self.differences.items()},
            }
        if self.hallucination is not None:
            content["hallucination"] = self.hallucination.as_dict()
        return content


def table(report: Report) -> str:
    """The report as a terminal shows it: the scores, then the notes and the signature.

    It is drawn into a string, since rich ends the process with 1 where the reader of a pipe has gone.
    """
    console = Console(width=None if sys.stdout.isatty() else 160)
    with console.capture() as captured:
        _print(report, console)
    return captured.get().rstrip("\n")


def _print(report: Report, console: Console) -> None:
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("score", no_wrap=True)
    for title in _columns(report):
        table.add_column(title, justify="right", no_wrap=True)
    for name in NAMES:
        table.add_row(name, *_row(report, name))
    for name, value in report.extra.items():
        table.add_row(name, f"{value:.10f}")
    console.print(table)

    about = report.description
    console.print(
        f"captions: {about.captions:,} of {about.mean_length:.1f} words ({about.shortest} to {about.longest}), "
        f"vocabulary {about.vocabulary:,}, distinct {about.distinct:.1%}, repeating a pair of words "
        f"{about.repeats:.1%}, ending in a function word {about.unfinished:.1%}, empty {about.empty}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    if report.constant is not None:
        caption = report.constant[0].encode("utf-8", "backslashreplace").decode()
        console.print(f"constant: '{caption}' for every picture", markup=False, highlight=False, soft_wrap=True)
    if report.human is not None:
        console.print("human: each first reference against the others", highlight=False, soft_wrap=True)
    if report.hallucination is not None:
        for line in report.hallucination.lines():
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    for note in report.notes:
        console.print(note, markup=False, highlight=False, soft_wrap=True)
    console.print(report.signature, markup=False, highlight=False, soft_wrap=True)


def _columns(report: Report) -> list[str]:
    columns = ["figure"]
    if report.intervals is not None:
        columns.append("95% interval")
    if report.differences is not None:
        columns += ["compared", "difference", "p"]
    if report.constant is not None:
        columns.append("constant")
    if report.human is not None:
        columns.append("human")
    return columns


def _row(report: Report, name: str) -> list[str]:
    row = [f"{report.scores.as_dict()[name]:.10f}"]
    if report.intervals is not None:
        row.append(f"{report.intervals[name].low:.4f} to {report.intervals[name].high:.4f}")
    if report.other is not None and report.differences is not None:
        change = report.differences[name]
        row += [f"{report.other.as_dict()[name]:.4f}", f"{change.value:+.4f}", f"{change.p_value:.4f}"]
    if report.constant is not None:
        row.append(f"{report.constant[1].as_dict()[name]:.4f}")
    if report.human is not None:
        row.append(f"{report.human.as_dict()[name]:.4f}")
    return row


def per_picture(report: Report, captions: Mapping[Any, str]) -> str:
    """CSV with a row for each picture: id, figures, caption. Lone surrogates are written as escapes."""
    extra = list(report.extra_per_picture)
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["image_id", *NAMES, *extra, "caption"])
    for key, row in zip(report.scores.ids, report.scores.table().tolist(), strict=True):
        more = [report.extra_per_picture[name][key] for name in extra]
        writer.writerow([key, *(f"{value:.10g}" for value in (*row, *more)), captions[key]])
    return text.getvalue().encode("utf-8", "backslashreplace").decode()
