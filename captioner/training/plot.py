"""A run, or a chain of runs, as a picture: loss and dev score over the hours that they took.

python -m captioner.training.plot runs/words runs/reward --output runs/scores.png
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from captioner.errors import CaptionerError, DataError
from captioner.training.run_folder import RunFolder


@dataclass(frozen=True)
class Course:
    """What a run's log says.

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
        return self.pictures * len(self.hours) / (self.hours[-1] * 3600)


def read_course(folder: Path) -> Course:
    """The course of a run.

    Raises:
        DataError: the folder holds no run, or one without a whole epoch.
    """
    recipe = folder / "recipe.json"
    ends = [line for line in RunFolder(folder, first=False).read_log() if "dev" in line]
    if not recipe.is_file() or not ends:
        raise DataError(f"{folder}: no run with a whole epoch in it")
    hours, total = [], 0.0
    for line in ends:
        total += line["seconds"] / 3600
        hours.append(total)
    return Course(
        name=folder.name,
        pictures=json.loads(recipe.read_text())["training_pictures"],
        hours=hours,
        scores=[line["dev"] for line in ends],
        losses=[line["train_loss"] for line in ends],
    )


def draw_courses(courses: Sequence[Course]) -> Figure:
    """Loss and dev score of runs, one after the other."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    begun = 0.0
    for course in courses:
        hours = [begun + hour for hour in course.hours]
        left.plot(hours, course.losses, marker="o", markersize=3, label=course.name)
        measure = "cider" if "cider" in course.scores[0] else "perplexity"
        right.plot(
            hours, [s[measure] for s in course.scores], marker="o", markersize=3, label=f"{course.name}: {measure}"
        )
        begun = hours[-1]
    left.set(xlabel="hours of training", ylabel="training loss")
    right.set(xlabel="hours of training", ylabel="dev score")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    return figure


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m captioner.training.plot", description="Draw runs.")
    parser.add_argument("runs", type=Path, nargs="+", help="folders of runs, in the order in which they followed")
    parser.add_argument("--output", type=Path, required=True, help="the picture: .png, .pdf or .svg")
    arguments = parser.parse_args()
    try:
        courses = [read_course(run) for run in arguments.runs]
        draw_courses(courses).savefig(arguments.output)
    except (CaptionerError, OSError, ValueError) as error:
        print(f"plot: {error}", file=sys.stderr)
        return 2
    for course in courses:
        best = max(course.scores, key=lambda s: s.get("cider", -s.get("perplexity", 0.0)))
        print(
            f"{course.name}: {len(course.hours)} epochs of {course.pictures:,} pictures in {course.hours[-1]:.2f} h, "
            f"{course.pictures_per_second:.1f} pictures a second; best dev "
            + ", ".join(f"{name} {value:.3f}" for name, value in best.items())
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
