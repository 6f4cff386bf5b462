"""The progress of a run as values, and their display on standard error."""

import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from captioner.training.epoch import Figures

_SECONDS_BETWEEN_LINES = 30.0


@dataclass(frozen=True)
class Progress:
    """What a run has just done.

    Attributes:
        what: "grids", "grids of the teacher", "epoch 2/10" or "dev after epoch 2".
        done, total: steps of the run, or views of pictures, of which there are grids.
        figures: of the step, or the dev scores.
    """

    what: str
    done: int
    total: int
    figures: Figures = field(default_factory=dict)

    @property
    def is_dev(self) -> bool:
        """Whether an epoch has ended, and ``figures`` are its dev scores."""
        return self.what.startswith("dev")

    def __str__(self) -> str:
        return f"{self.what}  {self.done}/{self.total}  {_write(self.figures)}".rstrip()


def show_progress(steps: Iterable[Progress]) -> None:
    """Run to the end, and show the progress: a bar on a terminal, else a line now and then."""
    if not sys.stderr.isatty():
        printed = 0.0
        for step in steps:
            now = time.monotonic()
            if step.is_dev or step.done == step.total or now - printed > _SECONDS_BETWEEN_LINES:
                printed = now
                print(step, file=sys.stderr, flush=True)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", figures="")
        for step in steps:
            figures = _write(step.figures)
            bar.update(task, description=step.what, completed=step.done, total=step.total, figures=figures)
            if step.is_dev:
                bar.console.print(f"{step.what}: {figures}", highlight=False)


def _write(figures: Figures) -> str:
    return "  ".join(f"{name} {value:.3f}" for name, value in figures.items())
