"""The command ``captioner export``."""

import argparse
import json
import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from captioner.commands.files import refuse_overwriting
from captioner.errors import OptionError

if TYPE_CHECKING:
    from captioner.options import Beam

_SHOWN_FAULTS = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.description = (
        "Make a model file ready for release: choose its decoding on dev, measure its scores on test, and write both "
        "into it."
    )
    parser.add_argument("model", metavar="MODEL", help="a model file, or a name that 'captioner models' lists")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="the .safetensors file to write")
    parser.add_argument("--data", type=Path, metavar="PATH", help="captions of pictures with the splits dev and test")
    parser.add_argument("--images", type=Path, help="the folder of the pictures, where it is not beside --data")
    parser.add_argument("--name", default="", help="the name of the data, for the file")
    parser.add_argument("--side", type=int, metavar="N", help="the size of the model's input from now on, in pixels")
    parser.add_argument(
        "--decoding",
        metavar="JSON",
        help='decoding to use instead of choosing it, such as \'{"width": 3, "length_penalty": 0.8}\'',
    )
    parser.add_argument("--threads", type=int, metavar="N", help="threads to compute with (default: all)")


def run(options: argparse.Namespace) -> int:
    """Write the file and print its test scores: 0; 1 if pictures were left out. Raises CaptionerError."""
    if options.output.suffix != ".safetensors":
        raise OptionError(
            f"--output {options.output}: exporting ONNX graphs comes with a later version",
            remedy="end it in .safetensors",
        )
    if options.output.is_dir():
        raise OptionError(f"--output {options.output}: is a folder", remedy="name a file in it")
    if options.data is None:
        raise OptionError("--data is missing", remedy="give captions of pictures with the splits dev and test")
    if options.threads is not None and options.threads < 1:
        raise OptionError(f"--threads must be at least 1, not {options.threads}")
    decoding = _decoding(options.decoding) if options.decoding is not None else None
    from captioner.pipeline import find_model

    file = find_model(options.model)
    refuse_overwriting({"--output": options.output}, [file, options.data])
    import torch

    from captioner import checkpoint
    from captioner.data.readers import read
    from captioner.data.records import usable
    from captioner.training.export import as_stored, export

    if options.threads is not None:
        torch.set_num_threads(options.threads)
    model = as_stored(checkpoint.load(file))
    if options.side is not None:
        model.model.set_side(options.side)
    records = [record for record in read(options.data, images=options.images) if record.split in ("dev", "test")]
    refuse_overwriting({"--output": options.output}, (r.image for r in records if isinstance(r.image, Path)))
    records, faults = usable(records)
    for what in list(faults.values())[:_SHOWN_FAULTS]:
        print(f"captioner: {what}", file=sys.stderr)
    if faults:
        print(f"captioner: {len(faults)} of {len(records) + len(faults)} pictures are left out", file=sys.stderr)
    ready = export(model, records, name=options.name, decoding=decoding)
    checkpoint.save(options.output, ready)
    print(json.dumps(ready.about["test"]))
    return 1 if faults else 0


def _decoding(text: str) -> "Beam":
    """The options of a beam. Raises OptionError."""
    from captioner.options import Beam

    known = [field.name for field in fields(Beam)]
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict) or not values.keys() <= set(known):
        raise OptionError(
            f"--decoding {text}: no JSON object of decoding options", remedy=f"there are {', '.join(known)}"
        )
    try:
        return Beam(**values)
    except TypeError as error:
        raise OptionError(f"--decoding {text}: {error}") from None
