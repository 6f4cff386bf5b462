"""A run, or a chain of runs, as a figure: training loss and dev score over the hours that they took."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from captioner.errors import DataError
from captioner.training.rehearsal import both
from captioner.training.run_folder import read_log


@dataclass(frozen=True)
class RunLog:
    """What a run's log contains.

    Attributes:
        name: of its folder.
        pictures: of an epoch.
        hours: at the end of each epoch, evaluation left out.
        scores: on dev after each epoch, by name.
        losses: mean training loss of each epoch.
    """

    name: str
    pictures: int
    hours: list[float]
    scores: list[dict[str, float]]
    losses: list[float]

    @property
    def pictures_per_second(self) -> float:
        """Through the model, over the whole run."""
        return self.pictures * len(self.hours) / max(self.hours[-1] * 3600, 1e-9)

    @property
    def measure(self) -> str:
        """The name of the dev score: "cider" or "perplexity"; else the first one."""
        return next((name for name in ("cider", "perplexity") if name in self.scores[0]), next(iter(self.scores[0])))

    def summary(self) -> str:
        """One line for people."""
        sign = -1 if self.measure == "perplexity" else 1
        rehearsed = all({"cider", "rest_cider"} <= scores.keys() for scores in self.scores)
        best = max(self.scores, key=both if rehearsed else lambda scores: sign * scores[self.measure])
        return (
            f"{self.name}: {len(self.hours)} epochs of {self.pictures:,} pictures in {self.hours[-1]:.2f} h, "
            f"{self.pictures_per_second:.1f} pictures a second; best dev "
            + ", ".join(f"{name} {value:.3f}" for name, value in best.items())
        )


def read_run(folder: Path) -> RunLog:
    """The log of a run.

    Raises:
        DataError: the folder holds no run, one without a whole epoch, or a damaged one.
    """
    ends = [line for line in read_log(folder) if "dev" in line and line.get("epoch") != -1]  # -1: before the first
    recipe = folder / "recipe.json"
    if not recipe.is_file() or not ends:
        raise DataError(f"{folder}: no run with a whole epoch in it", remedy="give the --output of captioner train")
    try:
        pictures = _epoch_pictures(json.loads(recipe.read_text(encoding="utf-8")), ends[0])
        hours, total = [], 0.0
        for line in ends:
            total += float(line["seconds"]) / 3600
            hours.append(total)
        scores = [{str(name): float(value) for name, value in line["dev"].items()} for line in ends]
        losses = [float(line["train_loss"]) for line in ends]
        found = RunLog(name=folder.resolve().name, pictures=pictures, hours=hours, scores=scores, losses=losses)
        measure = found.measure
        if not all(measure in one for one in scores):
            raise ValueError("its epochs have different scores")
    except (
        OSError, ValueError, KeyError, TypeError, AttributeError, StopIteration, OverflowError, RecursionError
    ) as error:  # fmt: skip
        reason = str(error) or type(error).__name__
        raise DataError(f"{folder}: recipe.json or log.jsonl is damaged ({reason})") from None
    return found


def _epoch_pictures(recipe: Mapping[str, Any], end: Mapping[str, Any]) -> int:
    """Pictures of an epoch; with rehearsal, an epoch has a share of the rest."""
    if not recipe.get("rehearsal"):
        return int(recipe["training_pictures"])
    steps = int(end["step"]) // (int(end["epoch"]) + 1)
    return steps * min(int(recipe["batch_pictures"]), int(recipe["training_pictures"]))


def draw_runs(runs: Sequence[RunLog]) -> Figure:
    """Loss and dev score of runs, one after the other."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    begun = 0.0
    for run in runs:
        hours = [begun + hour for hour in run.hours]
        left.plot(hours, run.losses, marker="o", markersize=3, label=run.name)
        right.plot(
            hours, [s[run.measure] for s in run.scores], marker="o", markersize=3, label=f"{run.name}: {run.measure}"
        )
        begun = hours[-1]
    left.set(xlabel="hours of training", ylabel="training loss")
    right.set(xlabel="hours of training", ylabel="dev score")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    return figure
