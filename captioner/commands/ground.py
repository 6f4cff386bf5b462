"""The command ``captioner ground``: measure whether a model's maps lie on what the words name."""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captioner.errors import DataError, OptionError

if TYPE_CHECKING:
    from captioner.data.records import Record
    from captioner.grounding.report import Findings
    from captioner.grounding.run import Grounded
    from captioner.pipeline import Captioner

_WORST = 40
_SAID = {"written": "captions that the model wrote", "references": "references"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.description = (
        "How often a noun's map peaks on the thing that it names, and how much of it lies there, beside baselines. "
        "Things come from the instances*.json beside COCO's captions*.json, or from boxes in the captions' JSON lines."
    )
    parser.add_argument("--data", type=Path, required=True, metavar="PATH", help="captions, as for 'captioner train'")
    parser.add_argument("--images", type=Path, help="the folder of the pictures, where it is not beside the captions")
    parser.add_argument("--split", default="dev", help="train, dev or test (default dev)")
    parser.add_argument("--pictures", type=int, metavar="N", help="the first N annotated pictures alone")
    parser.add_argument(
        "--captions",
        choices=("written", "references", "both"),
        default="both",
        help="captions that the model writes, references that it reads, or both (default)",
    )
    parser.add_argument("--masks", action="store_true", help="hold maps against outlines rather than boxes")
    parser.add_argument(
        "--faithfulness",
        action="store_true",
        help="deletion and insertion curves as well, of one caption a picture (slow: some 60 encodings of each)",
    )
    model = parser.add_argument_group("model")
    model.add_argument("--model", default="default", help="a name that 'captioner models' lists, or a model file")
    model.add_argument("--device", help="cpu, cuda, ...; the CPU if not given")
    model.add_argument("--beam", type=int, metavar="N", help="width of the beam; 1 is greedy")
    model.add_argument(
        "--explain",
        choices=("attention", "gradient", "occlusion"),
        help="what maps are made of; what the model's file says if not given",
    )
    model.add_argument(
        "--plain",
        action="store_true",
        help="the mean of all heads of the decoder's last attention, whatever the model's file says",
    )
    output = parser.add_argument_group("output")
    output.add_argument("--json", action="store_true", help="print JSON and no table")
    output.add_argument("--worst", type=Path, metavar="FILE", help=f"a page of the {_WORST} worst cases, .html")
    output.add_argument("--resamples", type=int, default=1000, metavar="N", help="for the intervals (default 1000)")
    output.add_argument("--seed", type=int, default=0, help="of resampling and of random order (default 0)")


def run(options: argparse.Namespace) -> int:
    """Run the command: 0, or 1 if pictures failed. Raises CaptionerError."""
    _check(options)
    from captioner.explain.maps import MapReading
    from captioner.grounding.report import GroundReport
    from captioner.grounding.run import SOURCES
    from captioner.pipeline import load

    page = _page(options)
    records, truth, left_out = _records(options)
    model = load(options.model, device=options.device)
    reading = MapReading.stored({} if options.plain else model.about, options.explain)
    if options.plain:
        model.model.make_maps_of(())
    sources = SOURCES if options.captions == "both" else (options.captions,)
    found, failures = _ground(options, model, records, truth, reading, sources)
    findings, silent = {}, []
    for source in sources:
        some = [grounded for grounded in found if grounded.source == source]
        if any(grounded.mentions for grounded in some):
            findings[source] = _findings(options, model, some)
        else:
            silent.append(f"none of the {_SAID[source]} names a thing that is annotated in its picture")
    if not findings:
        raise DataError(f"{'; '.join(silent)}: there is nothing to measure")
    notes = list(silent)
    if left_out:
        notes.append(f"{left_out:,} pictures of the split have no annotated things and are left out")
    notes += [
        f"{some.absent:,} nouns of {_SAID[source]} name what is not in the picture; they are not counted"
        for source, some in findings.items()
        if some.absent
    ]
    report = GroundReport(
        model=model.name,
        data=f"{options.data} {options.split}",
        reading=asdict(reading),
        outlines=options.masks,
        findings=findings,
        notes=tuple(notes),
    )
    if options.json:
        print(json.dumps(report.as_dict(), indent=1))
    else:
        from rich.console import Console

        from captioner.grounding.report import print_ground_report

        print_ground_report(report, Console(width=None if sys.stdout.isatty() else 160))
    if page is not None:
        _write_worst(page, found)
    return 1 if failures else 0


def _write_worst(page: Any, found: list["Grounded"]) -> None:
    from captioner.grounding.run import worst

    cases = worst(found, _WORST)
    if not cases:
        print(f"captioner: no map lay elsewhere, so {page.path} is not written", file=sys.stderr)
        return
    with page as file:
        for caption in cases:
            file.write(caption)


def _check(options: argparse.Namespace) -> None:
    for name in ("pictures", "resamples", "beam"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise OptionError(f"--{name} must be at least 1, not {value}")
    if options.seed < 0:
        raise OptionError(f"--seed must not be negative, as {options.seed} is")
    if options.split not in ("train", "dev", "test"):
        raise OptionError(f"--split must be train, dev or test, not '{options.split}'")


def _page(options: argparse.Namespace) -> Any:
    if options.worst is None:
        return None
    from captioner.data.writers import PageFile

    return PageFile(options.worst, title="Where the maps were wrong", several=True)


def _records(options: argparse.Namespace) -> tuple[list["Record"], Any, int]:
    from captioner.data.readers import read
    from captioner.data.records import of_split
    from captioner.grounding.ground_truth import find_truth

    records = of_split(read(options.data, images=options.images), options.split)
    if not records:
        raise DataError(f"{options.data}: no pictures of the split '{options.split}'")
    truth = find_truth(options.data, images=options.images, masks=options.masks)
    known = [record for record in records if truth.knows(record)]
    if not known:
        raise DataError(
            f"{options.data}: nothing says where things are on pictures of the split '{options.split}': put "
            "instances_x.json beside captions_x.json, or 'boxes' into the JSON lines"
        )
    return known[: options.pictures], truth, len(records) - len(known)


def _ground(
    options: argparse.Namespace,
    model: "Captioner",
    records: list["Record"],
    truth: Any,
    reading: Any,
    sources: tuple[str, ...],
) -> tuple[list["Grounded"], int]:
    from captioner.commands.progress import progress
    from captioner.grounding.run import ground

    failures = 0
    with progress("captions", len(records) * len(sources)) as (advance, say):

        def on_error(_: Any, error: Exception) -> None:
            nonlocal failures
            failures += 1
            say(f"captioner: {error}")

        found = list(
            ground(
                model,
                records,
                truth,
                sources=sources,
                explain=reading,
                options=model.options(width=options.beam) if options.beam else None,
                on_error=on_error,
                advance=advance,
            )
        )
    return found, failures


def _findings(options: argparse.Namespace, model: "Captioner", found: list["Grounded"]) -> "Findings":
    from captioner.grounding.deletion import summarise
    from captioner.grounding.pointing import average
    from captioner.grounding.report import Findings
    from captioner.grounding.run import try_out

    mentions = [mention for grounded in found for mention in grounded.mentions]
    aims = [aim for grounded in found for aim in grounded.aims]
    shares, by_class = average(mentions, aims, resamples=options.resamples, seed=options.seed)
    faithfulness = None
    if options.faithfulness:
        # One caption of a picture: each takes dozens of encodings.
        tried = {grounded.record.id: grounded for grounded in reversed(found) if grounded.places}
        trials = [trial for grounded in tried.values() for trial in try_out(model, grounded, seed=options.seed)]
        if trials:  # the model may know none of the words
            faithfulness = summarise(trials, resamples=options.resamples, seed=options.seed)
    return Findings(shares, by_class, sum(grounded.absent for grounded in found), faithfulness)
