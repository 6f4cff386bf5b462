"""Captions from the files that they come in: Flickr8k, COCO, Karpathy's JSON, CSV and JSON lines.

`read` finds out which it is. Every reader gives `Record`s with pictures' paths; none opens a picture.
"""

import contextlib
import csv
import io
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from captioner.data.records import Box, Boxes, Record, refuse_leaks, split_by_name
from captioner.data.shards import read_shards
from captioner.errors import DataError
from captioner.grounding.instances import Instances, attach_boxes, find_instances

_IMAGE_FOLDERS = ("images", "Images", "Flicker8k_Dataset", "Flickr8k_Dataset", "flickr30k-images", "")
_KARPATHY_SPLITS = {"train": "train", "restval": "train", "val": "dev", "test": "test"}
_SPLIT_NAMES = {
    "train": "train",
    "dev": "dev",
    "val": "dev",
    "valid": "dev",
    "validation": "dev",
    "test": "test",
}


def read(path: str | Path, *, images: str | Path | None = None) -> list[Record]:
    """Read a data set.

    Args:
        path: a file of captions, or a folder that holds one: ``Flickr8k.token.txt`` with its split files,
            ``captions.txt`` (CSV), ``dataset*.json`` (Karpathy), ``captions*.json`` (COCO), ``captions.csv``
            or ``captions.jsonl``; or WebDataset shards (``*.tar``), see `captioner.data.shards`.
        images: the folder of the pictures; by default looked for beside the captions.

    Raises:
        DataError: nothing readable there, no captions, or a picture in two splits.
    """
    path = Path(path)
    if path.suffix == ".tar" or (path.is_dir() and any(path.glob("*.tar"))):
        return _checked(read_shards(path))
    file = caption_file(path)
    folder = Path(images) if images is not None else None
    if folder is not None and not folder.is_dir():
        raise DataError(f"{folder}: no such folder of pictures")
    if file.name.endswith(".token.txt") or file.name.endswith(".token"):
        records = read_flickr8k(file, images=folder)
    elif file.suffix == ".json":
        records = _read_json(file, images=folder)
    else:
        records = read_table(file, images=folder)
    if not records:
        raise DataError(f"{file}: no captions in it")
    return _checked(records)


def _checked(records: list[Record]) -> list[Record]:
    refuse_leaks(records)
    return records


def caption_file(path: str | Path) -> Path:
    """The file of captions that a path means: itself, or the one in the folder.

    Raises:
        DataError: none, or several.
    """
    path = Path(path)
    if path.is_file():
        return path
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder")
    for pattern in (
        "*.token.txt",
        "dataset*.json",
        "captions*.json",
        "captions.jsonl",
        "captions.csv",
        "captions.txt",
    ):
        found = sorted(file for file in path.glob(pattern) if ".lemma." not in file.name)  # Flickr8k's second copy
        if len(found) > 1:
            names = ", ".join(file.name for file in found)
            raise DataError(f"{path}: several files of captions ({names}); name one of them")
        if found:
            return found[0]
    raise DataError(
        f"{path}: no captions found; looked for *.token.txt, dataset*.json, captions*.json, .jsonl, .csv, .txt"
    )


def read_flickr8k(token_file: str | Path, *, images: Path | None = None) -> list[Record]:
    """``Flickr8k.token.txt`` (``name#k TAB caption``) with the ``Flickr_8k.*Images.txt`` of the splits beside it.

    Pictures of no split file get no split, and are thus in no training.

    Raises:
        DataError: a line of another form, or no split files.
    """
    token_file = Path(token_file)
    captions: dict[str, list[str]] = defaultdict(list)
    for number, line in enumerate(_text(token_file).split("\n"), 1):
        if not line.strip():
            continue
        key, tab, caption = line.partition("\t")
        if not tab:
            raise DataError(f"{token_file}:{number}: no tab between name and caption: '{line[:60]}'")
        if not caption.strip():
            raise DataError(f"{token_file}:{number}: no caption after {key}")
        captions[key.rpartition("#")[0] or key].append(caption.strip())
    splits = _flickr_splits(token_file.parent)
    if not splits:
        raise DataError(f"{token_file.parent}: no *.trainImages.txt beside {token_file.name} to split it by")
    folder = images or _image_folder(token_file.parent, captions)
    return [Record(folder / name, tuple(c), splits.get(name, ""), name) for name, c in captions.items()]


