"""The command ``captioner train``."""

import argparse
import contextlib
import gzip
import json
import os
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captioner.commands.console import report, report_left_out
from captioner.commands.files import check_images, model_files, refuse_overwriting
from captioner.commands.packages import require
from captioner.errors import DataError, OptionError
from captioner.shipped import shipped_answering_models, shipped_models, with_default
from captioner.training import aliases
from captioner.training.recipe import FILES, Recipe, default_of, options
from captioner.training.recipe_files import named_recipes, read_recipe

if TYPE_CHECKING:
    from captioner.data.records import Record
    from captioner.training.distributed import Processes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.description = "Train a model. A run that was stopped is resumed by the same command."
    parser.add_argument(
        "--data",
        type=Path,
        nargs="+",
        required=True,
        metavar="PATH",
        help="folders or files of captions: Flickr8k, COCO, Karpathy, CSV, JSONL. The dev split of the first "
        "chooses the best model; only the training split of the others is used",
    )
    parser.add_argument("--images", type=Path, help="the folder of the pictures, where it is not beside --data")
    parser.add_argument(
        "--captions",
        type=Path,
        nargs="+",
        default=[],
        metavar="PATH",
        help="captions of the pictures that the questions of --data are about, and of others, with their instances "
        "beside them: questions are made from their training split, for --objective answers",
    )
    parser.add_argument(
        "--phrase-boxes",
        type=Path,
        nargs="+",
        default=[],
        metavar="PATH",
        help="boxes of the phrases of training captions, for --map-supervision: Flickr30k Entities, its folder or one "
        "JSON file",
    )
    parser.add_argument(
        "--text",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="captions without pictures, one per line (.gz too), for --objective language_model",
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FOLDER", help="the folder of the run; a run in it is resumed"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps (default auto)")
    parser.add_argument(
        "--recipe",
        metavar="NAME",
        help=f"a TOML file of options, or one of {', '.join(named_recipes())}; options given here override it",
    )
    recipe = parser.add_argument_group("recipe")
    old = {new: former for former, new in aliases.OPTIONS.items()}
    for option in options():
        default = default_of(option)
        text = f"{option.metadata['help']} (default: {json.dumps(default) if default != '' else 'none'})"
        _add_option(recipe, option.name, default, text.replace("%", "%%"))
        if option.name in old:
            _add_option(recipe, old[option.name], default, argparse.SUPPRESS)


def _add_option(group: Any, name: str, default: Any, text: str) -> None:
    flag = aliases.flag(name)
    if isinstance(default, bool):
        group.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=text)
    else:
        group.add_argument(flag, type=_json_object if isinstance(default, dict) else type(default), help=text)


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"'{text}' is no JSON object such as '{{\"width\": 512}}'")
    return value


def run(arguments: argparse.Namespace) -> int:
    """Train a model, or resume its training: 0; 1 if some pictures were left out. Raises CaptionerError."""
    require("torch", "training")
    recipe, warnings = chosen_recipe(arguments)
    # Without a launcher of several processes, a scheduler may have set RANK for itself.
    rank_zero = os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK", "0") == "0"
    if rank_zero:
        _print_lines(warnings)
    check_images(arguments.images, arguments.data)
    from captioner.training.run_folder import RunFolder

    _refuse_inputs_as_output(arguments, recipe)
    folder = RunFolder(arguments.output, first=rank_zero)
    try:
        refuse_overwriting({f"--output ({path.name})": path for path in folder.outputs()}, _inputs(arguments, recipe))
        return _train(arguments, recipe, folder)
    finally:
        folder.release()


def _train(arguments: argparse.Namespace, recipe: Recipe, folder: Any) -> int:
    from captioner.training.distributed import Processes
    from captioner.training.loop import Trainer
    from captioner.training.progress import show_progress
    from captioner.training.rehearsal import before_and_after
    from captioner.training.tasks import TASKS

    task = TASKS[recipe.objective]
    task.check(recipe)
    if arguments.text and not getattr(task, "uses_text", True):
        raise OptionError(f"--text is not for the objective '{recipe.objective}'", remedy="leave it out")
    text = [caption for path in arguments.text for caption in read_text(path)]
    first = arguments.data[:1] if recipe.rehearsal else arguments.data
    if arguments.captions and recipe.objective not in ("answers", "answer_maps"):
        raise OptionError(f"--captions is not for the objective '{recipe.objective}'", remedy="give them as --data")
    records = read_data(first, images=arguments.images, boxes=recipe.map_supervision > 0, captions=arguments.captions)
    if arguments.phrase_boxes:
        records = _with_phrase_boxes(records, arguments.phrase_boxes, recipe)
    processes = Processes.join(arguments.device)
    rest = _rest(arguments, processes) if recipe.rehearsal else []
    _refuse_folder_of_pictures(arguments.output, [*records, *rest])
    faults: dict[str, str] = {}
    if task.uses_images and not recipe.blind:
        total, own = len(records) + len(rest), {id(record) for record in records}
        usable, faults = _usable_together([*records, *rest], processes)
        records = [record for record in usable if id(record) in own]
        rest = [record for record in usable if id(record) not in own]
        if processes.is_first:
            report_left_out(faults, total)
    if rest and recipe.start_from:
        _refuse_other_start(folder, recipe)
        rest = _as_first_captioned(rest, arguments, recipe, processes, own=len(records))
    trainer = Trainer(recipe, records, folder, rest=rest, text=text, processes=processes)
    if trainer.is_first:
        _print_lines(trainer.warnings)
        show_progress(trainer.steps())
        _print_lines(filter(None, [before_and_after(trainer.folder.path)]))
        print(trainer.folder.best)
    else:
        trainer.run()
    # A launcher takes any other exit code for a process that died.
    return 1 if faults and processes.count == 1 else 0


