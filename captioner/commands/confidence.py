"""What ``captioner caption`` says about how sure a caption is, and how much the picture mattered for its words."""

import argparse
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from captioner.commands.console import printable
from captioner.errors import OptionError

if TYPE_CHECKING:
    from pathlib import Path

    from captioner.pipeline import Captioner
    from captioner.results import Outcome


def add_confidence_options(parser: argparse.ArgumentParser) -> None:
    """Declare --picture-gain, --min-confidence and --sort."""
    group = parser.add_argument_group("how sure, how seen")
    group.add_argument(
        "--picture-gain",
        action="store_true",
        help="compute for each word how much likelier the picture makes it; shown in JSON, page and figure",
    )
    group.add_argument(
        "--min-confidence",
        type=float,
        metavar="P",
        help="name the captions whose confidence is below P, from 0 to 1, and mark them in JSON and page",
    )
    group.add_argument(
        "--sort", choices=("name", "doubt"), help="the order of --page; doubt puts those first that are least sure"
    )


def holds_words(output: "Path | None") -> bool:
    """Whether a results file holds what is known of each word and caption."""
    return output is not None and output.suffix.lower() == ".jsonl"


class Confidence:
    """The gains and marks of the captions of a run.

    Raises:
        OptionError: a value out of its range, or an order without a page.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.gain: bool = options.picture_gain
        self.by_doubt = options.sort == "doubt"
        self.minimum: float | None = options.min_confidence
        self.doubtful = self.captions = 0
        if self.minimum is not None and not 0 <= self.minimum <= 1:
            raise OptionError(f"--min-confidence must be from 0 to 1, not {self.minimum}")
        shows = options.json or options.page or options.figure or ".json" in (options.sidecar or ())
        shows = shows or holds_words(options.output)
        if self.gain and not shows:
            raise OptionError(
                "--picture-gain is shown in JSON, pages and figures, and none is asked for",
                remedy="add --json, --page words.html or --figure words.png",
            )
        if options.sort is not None and options.page is None:
            raise OptionError(f"--sort {options.sort} is an order of the page", remedy="add --page words.html")

    def applied(self, model: "Captioner", outcomes: "Iterable[Outcome]") -> "Iterator[Outcome]":
        """The outcomes, the captions among them with what was asked for."""
        from captioner.results import Caption

        for outcome in outcomes:
            if isinstance(outcome, Caption):
                self.captions += 1
                if self.gain:
                    (outcome,) = model.with_gains([outcome])
                if self.minimum is not None or self.by_doubt:
                    outcome = outcome.reviewed(self.minimum or 0.0)
            yield outcome

    def line(self, outcome: "Outcome") -> str | None:
        """The line that names a caption which a person should look at."""
        if not getattr(outcome, "needs_review", None):
            return None
        self.doubtful += 1
        share = f"{100 * outcome.confidence:.0f}%"  # type: ignore[union-attr]
        return printable(f"{outcome.image}: only {share} sure, needs review: {outcome}")

    def report(self) -> None:
        """Say how many of the captions of this run were named."""
        if self.minimum is not None and self.captions > 1:
            print(f"{self.doubtful} of {self.captions} captions are less sure than {self.minimum}", file=sys.stderr)
