"""The command ``captioner select-heads``: choose the attention heads of a model's maps by ground truth."""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from captioner.commands.console import message_line
from captioner.commands.files import (
    check_model_output,
    find_weights,
    model_files,
    refuse_overwriting,
    report_old_graphs,
)
from captioner.commands.packages import require
from captioner.commands.ranges import check_not_negative, check_positive, check_split
from captioner.errors import DataError, OptionError

if TYPE_CHECKING:
    from captioner.data.records import Record
    from captioner.grounding.ground_truth import GroundTruth
    from captioner.grounding.select_heads import HeadSample
    from captioner.pipeline import Captioner


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.description = (
        "Choose the attention heads and the postprocessing of a model's maps: the model reads reference captions, "
        "every candidate is scored against ground truth, and the best goes into a new model file."
    )
    parser.add_argument("model", help="a name that 'captioner models' lists, or a model file")
    parser.add_argument("--data", type=Path, required=True, metavar="PATH", help="captions, as for 'captioner ground'")
    parser.add_argument("--images", type=Path, help="the folder of the pictures, where it is not beside the captions")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="the new model file, .safetensors")
    parser.add_argument("--split", default="dev", help="train, dev or test (default dev)")
    parser.add_argument("--pictures", type=int, default=1000, metavar="N", help="the most pictures (default 1000)")
    parser.add_argument("--captions", type=int, default=5, metavar="N", help="the most of each picture (default 5)")
    parser.add_argument(
        "--gradients", type=int, default=200, metavar="N", help="pictures for which gradients are tried (default 200)"
    )
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:1, mps")
    parser.add_argument("--threads", type=int, metavar="N", help="of the CPU (default: as many as torch takes)")


def run(options: argparse.Namespace) -> int:
    """Run the command: 0, or 1 if pictures failed. Raises CaptionerError."""
    require("torch", "selecting heads")
    _check(options)
    from captioner.commands.ground import inputs_of, read_annotated
    from captioner.pipeline import load

    model_file = find_weights(options.model, "select-heads")
    refuse_overwriting({"--output": options.output}, model_files(model_file))
    records, ground_truth, notes = read_annotated(options)
    for note in notes:
        print(note, file=sys.stderr)
    refuse_overwriting({"--output": options.output}, inputs_of(options, records))

    import torch

    from captioner.checkpoint import Checkpoint, save
    from captioner.grounding.select_heads import select, with_selection
    from captioner.options import MapOptions

    if options.threads is not None:
        torch.set_num_threads(options.threads)
    model = load(options.model, device=options.device, backend="torch")
    if model.model.fine_maps is not None:
        raise OptionError(
            f"{model.name} has fine maps, which were learned for the heads that it has",
            remedy="choose heads before fine maps are trained",
        )
    samples: list[HeadSample] = []
    failed = 0
    for found in _read_all(options, model, records, ground_truth):
        if found is None:
            failed += 1
        else:
            samples += found
    if not samples:
        raise DataError(
            f"{options.data}: no caption of the split '{options.split}' names an object with ground truth",
            remedy="use another split, or more pictures",
        )
    decoder = model.model.decoder
    data = f"{options.data.name} {options.split}"
    delay = MapOptions.stored(dict(model.about), "attention").delay
    selection = select(samples, decoder.map_heads, decoder.heads, delay=delay, data=data)
    for candidate, score in sorted(selection.scores.items(), key=lambda item: -item[1].value):
        print(f"pointing {score.pointing.value:6.1%}  mass {score.mass.value:6.1%}  {candidate}", file=sys.stderr)
    checkpoint = Checkpoint(model=model.model, vocabulary=model.vocabulary, about=dict(model.about))
    save(options.output, with_selection(checkpoint, selection))
    report_old_graphs(options.output)
    print(json.dumps(selection.measured, allow_nan=False))
    return 1 if failed else 0


def _read_all(
    options: argparse.Namespace, model: "Captioner", records: list["Record"], ground_truth: "GroundTruth"
) -> "Iterator[list[HeadSample] | None]":
    """The samples of each picture, None for one that failed, which is named."""
    from captioner.commands.progress import progress
    from captioner.grounding.select_heads import read_heads
    from captioner.results import Failure

    with progress("pictures", len(records)) as (advance, print_line):
        for found in read_heads(model, records, ground_truth, captions=options.captions, gradients=options.gradients):
            advance()
            if isinstance(found, Failure):
                print_line(message_line(found))
                yield None
            else:
                yield found


def _check(options: argparse.Namespace) -> None:
    check_positive(options, "pictures", "captions", "threads")
    check_not_negative(options, "gradients")
    check_split(options.split)
    check_model_output(options.output)
