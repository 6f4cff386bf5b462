"""Caption the pictures of a folder that annotations name, so that they can be scored."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from captioner.commands.console import message_line, report
from captioner.data.readers import Annotations, Id
from captioner.errors import DataError
from captioner.image import SUFFIXES

if TYPE_CHECKING:
    from captioner.pipeline import Captioner


def find_files(folder: Path, annotations: Annotations, *, partial: bool = False) -> tuple[list[tuple[Id, Path]], int]:
    """The file of each annotated picture, and the number of pictures that have none, each named on standard error.

    A picture is looked for, in this order, at the path that the annotations give it, below the folder; under COCO's
    twelve-digit form of its number; and in the folder itself under the last part of its path. The last is done only
    where no other annotated picture and no other file below the folder has that name.

    Raises:
        DataError: the folder is none, a name is ambiguous, or, without ``partial``, a picture has no file.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder", remedy="give the one that holds the pictures")
    names = {key: annotations.file_names.get(key) or _usual_name(key) for key in annotations.references}
    found: dict[Id, Path] = {}
    for key, name in names.items():
        path = _below(folder, name) or _below(folder, _usual_name(key))
        if path is not None:
            found[key] = path
    missing = [key for key in names if key not in found]
    if missing:
        found |= _by_last_part(folder, names, missing)
    absent = [key for key in names if key not in found]
    for key in absent:
        message = f"no file for picture {key!r} in {folder}, looked for {names[key]}"
        if not partial:
            raise DataError(message, remedy="add it, or score the pictures that are there (--partial)")
        report(message)
    if not found:
        raise DataError(f"{folder} holds none of the annotated pictures")
    return [(key, found[key]) for key in names if key in found], len(absent)


def pictures_in(folder: Path) -> Iterator[Path]:
    """All files below a folder that have the ending of a picture."""
    for place, _, files in os.walk(folder):
        yield from (Path(place, file) for file in files if Path(file).suffix.lower() in SUFFIXES)


def _usual_name(key: Id) -> str:
    return f"{key:012d}.jpg" if isinstance(key, int) else key


def _below(folder: Path, name: str) -> Path | None:
    """The file of that path below the folder; None where there is none, or where the path leads out of it."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        return None
    try:
        return folder / path if (folder / path).is_file() else None
    except OSError:  # a name that is too long
        return None


def _by_last_part(folder: Path, names: dict[Id, str], missing: Sequence[Id]) -> dict[Id, Path]:
    """The files of pictures by the last part of their path, where that is unambiguous."""
    annotated = Counter(PurePosixPath(name).name for name in set(names.values()))
    wanted = {PurePosixPath(names[key]).name for key in missing}
    files: dict[str, list[Path]] = defaultdict(list)
    for place, _, inside in os.walk(folder):
        for file in wanted.intersection(inside):
            files[file].append(Path(place, file))
    found: dict[Id, Path] = {}
    for key in missing:
        name = PurePosixPath(names[key]).name
        path = _below(folder, name)
        if path is None:
            continue
        if annotated[name] > 1:
            one, other = [other for other in dict.fromkeys(names.values()) if PurePosixPath(other).name == name][:2]
            raise DataError(
                f"{folder}: {path} could be {one} or {other} of the annotations",
                remedy="lay the pictures out as the annotations do, or give the folder above them with --images",
            )
        if len(files[name]) > 1:
            others = sorted(file for file in files[name] if file != path)
            raise DataError(
                f"{folder}: the picture {names[key]} could be {path} or {others[0]}",
                remedy="lay the pictures out as the annotations do",
            )
        found[key] = path
    return found


def caption_files(
    files: Sequence[tuple[Id, Path]], captioner: "Captioner", *, beam: int | None = None, rerank: float | None = None
) -> tuple[dict[Id, str], int]:
    """A caption for each picture, and the number of pictures that failed, each named on standard error.

    Args:
        files: of the pictures, by id.
        captioner: any.
        beam: its width; None for the model's own.
        rerank: weight of the reranker; None for the model's own.

    Raises:
        OptionError: a value is out of its range.
    """
    from captioner.commands.progress import progress
    from captioner.results import Failure

    changed = {"width": beam, "rerank": rerank}
    options = captioner.options(**{name: value for name, value in changed.items() if value is not None})
    captions: dict[Id, str] = {}
    failures = 0
    with progress("captions", len(files)) as (advance, say):
        outcomes = captioner.caption_all([path for _, path in files], options=options)
        for (key, _), outcome in zip(files, outcomes, strict=True):
            if isinstance(outcome, Failure):
                failures += 1
                say(message_line(outcome))
            else:
                captions[key] = outcome.text
            advance()
    return captions, failures
