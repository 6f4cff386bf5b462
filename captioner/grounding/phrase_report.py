"""The report of `captioner ground --phrase-boxes`: tables for the terminal, plain values for JSON."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from captioner.grounding.bootstrap import Estimate
from captioner.grounding.phrase_scores import MEASURES, PhraseScores
from captioner.grounding.pointing import BASELINES
from captioner.grounding.report import ROWS, plain_table
from captioner.metrics.resampling import MINIMUM_PICTURES

_NAMES = {"bodyparts": "body parts"}
_ROWS = {"maps": "the phrase's map"} | ROWS


@dataclass(frozen=True, kw_only=True)
class PhraseReport:
    """What one run of the command measured.

    Attributes:
        model: its name.
        data: the data set and its split.
        phrase_boxes: the file or folder of the boxes.
        map_options: how maps were made.
        scores: of all phrases.
        by_type: of each type.
        off_grid: by class of words, how many there are, on how many pictures, and their mean weight off the grid.
        notes: lines for the user.
    """

    model: str
    data: str
    phrase_boxes: str
    map_options: dict[str, Any]
    scores: PhraseScores
    by_type: Mapping[str, PhraseScores]
    off_grid: Mapping[str, tuple[int, int, Estimate]]
    notes: tuple[str, ...] = ()

    @property
    def leaves_the_grid(self) -> bool:
        """Whether any word has weight off the grid."""
        return any(estimate.value > 0 for *_, estimate in self.off_grid.values())

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; what has no value is None, never NaN."""
        return {
            "model": self.model,
            "data": self.data,
            "phrase_boxes": self.phrase_boxes,
            "maps": self.map_options,
            "all": _as_dict(self.scores),
            "types": {name: _as_dict(scores) for name, scores in self.by_type.items()},
            "off_grid": {
                name: {"words": count, "pictures": pictures, **mean.as_dict()}
                for name, (count, pictures, mean) in self.off_grid.items()
            },
            "notes": list(self.notes),
        }


def _as_dict(scores: PhraseScores) -> dict[str, Any]:
    return {
        "phrases": scores.phrases,
        "pictures": scores.pictures,
        "reachable": scores.reachable,
        **{
            measure: {name: estimate.as_dict() for name, estimate in scores.measures[measure].items()}
            for measure in MEASURES
        },
        "beats_baselines": scores.beats_baselines,
    }


def print_phrase_report(report: PhraseReport, console: Console) -> None:
    """Print the tables, then the notes."""
    scores = report.scores
    console.print(
        f"\nphrases of captions that are read: {scores.phrases:,} on {scores.pictures:,} pictures",
        style="bold",
        highlight=False,
    )
    overall = plain_table("all phrases", "points at it", "95% interval", "mass", "box", "correctness")
    for name, title in _ROWS.items():
        found = {measure: scores.measures[measure][name] for measure in MEASURES}
        overall.add_row(
            title,
            _percent(found["pointing"]),
            found["pointing"].interval_text,
            *(_percent(found[measure]) for measure in MEASURES[1:]),
            style="bold" if name == "maps" else "",
        )
    overall.add_row("highest possible", f"{scores.reachable:.1%}", "", "", "", "", style="dim")
    console.print(overall)
    console.print(_types(report))
    if report.leaves_the_grid:
        table = plain_table("weight off the grid", "words", "mean", "95% interval")
        for name, (count, _, estimate) in report.off_grid.items():
            table.add_row(name, f"{count:,}", _percent(estimate), estimate.interval_text)
        console.print(table)
    else:
        console.print("no word has weight off the grid: this model has no such place", highlight=False)
    options = ", ".join(str(v) if k == "explain" else f"{k} {v}" for k, v in report.map_options.items())
    for note in (*report.notes, f"{report.model} on {report.data}, maps: {options}"):
        console.print(note, markup=False, highlight=False, soft_wrap=True)


def _types(report: PhraseReport) -> Any:
    table = plain_table(
        "type", "phrases", "points at it", "95% interval", *BASELINES, "mass", "if even", "box", "correctness", ""
    )
    for type_, scores in report.by_type.items():
        pointing, mass = scores.measures["pointing"], scores.measures["mass"]
        table.add_row(
            _NAMES.get(type_, type_),
            f"{scores.phrases:,}",
            _percent(pointing["maps"]),
            pointing["maps"].interval_text,
            *(_percent(pointing[name]) for name in BASELINES),
            _percent(mass["maps"]),
            _percent(mass["even"]),
            *(_percent(scores.measures[name]["maps"]) for name in ("box", "correctness")),
            "above all baselines" if scores.beats_baselines else "",
        )
    table.caption = f"baselines of pointing; no intervals for fewer than {MINIMUM_PICTURES} pictures"
    return table


def _percent(estimate: Estimate) -> str:
    return f"{estimate.value:.1%}" if estimate.value == estimate.value else "-"
