"""``captioner ground --phrase-boxes``: whether the maps of captions' phrases lie in the boxes of these phrases."""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from captioner.commands.console import message_line
from captioner.commands.model_options import check_plain, load_model
from captioner.errors import DataError, OptionError

if TYPE_CHECKING:
    from captioner.data.readers.entities import PhraseBoxes
    from captioner.data.records import Record
    from captioner.grounding.phrase_scores import PhraseScore
    from captioner.options import MapOptions
    from captioner.pipeline import Captioner


def check(options: argparse.Namespace) -> None:
    """Refuse options that are for objects. Raises OptionError."""
    for name in ("masks", "faithfulness", "worst", "beam"):
        if getattr(options, name):
            raise OptionError(f"--{name} goes with annotated objects, not with --phrase-boxes", remedy="leave it out")
    if options.captions == "generated":
        raise OptionError(
            "--phrase-boxes are of people's captions, and generated ones have none", remedy="give --captions references"
        )


def run(options: argparse.Namespace) -> int:
    """Measure and print: 0, or 1 if pictures failed. Raises CaptionerError."""
    from captioner.grounding.phrase_report import PhraseReport, print_phrase_report
    from captioner.grounding.phrase_scores import average_off_grid, average_phrases
    from captioner.options import MapOptions
    from captioner.shipped import find_model

    if options.plain:
        check_plain(options, find_model(options.model))
    records, phrases, notes = _read(options)
    model = load_model(options)
    map_options = MapOptions.stored({} if options.plain else dict(model.about), options.explain)
    if options.plain:
        model.model.set_plain_maps()
    scores, words, failed = _ground(model, records, phrases, map_options)
    if not scores:
        reason = f"none of its {len(records)} pictures opens" if failed == len(records) else "no phrase has boxes"
        raise DataError(f"{options.data}: {reason}: there is nothing to measure", remedy="use other pictures")
    if failed:
        notes.append(f"{failed:,} pictures failed and are left out")
    mean, by_type = average_phrases(scores, resamples=options.resamples, seed=options.seed)
    report = PhraseReport(
        model=model.name,
        data=f"{options.data} {options.split}",
        phrase_boxes=str(options.phrase_boxes),
        map_options=asdict(map_options),
        scores=mean,
        by_type=by_type,
        off_grid=average_off_grid(words, resamples=options.resamples, seed=options.seed),
        notes=tuple(notes),
    )
    if options.json:
        print(json.dumps(report.as_dict(), indent=1, allow_nan=False))
    else:
        from rich.console import Console

        print_phrase_report(report, Console(width=None if sys.stdout.isatty() else 160))
    return 1 if failed else 0


def _read(options: argparse.Namespace) -> tuple[list["Record"], "PhraseBoxes", list[str]]:
    """The annotated records of the split, the phrases, and notes on what is left out. Raises DataError."""
    from captioner.data.readers import read
    from captioner.data.readers.entities import PhraseBoxes
    from captioner.data.records import require_split

    path: Path = options.phrase_boxes
    phrases = PhraseBoxes(path)
    everything = read(options.data, images=options.images)
    records = require_split(everything, options.split, source=options.data)
    known = [record for record in records if phrases.of(record.image)]
    if not known:
        raise DataError(
            f"{path} has no picture of the split '{options.split}' of {options.data}",
            remedy="give the boxes of these pictures: they are known by the names of their files",
        )
    notes = []
    if left_out := len(records) - len(known):
        notes.append(f"{left_out:,} pictures of the split are not annotated and are left out")
    return known[: options.pictures], phrases, notes


def _ground(
    model: "Captioner", records: list["Record"], phrases: "PhraseBoxes", map_options: "MapOptions"
) -> tuple[list["PhraseScore"], list[tuple[str, str, float]], int]:
    """The scores of all phrases, the words' weights off the grid, and the number of failed pictures, each named."""
    from captioner.commands.progress import progress
    from captioner.grounding.phrase_run import ground_phrases
    from captioner.results import Failure

    scores: list[PhraseScore] = []
    words: list[tuple[str, str, float]] = []
    failed = 0
    with progress("pictures", len(records)) as (advance, print_line):
        for outcome in ground_phrases(model, records, phrases, explain=map_options):
            advance()
            if isinstance(outcome, Failure):
                failed += 1
                print_line(message_line(outcome))
            else:
                scores += outcome.scores
                words += [(outcome.record.id, name, weight) for name, weight in outcome.words]
    return scores, words, failed
