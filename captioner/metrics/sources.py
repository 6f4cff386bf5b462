"""Reference captions and results to score, from the files that people have; stricter than for training.

A wrong row silently changes every figure, so nothing is guessed and nothing is skipped: duplicate ids, captions that
are not text, annotations of unknown pictures raise DataError with the file, the place and the id.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from captioner.errors import DataError
from captioner.metrics.textfiles import is_json, parse_json, read_text, rows

Id = int | str

_ID_NAMES = ("image_id", "image", "filename", "file_name", "id")
_TEXT_NAMES = ("caption", "text", "comment")


@dataclass(frozen=True)
class Annotations:
    """The references of a set of pictures; ``references`` is in the order of the file and may hold empty lists."""

    source: str
    references: dict[Id, list[str]]
    file_names: dict[Id, str] = field(default_factory=dict)  # where the file gives them


def read_annotations(path: str | Path, *, split: str | None = None, at_least: int = 0) -> Annotations:
    """Read references: COCO annotations, Karpathy's JSON, Flickr8k's token file, CSV or JSON lines; also gzipped.

    ``split`` keeps one split: the name of one that the file gives (Karpathy, a ``split`` field), or, for files that
    give none, the path of a list of file names as Flickr8k has them. ``at_least`` leaves out the pictures with fewer
    references: the more there are, the higher the scores.
    """
    path = Path(path)
    found = _annotations(path, split)
    of_split = f" of split {split!r}" if split else ""
    if not found.references:
        raise DataError(f"{path} has no captions{of_split}")
    if not at_least:
        return found
    kept = {key: group for key, group in found.references.items() if len(group) >= at_least}
    if not kept:
        most = max(map(len, found.references.values()))
        raise DataError(f"{path}: no picture{of_split} has {at_least} references, but {most} at most")
    return replace(found, references=kept)


def _annotations(path: Path, split: str | None) -> Annotations:
    text = read_text(path)
    if not is_json(path, text):
        return _from_rows(path, text, split)
    content = parse_json(text, path=path)
    if isinstance(content, dict) and isinstance(content.get("annotations"), list):
        return _from_coco(path, content, split)
    if isinstance(content, dict) and isinstance(content.get("images"), list):
        return _from_karpathy(path, content["images"], split)
    if isinstance(content, list):
        raise DataError(f"{path} is a list, as results are; annotations are an object with 'annotations' or 'images'")
    raise DataError(f"{path} has neither 'annotations' (COCO) nor 'images' with 'sentences' (Karpathy)")


def read_results(path: str | Path) -> dict[Id, str]:
    """Read one caption a picture: COCO results (a JSON list), JSON lines or CSV; also gzipped.

    Raises DataError for a second caption of a picture and for anything that is not text.
    """
    path = Path(path)
    text = read_text(path)
    entries: Iterable[tuple[str, Any]]
    if is_json(path, text):
        content = parse_json(text, path=path)
        if not isinstance(content, list):
            raise DataError(f'{path} is not a list of {{"image_id": ..., "caption": ...}}, the form of COCO results')
        entries = ((f"{path}, entry {number}", row) for number, row in enumerate(content))
    else:
        entries = rows(path, text)
    captions: dict[Id, str] = {}
    for place, row in entries:
        key = _id(row, place)
        if key in captions:
            raise DataError(f"{place}: a second caption of picture {key!r}; keep one")
        captions[key] = _caption(row, place, key)
    if not captions:
        raise DataError(f"{path} has no captions")
    _one_type(captions, path)
    return captions


def name_as(results: dict[Id, str], annotations: Annotations, *, partial: bool = False) -> dict[Id, str]:
    """The results by the annotations' ids, where they name pictures in another way that can only mean one thing.

    That is: numbers written as strings and strings as numbers (CSV has no numbers), and file names, of which the last
    part counts ("photos/x.jpg" is x.jpg). Results that name none of the annotated pictures come back as they are; of
    those that name some, the others raise DataError, or are left out with ``partial``.
    """
    if any(key in annotations.references for key in results):
        return results
    by_text = {str(key): key for key in annotations.references}
    by_name = {PurePosixPath(name).name: key for key, name in annotations.file_names.items()}
    if len(by_name) < len(annotations.file_names):
        by_name = {}  # two folders hold a picture of the same name
    for known, name_of in ((by_text, str), (by_name, _last_part)):
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


def _from_coco(path: Path, content: dict[str, Any], split: str | None) -> Annotations:
    references: dict[Id, list[str]] = {}
    file_names: dict[Id, str] = {}
    images = content.get("images", [])
    others: set[Id] = set()  # pictures of other splits
    for number, image in enumerate(images if isinstance(images, list) else []):
        place = f"{path}, image {number}"
        key = _id(image, place, ("id",))
        if key in references or key in others:
            raise DataError(f"{place}: a second picture with the id {key!r}")
        if split is not None and _split_of(image, place) != split:
            others.add(key)
            continue
        references[key] = []
        if isinstance(image.get("file_name"), str):
            file_names[key] = image["file_name"]
    listed = bool(references)
    seen: set[Id] = set()
    for number, annotation in enumerate(content["annotations"]):
        place = f"{path}, annotation {number}"
        key = _id(annotation, place, ("image_id",))
        if key in others:
            continue
        if listed and key not in references:
            raise DataError(f"{place}: picture {key!r} is not among the file's images")
        own = annotation.get("id")
        if isinstance(own, int | str):
            if own in seen:
                raise DataError(f"{place}: a second annotation with the id {own!r}")
            seen.add(own)
        references.setdefault(key, []).append(_caption(annotation, place, key))
    _one_type(references, path)
    return Annotations(str(path), references, file_names)


def _from_karpathy(path: Path, images: list[Any], split: str | None) -> Annotations:
    references: dict[Id, list[str]] = {}
    file_names: dict[Id, str] = {}
    splits = {image["split"]: None for image in images if isinstance(image, dict) and "split" in image}
    if split is None and len(splits) > 1:
        raise DataError(f"{path} has the splits {', '.join(map(str, splits))}; choose one with --split")
    if split is not None and split not in splits:
        raise DataError(f"{path} has no split {split!r}, only {', '.join(map(str, splits))}")
    by_number = all(isinstance(image, dict) and isinstance(image.get("cocoid"), int) for image in images)
    for number, image in enumerate(images):
        place = f"{path}, image {number}"
        key = _id(image, place, ("cocoid",) if by_number else ("filename",))
        if split is not None and _split_of(image, place) != split:
            continue
        if key in references:
            raise DataError(f"{place}: a second picture with the id {key!r}")
        sentences = image.get("sentences")
        if not isinstance(sentences, list):
            raise DataError(f"{place}: picture {key!r} has no list of 'sentences'")
        references[key] = [_caption(sentence, place, key, ("raw",)) for sentence in sentences]
        if isinstance(image.get("filename"), str):
            file_names[key] = image["filename"]
    return Annotations(str(path), references, file_names)


def _from_rows(path: Path, text: str, split: str | None) -> Annotations:
    references: dict[Id, list[str]] = {}
    wanted: set[str] | None = None
    for place, row in rows(path, text):
        key = _id(row, place)
        if split is not None and "split" in row:
            if row["split"] != split:
                continue
        elif split is not None:
            wanted = wanted or _names_of_split(path, split)
            if str(key) not in wanted:
                continue
        if isinstance(row.get("captions"), list):
            if key in references:
                raise DataError(f"{place}: a second list of captions of picture {key!r}")
            references[key] = [_caption({"caption": text}, place, key) for text in row["captions"]]
        else:
            references.setdefault(key, []).append(_caption(row, place, key))
    absent = sorted((wanted or set()) - {str(key) for key in references})
    if absent:
        raise DataError(f"{path} has no captions of {len(absent)} pictures of {split}, the first is {absent[0]!r}")
    _one_type(references, path)
    return Annotations(str(path), references, {key: key for key in references if isinstance(key, str)})


def _names_of_split(path: Path, split: str) -> set[str]:
    """The file names of a list such as Flickr_8k.testImages.txt, in the working folder or beside the captions."""
    for candidate in (Path(split), path.parent / split):
        if candidate.is_file():
            return {line.strip() for line in read_text(candidate).split("\n") if line.strip()}
    raise DataError(f"{path} names no splits, and there is no list of file names {split!r}")


def _id(row: Any, place: str, names: tuple[str, ...] = _ID_NAMES) -> Id:
    """The picture that a row is about: a whole number or a string that is not empty."""
    if not isinstance(row, dict):
        raise DataError(f"{place}: {row!r:.60} is not an object")
    name = next((name for name in names if name in row), None)
    if name is None:
        raise DataError(f"{place}: no {' or '.join(map(repr, names))}")
    value = row[name]
    if type(value) is int or (isinstance(value, str) and value):
        return value
    raise DataError(f"{place}: {name!r} is {value!r:.60}; an id is a whole number or a string")


def _caption(row: Any, place: str, key: Id, names: tuple[str, ...] = _TEXT_NAMES) -> str:
    if not isinstance(row, dict):
        raise DataError(f"{place}: {row!r:.60} is not an object")
    name = next((name for name in names if name in row), None)
    if name is None:
        raise DataError(f"{place}: picture {key!r} has no {names[0]!r}")
    value = row[name]
    if not isinstance(value, str):
        kind = "null" if value is None else f"{value!r:.40} ({type(value).__name__})"
        raise DataError(f"{place}: the caption of picture {key!r} is {kind}, not text")
    return value


def _split_of(image: Any, place: str) -> Any:
    if "split" not in image:
        raise DataError(f"{place}: no 'split'; leave --split out, or add the field")
    return image["split"]


def _one_type(keys: Iterable[Id], path: Path) -> None:
    numbers, strings = _first(keys, int), _first(keys, str)
    if numbers is not None and strings is not None:
        raise DataError(f"{path} has ids of two types, {numbers!r} and {strings!r}; write all of them in one way")


def _first(keys: Iterable[Id], kind: type) -> Id | None:
    found: Iterator[Id] = (key for key in keys if isinstance(key, kind))
    return next(found, None)
