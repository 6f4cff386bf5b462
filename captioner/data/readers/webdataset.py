"""WebDataset shards: tar files in which a picture and its captions stand side by side.

``000017.jpg`` and ``000017.json`` are one sample (https://github.com/webdataset/webdataset); the captions are
``caption`` or ``captions`` of the JSON, or the lines of a ``.txt``. The files are listed once, and pictures are then
read from where they lie, so that a run takes them in any order, and resumes exactly, as it does with folders.
"""

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from captioner.data.readers.fields import caption_text, picture_id, split_in_name, split_name
from captioner.data.readers.formats import READERS, Entry, Format, Source, caption_boxes
from captioner.data.readers.rows import parse_json
from captioner.data.records import ShardPicture
from captioner.data.tar_files import DAMAGED, damaged_shard, refuse_links, whole_members
from captioner.errors import DataError
from captioner.image import SUFFIXES

_LARGEST_ABOUT = 1 << 24  # bytes of a .json or .txt in a shard


@READERS.register("webdataset")
class WebDataset(Format):
    """A ``.tar`` file or a folder of them, in the order of their names. They must not be compressed.

    A picture's split is ``split`` of its JSON, or else a word of the shard's name (``train-000003.tar``).
    """

    patterns = ("*.tar",)
    folders = True

    def recognises(self, source: Source) -> bool:
        if source.name.endswith((".tar", ".tgz")):  # Source.name is without .gz
            if source.path.name.lower().endswith((".gz", ".tgz")):
                raise DataError(f"{source.path}: shards must not be compressed", remedy="unpack it with gunzip")
            return True
        return source.path.is_dir() and any(source.path.glob("*.tar"))

    def entries(self, source: Source) -> list[Entry]:
        path = source.path
        shards = sorted(path.glob("*.tar")) if path.is_dir() else [path]
        found = [entry for shard in shards for entry in _shard(shard)]
        if not found:
            raise DataError(f"{path}: no pictures in its shards")
        return found


def _shard(shard: Path) -> Iterator[Entry]:
    pictures: dict[str, ShardPicture] = {}
    about: dict[str, dict[str, Any]] = {}
    links: list[str] = []
    try:
        with tarfile.open(shard, "r:") as tar:  # not compressed: pictures are read from where they lie
            for member in whole_members(tar, links):
                picture = ShardPicture(shard, member.name, member.offset_data, member.size)
                suffix = picture.name.rpartition("/")[2].partition(".")[2].lower()
                if f".{suffix}" in SUFFIXES:
                    if member.issparse():
                        raise DataError(f"{picture}: a sparse file in a shard", remedy="write the shard again")
                    if picture.key in pictures:
                        raise DataError(f"{picture}: a second picture of the sample '{picture.key}'", remedy="keep one")
                    pictures[picture.key] = picture
                elif suffix in ("json", "txt"):
                    if member.size > _LARGEST_ABOUT:
                        raise DataError(f"{picture}: {member.size:,} bytes, too many for a picture's captions")
                    content = tar.extractfile(member)
                    assert content is not None  # it is a file
                    given = _about(content.read(), suffix, str(picture))
                    about[picture.key] = given | about.get(picture.key, {})
    except FileNotFoundError:
        raise DataError(f"{shard}: no such shard") from None
    except (*DAMAGED, LookupError, RecursionError) as error:
        raise damaged_shard(shard, error) from None
    refuse_links(shard, links)
    for key, picture in pictures.items():
        if "captions" not in about.get(key, {}):
            raise DataError(f"{picture}: no captions beside it; a .json or a .txt of the same name holds them")
        yield _entry(picture, about[key])


def _about(content: bytes, suffix: str, place: str) -> dict[str, Any]:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{place}: not UTF-8 ({error})") from None
    if suffix == "txt":
        return {"captions": [line.strip() for line in text.split("\n") if line.strip()]}
    sample = parse_json(text, path=Path(place))
    if not isinstance(sample, dict):
        raise DataError(f"{place}: not a JSON object, but {text[:40]!r}")
    captions = sample.pop("captions", None)
    single = sample.pop("caption", None)
    captions = single if captions is None else captions
    if captions is None:  # they may be in a .txt beside it
        return sample
    captions = [captions] if isinstance(captions, str) else captions
    if not isinstance(captions, list):
        raise DataError(f"{place}: 'captions' must be a list of texts, not {captions!r:.60}")
    return {**sample, "captions": captions}


def _entry(picture: ShardPicture, about: dict[str, Any]) -> Entry:
    place = str(picture)
    key = picture_id(about, place, ("id",)) if "id" in about else f"{picture.shard.stem}/{picture.key}"
    return Entry(
        place=place,
        id=str(key),
        image=picture,
        captions=tuple(caption_text({"caption": text}, place, key) for text in about["captions"]),
        split=split_name(about["split"], place) if "split" in about else split_in_name(picture.shard.stem),
        boxes=caption_boxes(about.get("boxes"), len(about["captions"]), place),
    )
