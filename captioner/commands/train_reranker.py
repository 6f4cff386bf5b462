"""The command ``captioner train-reranker``: the beam's captions in the order that suits the picture best."""

import argparse
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

from captioner.commands.console import report, report_left_out
from captioner.commands.files import (
    check_model_output,
    find_weights,
    model_files,
    refuse_overwriting,
    report_old_graphs,
)
from captioner.commands.packages import require
from captioner.commands.ranges import check_positive
from captioner.commands.training_pictures import load_model
from captioner.errors import DataError, OptionError

if TYPE_CHECKING:
    from captioner.data.records import Record

_MOST_DIMS, _MOST_CENTRES = 4096, 50_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.description = (
        "Give a model a reranker: what people would say of a picture is predicted from it (kernel ridge regression, "
        "learned from the captions of training pictures), and of the captions that the beam has found, the one comes "
        "first that is most like it. Its weight is chosen on dev. This is the last step: training, pruning, averaging "
        "and ensembles leave a reranker behind."
    )
    parser.add_argument("model", metavar="MODEL", help="a name that 'captioner models' lists, or a model file")
    parser.add_argument(
        "--data",
        type=Path,
        nargs="+",
        action="append",
        required=True,
        metavar="PATH",
        help="captions of pictures, with the splits train and dev. Give it again for pictures that people describe in "
        "another way, such as those of another data set",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="the file to write, in 32 bits")
    parser.add_argument(
        "--beam", type=int, metavar="N", help="width of the beam (default: what the model's file holds)"
    )
    parser.add_argument(
        "--dims", type=int, default=512, metavar="D", help="dimensions in which n-grams are predicted (default 512)"
    )
    parser.add_argument(
        "--centres",
        type=int,
        default=6000,
        metavar="P",
        help="training pictures that new ones are compared with, of each --data (default 6000)",
    )
    parser.add_argument(
        "--ridge", type=float, default=0.01, metavar="X", help="strength of the regularisation (default 0.01)"
    )
    parser.add_argument(
        "--minimum-count",
        type=int,
        default=5,
        metavar="N",
        help="n-grams in the captions of fewer pictures of a --data are left out (default 5)",
    )
    parser.add_argument(
        "--bleu-weight",
        type=float,
        default=0.0,
        metavar="X",
        help="what a point of BLEU-4 counts beside a point of CIDEr-D where weights are chosen on dev (default 0)",
    )
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:1, mps")
    parser.add_argument("--threads", type=int, metavar="N", help="of the CPU (default: as many as torch takes)")


def run(options: argparse.Namespace) -> int:
    """Write the model with its reranker: 0, or 1 if pictures were left out. Raises CaptionerError."""
    require("torch", "fitting a reranker")
    require("scipy", "fitting a reranker")
    check_positive(options, "beam", "dims", "centres", "minimum_count", "threads")
    for name, most in (("dims", _MOST_DIMS), ("centres", _MOST_CENTRES)):
        if (value := getattr(options, name)) > most:
            raise OptionError(f"--{name} must be at most {most:,}, not {value}")
    if not (options.ridge > 0 and math.isfinite(options.ridge)):
        raise OptionError(f"--ridge must be a number above 0, not {options.ridge}")
    if not (options.bleu_weight >= 0 and math.isfinite(options.bleu_weight)):
        raise OptionError(f"--bleu-weight must be a number of at least 0, not {options.bleu_weight}")
    check_model_output(options.output)
    file = find_weights(options.model, "train-reranker")
    paths = [path for some in options.data for path in some]
    refuse_overwriting({"--output": options.output}, [*model_files(file), *paths])

    from captioner import checkpoint
    from captioner.commands.progress import progress
    from captioner.training.ngram_regression import RerankingOptions
    from captioner.training.reranking import fit_reranker, with_beam

    model = with_beam(load_model(options, file), options.beam)
    (train, dev), left_out = _pictures(options)
    settings = RerankingOptions(
        dims=options.dims,
        centres=options.centres,
        ridge=options.ridge,
        minimum_count=options.minimum_count,
        bleu_weight=options.bleu_weight,
    )
    count = sum(map(len, (*train, *dev)))
    with progress("pictures", count) as (advance, _):
        fitted = fit_reranker(model, train, dev, options=settings, file=str(file), advance=advance)
    checkpoint.save(options.output, fitted.model, half=False)
    report_old_graphs(options.output)
    before, after = (one.cider + options.bleu_weight * one.bleu for one in (fitted.before, fitted.after))
    if after <= before:
        report("no weight of the reranker made the captions of dev better: use the model without it")
    counts = {"pictures": fitted.pictures, "ngrams": list(fitted.ngrams)}
    weights = {"weight": fitted.weight, "bleu_strength": fitted.bleu_strength}
    scores = {
        f"dev_{name}": {
            when: round(getattr(each, name), 2) for when, each in (("before", fitted.before), ("after", fitted.after))
        }
        for name in ("cider", "bleu")
    }
    print(json.dumps(counts | weights | scores))
    return 1 if left_out else 0


def _pictures(options: argparse.Namespace) -> tuple[tuple[list[list["Record"]], list[list["Record"]]], int]:
    """The records of train and of dev of each group of ``--data``, and how many others were left out.

    Raises:
        DataError: there are none, or a picture is in two splits.
        OptionError: the file to write is one of the pictures.
    """
    from captioner.data.readers import read
    from captioner.data.records import of_split, refuse_leaks, usable

    groups = [[(path, read(path)) for path in some] for some in options.data]
    refuse_leaks(*([record for record in one if record.split] for some in groups for _, one in some))
    found: dict[str, list[list[Record]]] = {"train": [], "dev": []}
    faults: dict[str, str] = {}
    total = 0
    for some in groups:
        for split, lists in found.items():
            names = ", ".join(str(path) for path, _ in some)
            records = [record for _, one in some for record in of_split(one, split) if record.captions]
            if not records:
                raise DataError(f"{names}: no captions of the split '{split}'", remedy="give data with train and dev")
            images = (one.image for one in records if isinstance(one.image, Path))
            refuse_overwriting({"--output": options.output}, images)
            total += len(records)
            kept, wrong = usable(records, threads=options.threads)
            faults |= wrong
            if not kept:
                raise DataError(f"{names}: no picture of the split '{split}' opens", remedy="look at its pictures")
            lists.append(kept)
    report_left_out(faults, total)
    return (found["train"], found["dev"]), len(faults)
