"""WebDataset shards: tar files in which a picture and its captions stand side by side.

``000017.jpg`` and ``000017.json`` are one sample, as https://github.com/webdataset/webdataset has it; captions are
``caption`` or ``captions`` of the JSON, or the lines of a ``.txt``. The files are listed once, and pictures then
read from where they lie: so a run deals them in any order, and resumes exactly, as it does with folders.

    python -m captioner.data.shards DATA OUTPUT --pictures 1000     makes shards of any data set
"""

import argparse
import io
import json
import re
import sys
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captioner.data.records import Boxes, Record, split_by_name
from captioner.errors import CaptionerError, DataError
from captioner.image import SUFFIXES

_SPLITS = {"train": "train", "dev": "dev", "val": "dev", "test": "test"}


@dataclass(frozen=True)
class ShardPicture:
    """A picture inside a tar file: what `captioner.image.open_image` takes of a `Record` from shards."""

    shard: Path
    name: str
    offset: int
    size: int

    def read_bytes(self) -> bytes:
        """The file's bytes. Raises OSError as reading any file does."""
        with self.shard.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)

    def __str__(self) -> str:
        return f"{self.shard}/{self.name}"


def read_shards(path: str | Path) -> list[Record]:
    """The records of a shard, or of all shards in a folder.

    The split is ``split`` of a sample's JSON, else what the shard's name begins with (``train-000003.tar``), else
    that of `split_by_name`. Pictures are in the order of shards' names, and as they stand in each.

    Args:
        path: a ``.tar`` file, or a folder of them.

    Raises:
        DataError: a file is no tar file or cut off, a picture has no captions, or there are no pictures.
    """
    path = Path(path)
    shards = sorted(path.glob("*.tar")) if path.is_dir() else [path]
    records = [record for shard in shards for record in _read_shard(shard)]
    if not records:
        raise DataError(f"{path}: no pictures in its shards")
    return records


def _read_shard(shard: Path) -> Iterator[Record]:
    pictures: dict[str, ShardPicture] = {}
    about: dict[str, dict[str, Any]] = {}
    try:
        with tarfile.open(shard, "r:") as tar:  # not compressed: pictures are read from where they lie
            for member in tar:
                if not member.isfile():
                    continue
                folder, _, file = member.name.rpartition("/")
                stem, _, suffix = file.partition(".")  # the key ends at the first dot
                key = f"{folder}/{stem}" if folder else stem
                if f".{suffix.lower()}" in SUFFIXES:
                    pictures[key] = ShardPicture(shard, member.name, member.offset_data, member.size)
                elif suffix in ("json", "txt"):
                    content = tar.extractfile(member)
                    assert content is not None  # it is a file
                    about[key] = _about(content.read(), suffix, f"{shard}/{member.name}") | about.get(key, {})
    except FileNotFoundError:
        raise DataError(f"{shard}: no such shard") from None
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(f"{shard}: no tar file, or cut off ({error})") from None
    for key, picture in pictures.items():
        if not about.get(key, {}).get("captions"):
            raise DataError(f"{picture}: no captions beside it; a .json or a .txt of the same name holds them")
        yield _record(key, picture, about[key])


def _about(content: bytes, suffix: str, place: str) -> dict[str, Any]:
    try:
        text = content.decode("utf-8")
        if suffix == "txt":
            return {"captions": [line.strip() for line in text.splitlines() if line.strip()]}
        sample = json.loads(text)
        captions = sample.get("captions", sample.get("caption"))
    except (UnicodeDecodeError, json.JSONDecodeError, AttributeError) as error:
        raise DataError(f"{place}: not a JSON object in UTF-8 ({error})") from None
    captions = [captions] if isinstance(captions, str) else captions
    if captions is None:  # they may be in a .txt beside it
        return {name: value for name, value in sample.items() if name not in ("caption", "captions")}
    if not isinstance(captions, list) or not all(isinstance(c, str) and c.strip() for c in captions):
        raise DataError(f"{place}: 'captions' must be a list of texts, not {str(captions)[:60]}")
    return {**sample, "captions": captions}