def _with_phrase_boxes(records: list["Record"], paths: Sequence[Path], recipe: Recipe) -> list["Record"]:
    """The records with the boxes of the phrases of their captions, in the training split; where maps alone are trained,
    in the dev split too."""
    from captioner.data.readers.entities import PhraseBoxes
    from captioner.grounding.phrases import attach_phrases

    if not recipe.map_supervision:
        raise OptionError(
            "--phrase-boxes supervise maps, and map_supervision is 0", remedy="give --map-supervision 0.1"
        )
    if recipe.objective not in ("cross_entropy", "self_critical", "maps", "answers", "answer_maps"):
        raise OptionError(
            f"--phrase-boxes are not for the objective '{recipe.objective}'",
            remedy="leave them out, or train captions or answers",
        )
    splits = ("train", "dev") if recipe.objective == "maps" else ("train",)
    boxed = [record for record in records if record.split in splits]
    for path in paths:
        boxed = attach_phrases(boxed, PhraseBoxes(path))
    changed = iter(boxed)
    return [next(changed) if record.split in splits else record for record in records]


def _rest(arguments: argparse.Namespace, processes: "Processes") -> list["Record"]:
    """The records that are mixed in: train and dev of the data sets after the first, or drawn scenes."""
    from captioner.data.readers import read
    from captioner.data.records import refuse_leaks
    from captioner.training.rehearsal import drawn_rest

    if len(arguments.data) == 1:
        if processes.is_first:
            drawn_rest(arguments.output)
        processes.wait()
        return drawn_rest(arguments.output)
    first = [record for record in read(arguments.data[0], images=arguments.images) if record.split]  # test too
    sets = [[record for record in read(path) if record.split in ("train", "dev")] for path in arguments.data[1:]]
    refuse_leaks(first, *sets)
    rest = [record for records in sets for record in records]
    _refuse_shared_files([*first, *rest])
    return rest


def _refuse_other_start(folder: Any, recipe: Recipe) -> None:
    """Before pictures are captioned by it. Raises OptionError where the folder holds a run from another model."""
    stored = folder.stored_recipe()
    if stored is not None and stored.get("start_from", "") != recipe.start_from:
        raise OptionError(
            f"{folder.path} holds a run with start_from {stored.get('start_from', '')!r}, not {recipe.start_from!r}",
            remedy="give another --output, or the same options to resume it",
        )


def _as_first_captioned(
    rest: list["Record"], arguments: argparse.Namespace, recipe: Recipe, processes: "Processes", *, own: int
) -> list["Record"]:
    """The rest with the first model's captions; the first process makes them, and all read them."""
    from captioner.training.rehearsal import as_first_captioned

    def captioned() -> list["Record"]:
        return as_first_captioned(
            rest, model=recipe.start_from, folder=arguments.output, own=own, device=str(processes.device)
        )

    if processes.is_first:
        captioned()
    processes.wait()
    return captioned()


def chosen_recipe(arguments: argparse.Namespace) -> tuple[Recipe, list[str]]:
    """The recipe of a command line, and warnings that name renamed options.

    Raises:
        OptionError: an option is given under both of its names, is out of its range, or does not go with another.
    """
    chosen, in_file = read_recipe(arguments.recipe) if arguments.recipe else ({}, "")
    names = [option.name for option in options()]
    given = {n: getattr(arguments, n) for n in [*names, *aliases.OPTIONS] if getattr(arguments, n, None) is not None}
    # --cross-entropy is the former flag of a weight, and its name is that of no option of today.
    given, renamed = aliases.current(given)
    lines = [f"{_as_flag(old)} is now {_as_flag(new)}" for old, new in renamed]
    values = {**chosen, **given}
    shipped = {**shipped_answering_models(), **with_default(shipped_models())}
    for name in ("start_from", "encoder_from", "decoder_from", "teacher"):
        if values.get(name) in shipped and not Path(values[name]).exists():
            values[name] = str(shipped[values[name]])
    for name in ("start_from", "encoder_from"):
        if given.get("weights") and values.get(name):
            raise OptionError(
                f"--weights {given['weights']} is for a new encoder, and {_as_flag(name)} {values[name]} has one",
                remedy="leave one of them out",
            )
    return Recipe(**values), [*filter(None, [in_file]), *lines]


