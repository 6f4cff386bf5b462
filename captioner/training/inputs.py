"""What a run was started on: vocabulary, data and versions. A run is resumed on nothing else."""

import hashlib
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from captioner.data.records import Record
from captioner.errors import CheckpointError, OptionError
from captioner.tokenizer.vocabulary import Vocabulary
from captioner.training.sizes import contents, digest, file_stamp
from captioner.version import __version__

_NAMES = {
    "vocabulary": "vocabulary",
    "ids": "list of pictures",
    "captions": "captions",
    "splits": "splits",
    "boxes": "boxes",
    "text": "text file",
    "images": "images",
}


def describe_inputs(
    records: Sequence[Record],
    *,
    text: Sequence[str],
    vocabulary: Vocabulary,
    stored: Mapping[str, Any] | None,
    images: bool,
    files: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The inputs of a run as plain values, for JSON.

    Args:
        records: of train and dev.
        text: captions without pictures.
        vocabulary: of the run.
        stored: the values of an earlier start. The contents of the pictures are read only where the names, sizes and
            times of their files are not those of that start.
        images: whether pictures are read at all.
        files: the model files of the recipe: path by option. Names that are no file are left out.
    """
    stamps = digest(file_stamp(record.image) for record in records) if images else ""
    known = (stored or {}).get("images", "") if stamps and (stored or {}).get("image_files") == stamps else ""
    return {
        "versions": versions(),
        "ids": digest(record.id for record in records),
        "splits": digest(record.split for record in records),
        "captions": digest(repr(record.captions + record.questions) for record in records),
        "boxes": digest(_boxes_of(record) for record in records),
        "text": digest(text),
        "image_files": stamps,
        "images": (known or digest(contents(records))) if images else "",
        "vocabulary": list(vocabulary.words),
        "files": {option: checksum(Path(path)) for option, path in (files or {}).items() if Path(path).is_file()},
    }


def _boxes_of(record: Record) -> str:
    objects = record.objects
    return repr(record.boxes) if objects is None else repr((record.boxes, sorted(objects.items())))


def checksum(file: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal digits. Raises OSError."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def versions() -> dict[str, str]:
    """The libraries that the numbers of a run depend on, without the builds' local names ("+cu124")."""
    found = {"captioner": __version__}
    for library in ("torch", "torchvision", "numpy", "pillow"):
        try:
            found[library] = version(library).partition("+")[0]
        except PackageNotFoundError:  # pragma: no cover - it is imported, but was not installed by a package
            found[library] = ""
    return found


def stored_vocabulary(stored: Mapping[str, Any], place: object) -> Vocabulary:
    """The vocabulary that a run was started with. Raises CheckpointError if it is damaged."""
    words = stored.get("vocabulary")
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise CheckpointError(f"{place}: damaged (no vocabulary)", remedy="give another --output")
    try:
        return Vocabulary(tuple(words))
    except Exception as error:
        raise CheckpointError(f"{place}: damaged ({error})", remedy="give another --output") from None


def remedy_of_new_run(last: Path) -> str:
    """What to do where a run cannot be resumed: its last model, if there is one, starts another."""
    return f"start a new run: --start-from {last} with another --output" if last.exists() else "give another --output"


def refuse_other_inputs(stored: Mapping[str, Any], found: Mapping[str, Any], *, folder: Path) -> None:
    """Make sure that a run is resumed on what it was started on.

    Raises:
        OptionError: something differs; the message names all of it.
    """
    changed = [name for key, name in _NAMES.items() if stored.get(key) != found[key]]
    files = stored.get("files")
    if isinstance(files, dict):  # the first versions did not store them
        changed += [f"the file of {option}" for option, now in found["files"].items() if files.get(option) != now]
    if changed:
        raise OptionError(
            f"{folder} holds a run that was started on other data: {', '.join(changed)} changed",
            remedy="restore the data to resume the run, or give another --output to start a new one",
        )
    before = stored.get("versions")
    before = before if isinstance(before, dict) else {}
    for library, today in found["versions"].items():
        if library != "captioner" and before.get(library) != today:
            raise OptionError(
                f"{folder} holds a run that was started with {library} {before.get(library)}, and this is {today}",
                remedy=f"install that version, or {remedy_of_new_run(folder / 'last.safetensors')}",
            )