def _record(key: str, picture: ShardPicture, about: Mapping[str, Any]) -> Record:
    from captioner.data.readers import read_boxes

    by_name = _SPLITS.get(re.split(r"[-_.]", picture.shard.name)[0], "")
    split = about.get("split", by_name or split_by_name(key))
    if split not in ("", *_SPLITS):
        raise DataError(f"{picture}: the split '{split}' is none of {', '.join(_SPLITS)}")
    given = about.get("boxes") or []
    if not isinstance(given, list):
        raise DataError(f"{picture}: 'boxes' must be a list with an entry for each caption, not {given}")
    boxes: tuple[Mapping[int, Boxes], ...] = tuple(read_boxes(words, str(picture)) for words in given)
    if boxes and len(boxes) != len(about["captions"]):
        raise DataError(f"{picture}: {len(boxes)} sets of boxes for {len(about['captions'])} captions")
    return Record(
        image=picture,
        captions=tuple(about["captions"]),
        split=_SPLITS.get(split, ""),
        id=str(about.get("id", f"{picture.shard.stem}/{key}")),
        boxes=boxes,
    )


def write_shards(records: Sequence[Record], folder: str | Path, *, pictures: int = 1000) -> list[Path]:
    """Write records as shards, ``pictures`` in each, every split in shards of its own.

    Args:
        records: their pictures are copied as they are.
        folder: must not hold shards already.
        pictures: in each shard.

    Returns:
        The files.

    Raises:
        DataError: the folder holds shards, or a picture cannot be read.
    """
    folder = Path(folder)
    if any(folder.glob("*.tar")):
        raise DataError(f"{folder} holds shards already: give another folder")
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for split in sorted({record.split for record in records}):
        own = [record for record in records if record.split == split]
        for number, start in enumerate(range(0, len(own), pictures)):
            file = folder / f"{split or 'other'}-{number:06}.tar"
            with tarfile.open(file.with_suffix(".partial"), "w") as tar:
                for i, record in enumerate(own[start : start + pictures], start):
                    _add(tar, f"{i:09}", record)
            written.append(file.with_suffix(".partial").replace(file))
    return written


def _add(tar: tarfile.TarFile, key: str, record: Record) -> None:
    try:
        picture = record.image.read_bytes()
    except OSError as error:
        raise DataError(f"{record.image}: cannot be read ({error.strerror})") from None
    about: dict[str, Any] = {"id": record.id, "split": record.split, "captions": record.captions}
    if record.boxes:
        about["boxes"] = [{str(word): boxes for word, boxes in words.items()} for words in record.boxes]
    suffix = Path(str(record.image)).suffix.lower()
    for name, content in ((key + suffix, picture), (f"{key}.json", json.dumps(about).encode())):
        member = tarfile.TarInfo(name)
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))


def main() -> int:
    from captioner.data.readers import read

    parser = argparse.ArgumentParser(prog="python -m captioner.data.shards", description="Make WebDataset shards.")
    parser.add_argument("data", type=Path, help="any data set that 'captioner train' reads")
    parser.add_argument("output", type=Path, help="the folder of the shards")
    parser.add_argument("--images", type=Path, help="the folder of the pictures, where it is not beside the captions")
    parser.add_argument("--pictures", type=int, default=1000, help="in each shard (default 1000)")
    arguments = parser.parse_args()
    try:
        if arguments.pictures < 1:
            raise DataError(f"a shard needs at least 1 picture, not {arguments.pictures}")
        files = write_shards(
            read(arguments.data, images=arguments.images), arguments.output, pictures=arguments.pictures
        )
    except CaptionerError as error:
        print(f"shards: {error}", file=sys.stderr)
        return 2
    print(f"{len(files)} shards in {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