def _as_flag(name: str) -> str:
    option, _, value = name.partition(" ")
    return f"{aliases.flag(option.partition('.')[0])} {value or option.partition('.')[2]}".rstrip()


def _print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        report(line)


def _inputs(arguments: argparse.Namespace, recipe: Recipe) -> list[Path]:
    """The files that are read, besides pictures."""
    found = [*arguments.data, *arguments.captions, *arguments.text, *arguments.phrase_boxes]
    found += [path for folder in (*arguments.data, *arguments.captions) if folder.is_dir() for path in folder.iterdir()]
    found += [file for name in FILES if getattr(recipe, name) for file in model_files(Path(getattr(recipe, name)))]
    return [*found, Path(arguments.recipe)] if arguments.recipe else found


def _refuse_inputs_as_output(arguments: argparse.Namespace, recipe: Recipe) -> None:
    """A folder of data is not the folder of a run. Raises OptionError."""
    output = arguments.output
    given = (*arguments.data, *arguments.captions, *arguments.phrase_boxes, arguments.images)
    folders = [path for path in given if path is not None]
    if output.exists() and any(path.exists() and path.samefile(output) for path in folders):
        raise OptionError(f"--output {output} is an input of this run", remedy="give another --output")


def _refuse_folder_of_pictures(output: Path, records: Iterable["Record"]) -> None:
    """A folder of pictures is not the folder of a run. Raises OptionError."""
    for folder in {record.image.parent for record in records if isinstance(record.image, Path)}:
        if output.exists() and folder.is_dir() and folder.samefile(output):
            raise OptionError(f"--output {output} holds pictures of --data", remedy="give another --output")


def read_data(
    paths: Sequence[Path], *, images: Path | None = None, boxes: bool = False, captions: Sequence[Path] = ()
) -> list["Record"]:
    """The records of train and dev of the first data set, and of train of the others.

    Args:
        paths: of the data sets.
        images: the folder of the pictures, where it is not beside the captions.
        boxes: attach the boxes of COCO's instances that are beside the captions.
        captions: sets of captions for a first data set of questions; see `captioner.training.captioned`.

    Raises:
        DataError: a data set cannot be read, or a picture is in two splits.
    """
    from captioner.data.readers import caption_file, read
    from captioner.data.records import of_split, refuse_leaks
    from captioner.grounding.instances import Instances, attach_boxes, find_instances

    sets = []
    for path in paths:
        found = read(path, images=images)
        instances = None
        if boxes:
            with contextlib.suppress(DataError):  # a format without a file of captions, such as shards
                instances = find_instances(caption_file(path))
        sets.append(attach_boxes(found, Instances(instances)) if instances is not None else found)
    first, *others = sets
    if captions:
        from captioner.training.captioned import add_captions

        first = add_captions(first, captions)
    added = [of_split(more, "train") for more in others]
    refuse_leaks([record for record in first if record.split], *added)
    records = [record for record in first if record.split in ("train", "dev")]
    records += [record for more in added for record in more]
    _refuse_shared_files([*(record for record in first if record.split), *(r for more in added for r in more)])
    return records


def _refuse_shared_files(records: Iterable["Record"]) -> None:
    """Make sure that no file is in two splits under two names: links, and other spellings of a path."""
    seen: dict[tuple[int, int], Record] = {}
    for record in records:
        if isinstance(record.image, Path):
            try:
                found = record.image.stat()
            except (OSError, ValueError):
                continue
            other = seen.setdefault((found.st_dev, found.st_ino), record)
            if other.split != record.split:
                raise DataError(
                    f"{record.image} is in the split '{record.split}', and in '{other.split}' as {other.image}",
                    remedy="keep it in one",
                )


def _usable_together(records: Sequence["Record"], processes: "Processes") -> tuple[list["Record"], dict[str, str]]:
    """As `captioner.data.records.usable`; each process opens its share of the pictures."""
    from captioner.data.records import usable

    _, mine = usable(records[processes.rank :: processes.count])
    faults = {name: what for theirs in processes.gather(mine) for name, what in theirs.items()}
    return [record for record in records if str(record.image) not in faults], faults


def read_text(path: Path) -> list[str]:
    """Captions of a file, one per line; empty lines are left out.

    Raises:
        DataError: the file cannot be read, is damaged or not UTF-8, or contains nothing.
    """
    try:
        raw = path.read_bytes()
        content = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file of captions") from None
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error})") from None
    captions = [line.strip() for line in content.split("\n") if line.strip()]
    if not captions:
        raise DataError(f"{path}: no captions in it")
    return captions
