"""What `captioner ground` found out, for people (tables) and for programs (JSON)."""

from dataclasses import dataclass, field
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from captioner.grounding.deletion import LEVELS, Faithfulness
from captioner.grounding.pointing import FEWEST_PICTURES, RIVALS, Figure, Shares

_FEWEST = 5  # mentions of a class that gets a line of its own in the table; JSON has all
_TITLES = {"written": "captions that the model wrote", "references": "references that the model read"}
_NAMES = {"maps": "the noun's map", "another word": "another word's map", "centre": "the centre", "even": "an even map"}


@dataclass(frozen=True)
class Findings:
    """Of one kind of captions.

    Attributes:
        shares: of all nouns.
        by_class: of each class.
        absent: nouns that name what is not in the picture.
        faithfulness: deletion and insertion, where asked for.
    """

    shares: Shares
    by_class: dict[str, Shares]
    absent: int
    faithfulness: Faithfulness | None = None


@dataclass(frozen=True)
class GroundReport:
    """Everything that one call of the command found out.

    Attributes:
        model, data, reading: what was measured, and how maps were made.
        outlines: whether things' masks were taken rather than boxes.
        findings: by source, "written" and "references".
        notes: what else is to be said.
    """

    model: str
    data: str
    reading: dict[str, Any]
    outlines: bool
    findings: dict[str, Findings]
    notes: tuple[str, ...] = field(default=())

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON holds it."""
        return {
            "model": self.model,
            "data": self.data,
            "maps": self.reading,
            "inside": "masks" if self.outlines else "boxes",
            "captions": {
                source: {
                    "all": _as_dict(found.shares),
                    "classes": {category: _as_dict(shares) for category, shares in found.by_class.items()},
                    "absent": found.absent,
                    **({"faithfulness": _faithful_dict(found.faithfulness)} if found.faithfulness else {}),
                }
                for source, found in self.findings.items()
            },
            "notes": list(self.notes),
        }


def _as_dict(shares: Shares) -> dict[str, Any]:
    return {
        "nouns": shares.mentions,
        "pictures": shares.pictures,
        "reachable": shares.reachable,
        "pointing": {name: _figure(shares.pointing[name]) for name in RIVALS},
        "mass": {name: _figure(shares.mass[name]) for name in RIVALS},
        "beats_baselines": shares.beats_baselines,
    }


def _faithful_dict(found: Faithfulness) -> dict[str, Any]:
    names = ("deletion", "random_deletion", "deletion_gain", "insertion", "random_insertion", "insertion_gain")
    return {
        "words": found.words,
        "pictures": found.pictures,
        **{name: _figure(getattr(found, name)) for name in names},
        "levels": list(LEVELS),
        "curves": found.curves,
    }


def _figure(figure: Figure) -> dict[str, Any]:
    if figure.value != figure.value:  # nothing to take the mean of, and JSON has no NaN
        return {"value": None, "interval": None}
    return {"value": figure.value, "interval": [figure.interval.low, figure.interval.high]}


def print_ground_report(report: GroundReport, console: Console) -> None:
    """Print the tables, then the notes."""
    for source, found in report.findings.items():
        console.print(
            f"\n{_TITLES[source]}: {found.shares.mentions:,} nouns on {found.shares.pictures:,} pictures",
            style="bold",
            highlight=False,
        )
        console.print(_overall(found.shares))
        console.print(_classes(found))
        if found.faithfulness is not None:
            console.print(_faithful(found.faithfulness))
    for note in (*report.notes, f"{report.model} on {report.data}, maps: {_signature(report)}"):
        console.print(note, markup=False, highlight=False, soft_wrap=True)


def _signature(report: GroundReport) -> str:
    return ", ".join(str(value) if name == "explain" else f"{name} {value}" for name, value in report.reading.items())


def _overall(shares: Shares) -> Table:
    table = _table("all nouns", "points at it", "95% interval", "mass on it", "95% interval")
    for name in RIVALS:
        pointing, mass = shares.pointing[name], shares.mass[name]
        table.add_row(_NAMES[name], *_cells(pointing), *_cells(mass), style="bold" if name == "maps" else None)
    table.add_row("the most possible", f"{shares.reachable:.1%}", "", "", "", style="dim")
    return table


def _classes(found: Findings) -> Table:
    table = _table(
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
    many = {name: shares for name, shares in found.by_class.items() if shares.mentions >= _FEWEST}
    for category, shares in many.items():
        baseline = shares.pointing[shares.best_baseline]
        sure = shares.pictures >= FEWEST_PICTURES
        table.add_row(
            category,
            f"{shares.mentions:,}",
            f"{shares.pictures:,}",
            f"{shares.pointing['maps'].value:.1%}",
            _interval(shares.pointing["maps"]) if sure else "",
            f"{shares.best_baseline} {baseline.value:.1%}",
            _interval(baseline) if sure else "",
            f"{shares.mass['maps'].value:.1%}",
            f"{shares.mass['even'].value:.1%}",
            "above all baselines" if shares.beats_baselines else "",
        )
    few = len(found.by_class) - len(many)
    table.caption = f"no intervals from fewer than {FEWEST_PICTURES} pictures" + (
        f"; {few} classes with fewer than {_FEWEST} nouns are in --json alone" if few else ""
    )
    return table


def _faithful(found: Faithfulness) -> Table:
    table = _table(f"{found.words:,} words", "by the map", "at random", "gain", "95% interval")
    for title, own, chance, gain in (
        ("probability while cells are blotted out", found.deletion, found.random_deletion, found.deletion_gain),
        ("probability while cells come back", found.insertion, found.random_insertion, found.insertion_gain),
    ):
        low, high = gain.interval.low, gain.interval.high
        row = (f"{own.value:.3f}", f"{chance.value:.3f}", f"{gain.value:+.3f}", f"{low:+.3f} to {high:+.3f}")
        table.add_row(title, *row)
    return table


def _table(first: str, *titles: str) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False, caption_justify="left")
    table.add_column(first, no_wrap=True)
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)
    return table


def _cells(figure: Figure) -> tuple[str, str]:
    return ("-", "") if figure.value != figure.value else (f"{figure.value:.1%}", _interval(figure))


def _interval(figure: Figure) -> str:
    return f"{100 * figure.interval.low:.1f} to {100 * figure.interval.high:.1f}"
