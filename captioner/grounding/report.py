"""The report of `captioner ground`: tables for the terminal, plain values for JSON."""

import math
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from captioner.grounding.bootstrap import Estimate
from captioner.grounding.deletion import LEVELS, Faithfulness
from captioner.grounding.pointing import BASELINES
from captioner.grounding.scores import GroundingScores, ScoreEstimate
from captioner.metrics.resampling import MINIMUM_PICTURES

_MINIMUM_NOUNS = 5  # a class with fewer has no line in the table; JSON has all
_TITLES = {"generated": "generated captions", "references": "reference captions (teacher-forced)"}
ROWS = {"another word": "another word's map", "centre": "the centre", "even": "an even map"}


@dataclass(frozen=True, kw_only=True)
class SourceReport:
    """The scores of the captions of one source.

    Attributes:
        scores: of all nouns.
        by_class: of each class, the most frequent first.
        absent: how many nouns name objects that are not in the picture.
        faithfulness: deletion and insertion; None where they were not measured.
    """

    scores: GroundingScores
    by_class: dict[str, GroundingScores]
    absent: int
    faithfulness: Faithfulness | None = None


@dataclass(frozen=True, kw_only=True)
class GroundReport:
    """What one run of the command measured.

    Attributes:
        model: its name.
        data: the data set and its split.
        map_options: how maps were made.
        masks: whether regions are masks rather than boxes.
        sources: by source, "generated" and "references".
        notes: lines for the user.
    """

    model: str
    data: str
    map_options: dict[str, Any]
    masks: bool
    sources: dict[str, SourceReport]
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; what has no value is None, never NaN."""
        return {
            "model": self.model,
            "data": self.data,
            "maps": self.map_options,
            "inside": "masks" if self.masks else "boxes",
            "captions": {
                source: {
                    "all": _scores_as_dict(found.scores),
                    "classes": {category: _scores_as_dict(scores) for category, scores in found.by_class.items()},
                    "absent": found.absent,
                    **({"faithfulness": _faithfulness_as_dict(found.faithfulness)} if found.faithfulness else {}),
                }
                for source, found in self.sources.items()
            },
            "notes": list(self.notes),
        }


def _scores_as_dict(scores: GroundingScores) -> dict[str, Any]:
    return {
        "nouns": scores.nouns,
        "pictures": scores.pictures,
        "reachable": scores.reachable,
        "pointing": {name: each.pointing.as_dict() for name, each in _maps_and_baselines(scores)},
        "mass": {name: each.mass.as_dict() for name, each in _maps_and_baselines(scores)},
        "beats_baselines": scores.beats_baselines,
    }


def _maps_and_baselines(scores: GroundingScores) -> list[tuple[str, ScoreEstimate]]:
    return [("maps", scores.maps), *((name, scores.baselines[name]) for name in BASELINES)]


def _faithfulness_as_dict(found: Faithfulness) -> dict[str, Any]:
    names = ("deletion", "random_deletion", "deletion_gain", "insertion", "random_insertion", "insertion_gain")
    return {
        "words": found.words,
        "pictures": found.pictures,
        **{name: getattr(found, name).as_dict() for name in names},
        "levels": list(LEVELS),
        "curves": {name: [_finite(value) for value in curve] for name, curve in found.curves.items()},
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def print_ground_report(report: GroundReport, console: Console) -> None:
    """Print the tables, then the notes."""
    for source, found in report.sources.items():
        console.print(
            f"\n{_TITLES[source]}: {found.scores.nouns:,} nouns on {found.scores.pictures:,} pictures",
            style="bold",
            highlight=False,
        )
        console.print(_overall(found.scores))
        if any(scores.nouns >= _MINIMUM_NOUNS for scores in found.by_class.values()):
            console.print(_classes(found))
        if found.faithfulness is not None:
            console.print(_faithfulness(found.faithfulness))
    for note in (*report.notes, f"{report.model} on {report.data}, maps: {_signature(report)}"):
        console.print(note, markup=False, highlight=False, soft_wrap=True)


def _signature(report: GroundReport) -> str:
    options = report.map_options.items()
    return ", ".join(str(value) if name == "explain" else f"{name} {value}" for name, value in options)


def _overall(scores: GroundingScores) -> Table:
    table = plain_table("all nouns", "points at it", "95% interval", "mass on it", "95% interval")
    rows = [("the noun's map", scores.maps, "bold")]
    rows += [(ROWS[name], scores.baselines[name], "") for name in BASELINES]
    for title, each, style in rows:
        table.add_row(title, *_cells(each.pointing), *_cells(each.mass), style=style)
    table.add_row("highest possible", f"{scores.reachable:.1%}", "", "", "", style="dim")
    if scores.pictures < MINIMUM_PICTURES:
        table.caption = f"no intervals for fewer than {MINIMUM_PICTURES} pictures"
    return table


def _classes(found: SourceReport) -> Table:
    table = plain_table(
        "class",
        "nouns",
        "pictures",
        "points at it",
        "95% interval",
        "best baseline",
        "95% interval",
        "mass",
        "if even",
        "",
    )
    frequent = {name: scores for name, scores in found.by_class.items() if scores.nouns >= _MINIMUM_NOUNS}
    for category, scores in frequent.items():
        baseline = scores.baselines[scores.best_baseline].pointing
        table.add_row(
            category,
            f"{scores.nouns:,}",
            f"{scores.pictures:,}",
            f"{scores.maps.pointing.value:.1%}",
            scores.maps.pointing.interval_text,
            f"{scores.best_baseline} {baseline.value:.1%}",
            baseline.interval_text,
            f"{scores.maps.mass.value:.1%}",
            f"{scores.baselines['even'].mass.value:.1%}",
            "above all baselines" if scores.beats_baselines else "",
        )
    rare = len(found.by_class) - len(frequent)
    table.caption = f"no intervals for fewer than {MINIMUM_PICTURES} pictures" + (
        f"; {rare} classes with fewer than {_MINIMUM_NOUNS} nouns are only in --json" if rare else ""
    )
    return table


def _faithfulness(found: Faithfulness) -> Table:
    table = plain_table(f"{found.words:,} words", "by the map", "at random", "gain", "95% interval")
    for title, own, chance, gain in (
        ("deletion: probability while cells are occluded", found.deletion, found.random_deletion, found.deletion_gain),
        (
            "insertion: probability while cells are restored",
            found.insertion,
            found.random_insertion,
            found.insertion_gain,
        ),
    ):
        low, high = gain.interval.low, gain.interval.high
        interval = "" if math.isnan(low) else f"{low:+.3f} to {high:+.3f}"
        table.add_row(title, f"{own.value:.3f}", f"{chance.value:.3f}", f"{gain.value:+.3f}", interval)
    return table


def plain_table(first: str, *titles: str) -> Table:
    """An empty table: the first column at the left, the others at the right."""
    table = Table(box=box.SIMPLE, pad_edge=False, caption_justify="left")
    table.add_column(first, no_wrap=True)
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)
    return table


def _cells(estimate: Estimate) -> tuple[str, str]:
    return "-" if math.isnan(estimate.value) else f"{estimate.value:.1%}", estimate.interval_text
