"""``captioner train``."""

import argparse
import gzip
import json
import os
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captioner.errors import DataError, OptionError
from captioner.training.recipe import Recipe, default_of, named_recipes, options, read_recipe

if TYPE_CHECKING:
    from captioner.data.records import Record


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "--data",
        type=Path,
        nargs="+",
        required=True,
        metavar="PATH",
        help="folders or files of captions: Flickr8k, COCO, Karpathy, CSV, JSONL. The dev split of the first "
        "chooses the best model; of the others only the training split is used",
    )
    parser.add_argument("--images", type=Path, help="the folder of the pictures, where it is not beside --data")
    parser.add_argument(
        "--text",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="captions without pictures, one a line (.gz too)",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="the run; goes on if it is there")
    parser.add_argument("--device", help="cpu, cuda, ...; a GPU if there is one")
    parser.add_argument(
        "--recipe",
        metavar="NAME",
        help=f"options from a file (TOML), or one of {', '.join(named_recipes())}; those given here go before it",
    )
    recipe = parser.add_argument_group("recipe")
    for option in options():
        default = default_of(option)
        flag = "--" + option.name.replace("_", "-")
        text = f"{option.metadata['help']} (default: {json.dumps(default) if default != '' else 'none'})"
        if isinstance(default, bool):
            recipe.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=text)
        else:
            kind = _json_object if isinstance(default, dict) else type(default)
            recipe.add_argument(flag, type=kind, help=text.replace("%", "%%"))


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"'{text}' is no JSON object such as '{{\"width\": 512}}'")
    return value


def run(arguments: argparse.Namespace) -> int:
    """Train a model, or go on training it."""
    from captioner.data.readers import read
    from captioner.data.records import of_split, refuse_leaks

    chosen = read_recipe(arguments.recipe) if arguments.recipe else {}
    for option in options():
        value = getattr(arguments, option.name)
        if value is not None:
            chosen[option.name] = value
    recipe = Recipe(**chosen)
    if arguments.images is not None and len(arguments.data) > 1:
        raise OptionError("--images goes with one --data; several look for their pictures beside their captions")
    text = [caption for path in arguments.text for caption in read_text(path)]
    first, *others = (read(path, images=arguments.images) for path in arguments.data)
    added = [of_split(more, "train") for more in others]
    refuse_leaks([record for record in first if record.split], *added)
    records = [record for record in first if record.split in ("train", "dev")]
    records += [record for more in added for record in more]
    faults: dict[str, str] = {}
    if recipe.objective != "text":  # which opens none
        total = len(records)
        records, faults = _usable_together(records, arguments.device)
        if faults and os.environ.get("RANK", "0") == "0":
            for what in list(faults.values())[:20]:
                print(f"captioner: {what}", file=sys.stderr)
            print(f"captioner: {len(faults)} of {total} pictures are left out", file=sys.stderr)

    from captioner.training.loop import Trainer
    from captioner.training.progress import report_to_terminal

    with report_to_terminal() as report:
        trainer = Trainer(recipe, records, arguments.output, text=text, device=arguments.device, report=report)
        best = trainer.run()
    if trainer.is_first:
        print(best)
    # A launcher takes any other exit code for a process that died.
    return 1 if faults and os.environ.get("WORLD_SIZE", "1") == "1" else 0


def _usable_together(records: Sequence["Record"], device: str | None) -> tuple[list["Record"], dict[str, str]]:
    """As `captioner.data.records.usable`; of launched processes each opens its share of the pictures."""
    from captioner.data.records import usable

    if os.environ.get("WORLD_SIZE", "1") == "1":
        return usable(records)
    from accelerate import PartialState
    from accelerate.utils import gather_object

    state = PartialState(cpu=device == "cpu")
    _, mine = usable(records[state.process_index :: state.num_processes])
    faults = {name: what for theirs in gather_object([mine]) for name, what in theirs.items()}
    return [record for record in records if str(record.image) not in faults], faults


def read_text(path: Path) -> list[str]:
    """Captions of a file, one a line; empty lines are passed over.

    Raises:
        DataError: the file cannot be read, is not UTF-8, or holds nothing.
    """
    try:
        raw = path.read_bytes()
        content = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file of captions") from None
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error})") from None
    captions = [line.strip() for line in content.split("\n") if line.strip()]
    if not captions:
        raise DataError(f"{path}: no captions in it")
    return captions