def _flickr_splits(folder: Path) -> dict[str, str]:
    splits: dict[str, str] = {}
    for split in ("train", "dev", "test"):
        for file in sorted(folder.glob(f"*{split}Images.txt")):
            for name in _text(file).split():
                if splits.setdefault(name, split) != split:
                    raise DataError(f"{file}: {name} is in the split '{splits[name]}' too: keep it in one")
    return splits


def read_coco(file: str | Path, *, images: Path | None = None) -> list[Record]:
    """COCO's captions format, through pycocotools.

    The split is the image's ``split`` field where there is one; else the file's name tells (train, val,
    test), or else pictures are dealt by `split_by_name`. Where the instances stand beside the captions
    (``instances_x.json`` for ``captions_x.json``), words that name an annotated thing get its boxes.

    Raises:
        DataError: not in COCO's format.
    """
    file = Path(file)
    from pycocotools.coco import COCO

    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports its progress there
        try:
            coco = COCO(str(file))
            names = {image_id: image["file_name"] for image_id, image in coco.imgs.items()}
            captions = {
                image_id: tuple(annotation["caption"].strip() for annotation in coco.imgToAnns[image_id])
                for image_id in names
                if image_id in coco.imgToAnns
            }
        except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
            raise DataError(f"{file}: not in COCO's captions format ({error!r})") from None
    folder = images or _image_folder(file.parent, names.values())
    by_name = next((split for part, split in _SPLIT_NAMES.items() if part in file.stem.lower()), None)

    def split_of(image_id: int) -> str:
        given = coco.imgs[image_id].get("split")
        if given is not None:
            return _SPLIT_NAMES.get(str(given), "")
        return by_name or split_by_name(names[image_id])

    records = [Record(folder / names[i], captions[i], split_of(i), str(i)) for i in captions]
    beside = find_instances(file)
    return records if beside is None else attach_boxes(records, Instances(beside))


