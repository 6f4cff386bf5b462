"""Writing WebDataset shards; `captioner.data.readers` reads them as it reads any data set."""

import io
import json
import os
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from captioner.data.records import Record
from captioner.errors import DataError
from captioner.image import SUFFIXES


def write_shards(
    records: Sequence[Record],
    folder: str | Path,
    *,
    pictures: int = 1000,
    advance: Callable[[], None] = lambda: None,
) -> tuple[list[Path], dict[str, str]]:
    """Write records as shards, every split in shards of its own. If it fails, it leaves no file behind.

    Args:
        records: their pictures are copied as they are.
        folder: must not hold shards already.
        pictures: how many are in each shard.
        advance: called after each picture.

    Returns:
        The files, and for each picture that cannot be read, by its path, what is wrong. Such pictures are left out.

    Raises:
        DataError: the folder holds shards or cannot be written, no picture can be read, or a record has questions.
    """
    folder = Path(folder)
    if pictures < 1:
        raise DataError(f"a shard needs at least 1 picture, not {pictures}")
    if asked := next((record for record in records if record.questions), None):
        raise DataError(
            f"{asked.image} has questions, which shards do not hold", remedy="train on the file of questions itself"
        )
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file", remedy="give a folder for the shards")
    if any(folder.glob("*.tar")):
        raise DataError(f"{folder} holds shards already", remedy="give another folder")
    if other := next((one for one in _entries(folder) if not one.name.startswith(".")), None):
        raise DataError(f"{folder} holds other files ({other.name})", remedy="give a folder of its own for the shards")
    written: list[Path] = []
    failures: dict[str, str] = {}
    there = folder.is_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for split in sorted({record.split for record in records}):
            own = [record for record in records if record.split == split]
            for number, start in enumerate(range(0, len(own), pictures)):
                file = folder / f"{split or 'other'}-{number:06}.tar"
                if _write_shard(file, own[start : start + pictures], start, failures, advance):
                    written.append(file)
        if not written:
            raise DataError(f"none of {len(records)} pictures can be read; the first: {next(iter(failures.values()))}")
    except BaseException as error:
        for file in written:
            file.unlink(missing_ok=True)
        if not there and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
        if isinstance(error, OSError):
            raise DataError(f"cannot write shards into {folder}: {error.strerror}") from None
        raise
    return written, failures


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _write_shard(
    file: Path, records: Sequence[Record], start: int, failures: dict[str, str], advance: Callable[[], None]
) -> bool:
    """Write a shard under another name first; whether it holds a picture."""
    partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
    try:
        with partial.open("xb") as raw, tarfile.open(fileobj=raw, mode="w") as tar:
            added = 0
            for i, record in enumerate(records, start):
                try:
                    picture = record.image.read_bytes()
                except (OSError, ValueError) as error:
                    what = getattr(error, "strerror", None) or error
                    failures[str(record.image)] = f"{record.image}: cannot be read ({what})"
                else:
                    _add(tar, f"{i:09}", record, picture)
                    added += 1
                advance()
        if added:
            _rename(partial, file)
        return added > 0
    finally:
        partial.unlink(missing_ok=True)


def _rename(partial: Path, file: Path) -> None:
    """Give a file its name; fails where a file of that name has appeared, which a rename alone would overwrite."""
    try:
        os.link(partial, file)
    except FileExistsError:
        raise
    except OSError:  # a disk without hard links
        if file.exists():
            raise
        partial.rename(file)


def _add(tar: tarfile.TarFile, key: str, record: Record, picture: bytes) -> None:
    about: dict[str, Any] = {"id": record.id, "split": record.split, "captions": record.captions}
    if record.boxes:
        about["boxes"] = [{str(word): boxes for word, boxes in words.items()} for words in record.boxes]
    suffix = Path(str(record.image)).suffix.lower()
    if suffix not in SUFFIXES:  # readers find pictures by their endings, and open them by their first bytes
        suffix = ".jpg"
    for name, content in ((key + suffix, picture), (f"{key}.json", json.dumps(about).encode())):
        member = tarfile.TarInfo(name)
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
