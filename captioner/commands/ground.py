"""The command ``captioner ground``: measure whether a model's maps lie on the objects that its words name."""

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from captioner.commands.console import message_line
from captioner.commands.model_options import add_model_options, check_plain, load_model
from captioner.commands.ranges import check_not_negative, check_positive, check_resamples, check_split
from captioner.errors import DataError, OptionError

if TYPE_CHECKING:
    from captioner.data.records import Record
    from captioner.data.writers import PageFile
    from captioner.grounding.ground_truth import GroundTruth
    from captioner.grounding.grounded import GroundedCaption
    from captioner.grounding.report import SourceReport
    from captioner.options import MapOptions
    from captioner.pipeline import Captioner

_WORST = 40
_OLD_SOURCES = {"written": "generated"}
_PHRASES = {"generated": "generated captions", "references": "reference captions"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.description = (
        "How often a noun's map peaks on the object that the noun names (pointing), and how much of the map lies on "
        "it (mass), beside baselines. Objects come from the instances*.json beside COCO's captions*.json, from "
        "boxes in the captions' JSON lines, or from the boxes of the captions' phrases."
    )
    parser.add_argument("--data", type=Path, required=True, metavar="PATH", help="captions, as for 'captioner train'")
    parser.add_argument("--images", type=Path, help="the folder of the pictures, where it is not beside the captions")
    parser.add_argument("--split", default="dev", help="train, dev or test (default dev)")
    parser.add_argument("--pictures", type=int, metavar="N", help="only the first N annotated pictures")
    parser.add_argument(
        "--captions",
        metavar="SOURCE",
        default="both",
        help="'generated' by the model, 'references' that it reads (teacher-forced), or 'both' (default)",
    )
    parser.add_argument(
        "--phrase-boxes",
        type=Path,
        metavar="PATH",
        help="measure the phrases of people's captions, by type: Flickr30k Entities, its folder or one JSON file",
    )
    parser.add_argument("--masks", action="store_true", help="compare maps with outlines rather than boxes")
    parser.add_argument(
        "--faithfulness",
        action="store_true",
        help="also measure deletion and insertion curves, of one caption a picture (slow: some 60 encodings of each)",
    )
    model = parser.add_argument_group("model")
    add_model_options(model, default="default")
    model.add_argument("--beam", type=int, metavar="N", help="width of the beam; 1 is greedy")
    model.add_argument(
        "--explain",
        choices=("attention", "gradient", "occlusion"),
        help="what maps are made from; default: what the model's file says",
    )
    model.add_argument(
        "--plain",
        action="store_true",
        help="the mean of all heads of the decoder's last attention layer, whatever the model's file says",
    )
    output = parser.add_argument_group("output")
    output.add_argument("--json", action="store_true", help="print JSON instead of tables")
    output.add_argument("--worst", type=Path, metavar="FILE", help=f"a page of the {_WORST} worst cases, .html")
    output.add_argument("--resamples", type=int, default=1000, metavar="N", help="for the intervals (default 1000)")
    output.add_argument("--seed", type=int, default=0, help="of resampling and of random order (default 0)")


def run(options: argparse.Namespace) -> int:
    """Run the command: 0, or 1 if pictures failed. Raises CaptionerError."""
    sources = _check(options)
    if options.phrase_boxes is not None:
        from captioner.commands import ground_phrases

        ground_phrases.check(options)
        return ground_phrases.run(options)
    from captioner.commands.files import model_files, refuse_overwriting
    from captioner.grounding.report import GroundReport
    from captioner.options import MapOptions
    from captioner.shipped import find_model

    page = _page(options)
    model_file = find_model(options.model)
    records, ground_truth, notes = read_annotated(options)
    refuse_overwriting({"--worst": options.worst}, [*model_files(model_file), *inputs_of(options, records)])
    if options.plain:
        check_plain(options, model_file)
    model = load_model(options)
    map_options = MapOptions.stored({} if options.plain else dict(model.about), options.explain)
    if options.plain:
        model.model.set_plain_maps()
    captions, failed = _ground(options, model, records, ground_truth, map_options, sources)
    reports = {}
    for source in sources:
        some = [caption for caption in captions if caption.source == source]
        if any(caption.nouns for caption in some):
            reports[source] = _report(options, model, some)
        else:
            notes.append(f"none of the {_PHRASES[source]} names an object that is annotated in its picture")
    if not reports:
        reason = f"none of its {len(records)} pictures opens" if failed == len(records) else notes[-1]
        raise DataError(f"{options.data}: {reason}: there is nothing to measure", remedy="use other pictures")
    notes += [
        f"{report.absent:,} nouns of {_PHRASES[source]} name objects that are not in the picture; they are not counted"
        for source, report in reports.items()
        if report.absent
    ]
    if failed:
        notes.append(f"{failed:,} pictures failed and are left out")
    report = GroundReport(
        model=model.name,
        data=f"{options.data} {options.split}",
        map_options=asdict(map_options),
        masks=options.masks,
        sources=reports,
        notes=tuple(notes),
    )
    if options.json:
        print(json.dumps(report.as_dict(), indent=1, allow_nan=False))
    else:
        from rich.console import Console

        from captioner.grounding.report import print_ground_report

        print_ground_report(report, Console(width=None if sys.stdout.isatty() else 160))
    if page is not None:
        _write_worst(page, captions)
    return 1 if failed else 0


def read_annotated(options: argparse.Namespace) -> tuple[list["Record"], "GroundTruth", list[str]]:
    """The annotated pictures that a command's options name, their ground truth, and notes on what is left out.

    Raises:
        DataError: the data cannot be read, or nothing is annotated.
    """
    from captioner.data.readers import read
    from captioner.data.records import require_split
    from captioner.grounding.ground_truth import InstanceGroundTruth, find_ground_truth

    everything = read(options.data, images=options.images)
    records = require_split(everything, options.split, source=options.data)
    ground_truth = find_ground_truth(options.data, everything, masks=getattr(options, "masks", False))
    known = [record for record in records if ground_truth.knows(record)]
    if not known:
        raise DataError(
            f"{options.data}: no picture of the split '{options.split}' is annotated",
            remedy="put instances_x.json beside captions_x.json, or 'boxes' into the JSON lines",
        )
    notes = []
    if left_out := len(records) - len(known):
        notes.append(f"{left_out:,} pictures of the split are not annotated and are left out")
    if isinstance(ground_truth, InstanceGroundTruth) and (empty := ground_truth.instances.without_area):
        notes.append(f"{empty:,} annotations have boxes without area and are left out")
    return known[: options.pictures], ground_truth, notes


def inputs_of(options: argparse.Namespace, records: list["Record"]) -> Iterator[Path]:
    """The files that a command reads besides the model: captions, instances, and the pictures of the records."""
    from captioner.data.readers import caption_file
    from captioner.grounding.ground_truth import instances_of

    if options.data.is_dir():
        yield from (file for file in options.data.iterdir() if file.is_file())
    else:
        yield options.data
    if (beside := instances_of(options.data)) is not None:
        yield from (beside, caption_file(options.data))
    files = [record.image if isinstance(record.image, Path) else record.image.shard for record in records]
    yield from files
    for folder in dict.fromkeys(file.parent for file in files):  # the pictures of other splits
        with contextlib.suppress(OSError):
            yield from folder.iterdir()


def _check(options: argparse.Namespace) -> tuple[str, ...]:
    """Refuse options out of range, and return the sources of captions."""
    from captioner.grounding.grounded import SOURCES

    check_positive(options, "pictures", "beam")
    check_resamples(options, "resamples")
    check_not_negative(options, "seed")
    check_split(options.split)
    source = options.captions
    if source in _OLD_SOURCES:
        print(f"captioner: --captions {source} is now called {_OLD_SOURCES[source]}", file=sys.stderr)
        source = _OLD_SOURCES[source]
    if source != "both" and source not in SOURCES:
        raise OptionError(f"--captions must be {', '.join(SOURCES)} or both, not '{source}'")
    if options.beam and source == "references":
        raise OptionError("--beam is for generated captions, not for --captions references", remedy="leave it out")
    return SOURCES if source == "both" else (source,)


def _page(options: argparse.Namespace) -> "PageFile | None":
    if options.worst is None:
        return None
    from captioner.commands.files import check_new_output
    from captioner.data.writers import PageFile

    check_new_output("--worst", options.worst)
    return PageFile(options.worst, title="Where the maps were wrong", several=True)


def _ground(
    options: argparse.Namespace,
    model: "Captioner",
    records: list["Record"],
    ground_truth: "GroundTruth",
    map_options: "MapOptions",
    sources: tuple[str, ...],
) -> tuple[list["GroundedCaption"], int]:
    """All grounded captions, by source, and the number of failed pictures, each of which is named."""
    from captioner.commands.progress import progress
    from captioner.grounding.run import ground
    from captioner.results import Failure

    found: list[GroundedCaption] = []
    failed = 0
    beam = model.options(width=options.beam) if options.beam else None
    with progress("pictures", len(records)) as (advance, print_line):
        for outcome in ground(model, records, ground_truth, sources=sources, explain=map_options, options=beam):
            advance()
            if isinstance(outcome, Failure):
                failed += 1
                print_line(message_line(outcome))
            else:
                found += outcome.captions
    return found, failed


def _report(options: argparse.Namespace, model: "Captioner", captions: list["GroundedCaption"]) -> "SourceReport":
    from captioner.grounding.deletion import deletion_curves, summarise
    from captioner.grounding.report import SourceReport
    from captioner.grounding.scores import average_scores

    nouns = [noun for caption in captions for noun in caption.nouns]
    scores = [score for caption in captions for score in caption.scores]
    mean, by_class = average_scores(nouns, scores, resamples=options.resamples, seed=options.seed)
    faithfulness = None
    if options.faithfulness:
        # One caption of a picture: each takes dozens of encodings.
        first = {caption.record.id: caption for caption in reversed(captions) if caption.nouns}
        curves = [curve for caption in first.values() for curve in deletion_curves(model, caption, seed=options.seed)]
        if curves:  # the model may know none of the words
            faithfulness = summarise(curves, resamples=options.resamples, seed=options.seed)
    absent = sum(caption.absent for caption in captions)
    return SourceReport(scores=mean, by_class=by_class, absent=absent, faithfulness=faithfulness)


def _write_worst(page: "PageFile", captions: list["GroundedCaption"]) -> None:
    from captioner.grounding.worst_cases import worst_cases

    cases = worst_cases(captions, _WORST)
    if not cases:
        print(f"captioner: every map peaks on its object, so {page.path} is not written", file=sys.stderr)
        return
    with page as file:
        for case in cases:
            file.write(case)