def read_karpathy(file: str | Path, *, images: Path | None = None) -> list[Record]:
    """Karpathy's ``dataset_*.json``; ``restval`` counts as training, ``val`` as dev.

    Raises:
        DataError: not in that format.
    """
    file = Path(file)
    data = _json(file)
    try:
        entries = [
            (
                str(Path(image.get("filepath", "")) / image["filename"]),
                tuple(sentence.get("raw") or " ".join(sentence["tokens"]) for sentence in image["sentences"]),
                _KARPATHY_SPLITS.get(image["split"], ""),
                str(image.get("cocoid", image["filename"])),
            )
            for image in data["images"]
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{file}: not in Karpathy's format ({error!r})") from None
    folder = images or _image_folder(file.parent, [name for name, *_ in entries])
    return [Record(folder / name, captions, split, key) for name, captions, split, key in entries]


def read_table(file: str | Path, *, images: Path | None = None) -> list[Record]:
    """CSV with a header, or JSON lines: ``image``, ``caption`` and, if they are there, ``split`` and ``boxes``.

    ``boxes`` (JSON lines alone) says where words of the caption are, see `Record.boxes`; keys are strings, and a
    word may have one box or a list of them.
    Lines of the same picture are put together. Without splits, the files of Flickr8k's splits beside it are
    used, or else `split_by_name`.

    Raises:
        DataError: a row without image or caption, an unknown split, or a picture in two splits.
    """
    file = Path(file)
    captions: dict[str, list[str]] = defaultdict(list)
    boxes: dict[str, list[dict[int, Boxes]]] = defaultdict(list)
    splits: dict[str, str] = {}
    for place, row in _json_lines(file) if file.suffix in (".jsonl", ".ndjson") else _csv_rows(file):
        name, caption = row.get("image"), row.get("caption")
        if not isinstance(name, str) or not isinstance(caption, str) or not name.strip() or not caption.strip():
            raise DataError(f"{place}: a row needs an 'image' and a 'caption', both text: {str(row)[:80]}")
        captions[name].append(caption.strip())
        boxes[name].append(read_boxes(row.get("boxes"), place))
        if row.get("split"):
            split = _SPLIT_NAMES.get(str(row["split"]))
            if split is None:
                raise DataError(f"{place}: the split '{row['split']}' is none of {', '.join(_SPLIT_NAMES)}")
            if splits.setdefault(name, split) != split:
                raise DataError(f"{place}: {name} is in the splits '{splits[name]}' and '{split}'")
    splits = splits or _flickr_splits(file.parent) or {name: split_by_name(name) for name in captions}
    folder = images or _image_folder(file.parent, captions)
    return [
        Record(folder / name, tuple(c), splits.get(name, ""), name, tuple(boxes[name]) if any(boxes[name]) else ())
        for name, c in captions.items()
    ]


def read_boxes(value: Any, place: str) -> dict[int, Boxes]:
    """Boxes by place of a word, from JSON.

    Raises:
        DataError: of another form, naming the place that it was read from.
    """
    if value is None:
        return {}
    try:
        # One box of a word may stand for itself.
        boxes = {int(word): _some_boxes(given) for word, given in value.items()}
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        raise DataError(
            f"{place}: 'boxes' maps places of words to [left, top, right, bottom], or to a list of these, not {value}"
        ) from None
    for left, top, right, bottom in (box for some in boxes.values() for box in some):
        if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
            box = [left, top, right, bottom]
            raise DataError(f"{place}: a box is left, top, right, bottom in fractions of the picture, not {box}")
    return boxes


def _some_boxes(given: Any) -> Boxes:
    return tuple(_box(*box) for box in (given if isinstance(given[0], list) else [given]))


def _box(left: float, top: float, right: float, bottom: float) -> Box:
    return float(left), float(top), float(right), float(bottom)


def _read_json(file: Path, *, images: Path | None) -> list[Record]:
    data = _json(file)
    if not isinstance(data, dict) or not isinstance(data.get("images"), list):
        raise DataError(f"{file}: neither COCO's nor Karpathy's format: it has no list of 'images'")
    if "annotations" in data:
        return read_coco(file, images=images)
    return read_karpathy(file, images=images)


def _csv_rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(_text(file), newline=""), skipinitialspace=True)
    if not {"image", "caption"} <= set(reader.fieldnames or ()):
        raise DataError(f"{file}: the first line must name the columns image,caption, not {reader.fieldnames}")
    start = reader.line_num + 1
    try:
        for row in reader:
            if None in row and row["caption"] is not None:  # commas of an unquoted caption
                row["caption"] = ", ".join([row["caption"], *row.pop(None)])
            if "\n" in (row["caption"] or ""):
                raise DataError(f"{file}:{start}: a caption of several lines: is a quote left open?")
            yield f"{file}:{start}", dict(row)
            start = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{file}:{start}: not CSV ({error}): is a quote left open?") from None


def _json_lines(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(_text(file).split("\n"), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"{file}:{number}: not JSON ({error})") from None
            if not isinstance(row, dict):
                raise DataError(f"{file}:{number}: an object is expected, not {line[:60]}")
            yield f"{file}:{number}", row


def _json(file: Path) -> Any:
    try:
        return json.loads(_text(file))
    except json.JSONDecodeError as error:
        raise DataError(f"{file}: not JSON, or truncated ({error})") from None


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise DataError(f"{file}: not a text file in UTF-8") from None


def _image_folder(beside: Path, names: Iterable[str]) -> Path:
    """The folder in which the first pictures are, among the usual places."""
    some = [name for name, _ in zip(names, range(20), strict=False)]
    if not some:
        return beside
    for candidate in _IMAGE_FOLDERS:
        if any((beside / candidate / name).is_file() for name in some):
            return beside / candidate
    places = ", ".join(folder or "." for folder in _IMAGE_FOLDERS)
    raise DataError(f"{beside}: none of the first pictures is in {places}; say where they are with --images")
