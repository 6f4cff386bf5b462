"""Caption the pictures of a folder that annotations name, so that they can be scored."""

import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from captioner.errors import DataError, OptionError
from captioner.metrics.sources import Annotations, Id


def caption_folder(
    folder: Path,
    annotations: Annotations,
    *,
    model: str | None = None,
    device: str | None = None,
    beam: int | None = None,
    partial: bool = False,
) -> tuple[dict[Id, str], int]:
    """A caption for each annotated picture, and the number of pictures that failed, each named on standard
    error.

    Pictures are looked up by their file name in the folder, or by COCO's twelve-digit form of their number.
    Without ``partial`` a picture that is not there raises DataError before any is captioned.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; give the one that holds the pictures")
    if beam is not None and beam < 1:
        raise OptionError(f"--beam must be at least 1, not {beam}")
    keys: dict[Path, Id] = {}
    failures = 0
    for key in annotations.references:
        path = next((path for path in _candidates(folder, annotations, key) if path.is_file()), None)
        if path is not None:
            keys[path] = key
            continue
        message = (
            f"no file for picture {key!r} in {folder}, looked for {next(_candidates(folder, annotations, key)).name}"
        )
        if not partial:
            raise DataError(f"{message}; add it, or score the pictures that are there (--partial)")
        failures += 1
        print(f"captioner: {message}", file=sys.stderr)
    if not keys:
        raise DataError(f"{folder} holds none of the annotated pictures")
    captions, broken = _captions(keys, model=model, device=device, beam=beam)
    return captions, failures + broken


def _candidates(folder: Path, annotations: Annotations, key: Id) -> Iterator[Path]:
    if key in annotations.file_names:
        yield folder / PurePosixPath(annotations.file_names[key]).name
    yield folder / (f"{key:012d}.jpg" if isinstance(key, int) else PurePosixPath(key).name)


def _captions(
    keys: dict[Path, Id], *, model: str | None, device: str | None, beam: int | None
) -> tuple[dict[Id, str], int]:
    from captioner.commands.progress import progress
    from captioner.pipeline import DEFAULT_MODEL, load
    from captioner.results import Failure

    captioner = load(model or DEFAULT_MODEL, device=device)
    how = captioner.options(width=beam) if beam is not None else None
    captions: dict[Id, str] = {}
    broken = 0
    with progress("captions", len(keys)) as (advance, say):
        for path, outcome in zip(keys, captioner.caption_all(list(keys), options=how), strict=True):
            if isinstance(outcome, Failure):
                broken += 1
                say(f"captioner: {outcome}")
            else:
                captions[keys[path]] = outcome.text
            advance()
    return captions, broken
