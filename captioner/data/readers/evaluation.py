"""References and hypotheses for evaluation.

A wrong row silently changes every figure, so nothing is guessed: duplicate ids, captions that are not text and
annotations of unknown pictures raise DataError with the file, the place and the id. What is left out is counted in a
`LeftOutWarning`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from captioner.data.readers.fields import SPLIT_NAMES, Id, caption_text, image_name, one_type, picture_id
from captioner.data.readers.formats import (
    Entry,
    Format,
    Source,
    caption_file,
    entries_of,
    format_of,
    without_blank,
)
from captioner.data.readers.json_lines import finished
from captioner.data.readers.rows import rows
from captioner.data.readers.splits import names_in, splits_of
from captioner.data.records import split_by_name
from captioner.errors import DataError


@dataclass(frozen=True)
class Annotations:
    """The references of a set of pictures.

    Attributes:
        source: the file.
        references: by id, in the order of the file; a list is empty where the file has no caption of the picture.
        file_names: paths of pictures, where the file gives them.
        left_out: pictures whose references all have no words; captions of them are not scored.
    """

    source: str
    references: dict[Id, list[str]]
    file_names: dict[Id, str] = field(default_factory=dict)
    left_out: frozenset[Id] = frozenset()


def read_annotations(path: str | Path, *, split: str | None = None, at_least: int = 0) -> Annotations:
    """Read references in any format of `READERS`; the file may be gzipped.

    Args:
        path: the file, or a folder that holds one.
        split: score one split: a name that the file gives (``val``, ``dev`` and ``validation`` are one), or, for
            files that give none, the path of a list of file names as Flickr8k has them, or else ``train`` or ``dev``
            as `captioner.data.readers.read` splits.
        at_least: leave out the pictures with fewer references: the more there are, the higher the scores.

    Raises:
        DataError: the file cannot be read, or holds no such captions.
    """
    source = Source(caption_file(path))
    form = format_of(source)
    entries = _of_split(entries_of(source, form), source, form, split)
    empty = {entry.id for entry in entries if not entry.captions}
    kept, emptied = without_blank([entry for entry in entries if entry.captions], source.path)
    words = {entry.id: list(entry.captions) for entry in kept}
    references = {entry.id: words.get(entry.id, []) for entry in entries if entry.id in words or entry.id in empty}
    of_split = f" of the split {split!r}" if split else ""
    if not any(references.values()):
        raise DataError(f"{path} has no captions{of_split}")
    found = Annotations(
        source=str(path),
        references=references,
        file_names={e.id: e.image for e in entries if isinstance(e.image, str) and e.id in references},
        left_out=frozenset(entry.id for entry in emptied),
    )
    if not at_least:
        return found
    enough = {key: group for key, group in references.items() if len(group) >= at_least}
    if not enough:
        most = max(map(len, references.values()))
        raise DataError(f"{path}: no picture{of_split} has {at_least} references, but {most} at most")
    return replace(found, references=enough)


def _of_split(entries: list[Entry], source: Source, form: Format, split: str | None) -> list[Entry]:
    path = source.path
    if split is None:
        there = list(dict.fromkeys(entry.split for entry in entries if entry.split))
        if form.needs_split and len(there) > 1:
            raise DataError(f"{path} has the splits {', '.join(there)}; choose one with --split")
        return entries
    wanted = SPLIT_NAMES.get(split.strip().casefold())
    given = splits_of(entries, source, form) if wanted is not None else None
    if given is None and wanted is not None and form.distributed and _list_of_names(path, split) is None:
        given = [split_by_name(entry.name) for entry in entries]
    if given is not None:
        found = [entry for entry, own in zip(entries, given, strict=True) if own == wanted]
        if not found:
            raise DataError(f"{path} has no split {split!r}, only {', '.join(dict.fromkeys(filter(None, given)))}")
        return found
    names = set(_names_of_split(path, split))
    found = [entry for entry in entries if str(entry.id) in names or entry.name in names]
    absent = sorted(names - {name for entry in found for name in (str(entry.id), entry.name)})
    if absent:
        raise DataError(f"{path} has no captions of {len(absent)} pictures of {split}, the first is {absent[0]!r}")
    return found


def _names_of_split(path: Path, split: str) -> list[str]:
    found = _list_of_names(path, split)
    if found is not None:
        return names_in(found)
    raise DataError(
        f"{path} names no such split, and there is no list of file names {split!r}",
        remedy=f"give --split one of {', '.join(SPLIT_NAMES)}, or a file with a name on each line",
    )


def _list_of_names(path: Path, split: str) -> Path | None:
    """A list such as Flickr_8k.testImages.txt, in the working folder or beside the captions."""
    return next((candidate for candidate in (Path(split), path.parent / split) if candidate.is_file()), None)


def read_results(path: str | Path, annotations: Annotations | None = None) -> dict[Id, str]:
    """Read one caption a picture: COCO results (a JSON list), JSON lines or CSV; the file may be gzipped.

    Captions may be blank: these score 0.

    Args:
        path: of the file.
        annotations: against which a row is checked that has both an id and the name of a picture.

    Raises:
        DataError: a second caption of a picture, an id and a name of two pictures in one row, or anything that is not
            text.
    """
    of_id = {str(key): _last_part(name) for key, name in annotations.file_names.items()} if annotations else {}
    all_names = set(of_id.values())
    source = Source(Path(path))
    if source.name.endswith(".parquet"):
        raise DataError(f"{path}: captions are not read from .parquet files", remedy="caption to .jsonl or .csv")
    entries: Iterable[tuple[str, Any]]
    if source.is_json:
        content = source.json
        if not isinstance(content, list):
            raise DataError(f'{path} is not a list of {{"image_id": ..., "caption": ...}}, the form of COCO results')
        entries = ((f"{path}, entry {number}", row) for number, row in enumerate(content))
    else:
        entries = finished(rows(source.path, source.text))
    captions: dict[Id, str] = {}
    for place, row in entries:
        key = picture_id(row, place)
        if key in captions:
            raise DataError(f"{place}: a second caption of picture {key!r}; keep one")
        named, own = image_name(row), of_id.get(str(key))
        if named is not None and own is not None and own != (base := _last_part(named)) and base in all_names:
            raise DataError(
                f"{place}: picture {key!r} is {own}, and the row names {base}", remedy="correct one of them"
            )
        captions[key] = caption_text(row, place, key)
    if not captions:
        raise DataError(f"{path} has no captions")
    one_type(captions, source.path)
    return captions


def name_as(results: dict[Id, str], annotations: Annotations, *, partial: bool = False) -> dict[Id, str]:
    """The results by the annotations' ids, where they name pictures in another way that can only mean one thing.

    That is: numbers written as strings and strings as numbers (CSV has no numbers), and file names: the whole path,
    or else its last part ("photos/x.jpg" is x.jpg). Results that name none of the annotated pictures come back as they
    are; of those that name some, the others raise DataError, or are left out with ``partial``. Captions of pictures
    whose references have no words are left out.
    """
    known_ids = [*annotations.references, *annotations.left_out]
    return {
        key: caption
        for key, caption in _renamed(results, known_ids, annotations.file_names, partial=partial).items()
        if key not in annotations.left_out
    }


def _renamed(results: dict[Id, str], known_ids: list[Id], file_names: dict[Id, str], *, partial: bool) -> dict[Id, str]:
    known_set = set(known_ids)
    if any(key in known_set for key in results):
        return results
    by_text = {str(key): key for key in known_ids}
    by_path = {name: key for key, name in file_names.items()}
    by_name = {PurePosixPath(name).name: key for key, name in file_names.items()}
    if len(by_path) < len(file_names):
        by_path = {}  # two ids of one file
    if len(by_name) < len(file_names):
        by_name = {}  # two folders hold a picture of the same name
    for known, name_of in ((by_text, str), (by_path, str), (by_name, _last_part)):
        renamed = {known[name_of(key)]: caption for key, caption in results.items() if name_of(key) in known}
        unknown = [key for key in results if name_of(key) not in known]
        if not renamed or len(renamed) + len(unknown) < len(results):
            continue
        if unknown and not partial:
            raise DataError(
                f"{len(unknown)} captions are of pictures without references, the first is {unknown[0]!r}; "
                "remove them, or score only the others (--partial)"
            )
        return renamed
    return results


def _last_part(key: Id) -> str:
    return PurePosixPath(str(key)).name
