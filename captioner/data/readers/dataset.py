"""A data set for training or grounding: pictures' paths with their captions. No picture is opened."""

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

from captioner.data.readers.formats import (
    Entry,
    LeftOutWarning,
    Source,
    caption_file,
    entries_of,
    format_of,
    without_blank,
)
from captioner.data.readers.splits import splits_of
from captioner.data.records import Record, ShardPicture, refuse_leaks, split_by_name
from captioner.errors import DataError

_IMAGE_FOLDERS = ("images", "Images", "Flicker8k_Dataset", "Flickr8k_Dataset", "flickr30k-images", "")


def read(path: str | Path, *, images: str | Path | None = None) -> list[Record]:
    """Read a data set.

    A picture's split is that of its own field; else of the list of names beside the file that has it; else a whole
    word of the file's name (``captions_train2017.json``); else one in twenty is "dev", by a checksum of the name.
    ``training``, ``val``, ``valid``, ``validation`` and ``restval`` are understood; any other name is refused.
    Pictures of no split have the split "". Captions without a word are left out. Both are counted in a
    `LeftOutWarning`.

    Args:
        path: a file of captions, or a folder that holds one, in any format of `READERS`; each may be gzipped.
        images: the folder of the pictures; by default it is looked for beside the captions. The file's paths are
            relative to it. They may lead out of it (``../more/a.jpg``), and absolute paths are taken as they are.

    Raises:
        DataError: nothing readable there, no captions, an id twice, or a picture in two splits.
    """
    source = Source(caption_file(path), repair=True)
    folder = Path(images) if images is not None else None
    if folder is not None and not folder.is_dir():
        raise DataError(f"{folder}: no such folder of pictures")
    form = format_of(source)
    entries = _with_captions(entries_of(source, form), source)
    splits = splits_of(entries, source, form)
    if splits is None and not form.distributed:
        raise DataError(f"{source.path.parent}: no *.trainImages.txt beside {source.path.name} to split it by")
    if folder is None and source.path.is_dir():  # paths below it
        folder = source.path
    folder = folder or _image_folder(source.path.parent, [e.image for e in entries if isinstance(e.image, str)])
    records = []
    for i, entry in enumerate(entries):
        split = split_by_name(entry.name) if splits is None else splits[i]
        records.append(
            Record(
                image=_picture(entry, folder),
                captions=tuple(caption.strip() for caption in entry.captions),
                split="train" if split == "restval" else split,
                id=str(entry.id),
                boxes=entry.boxes,
                questions=entry.questions,
            )
        )
    refuse_leaks(records)
    return records


def _with_captions(entries: list[Entry], source: Source) -> list[Entry]:
    """The entries that have captions with words, or questions."""
    if entries and all(entry.questions for entry in entries):
        return entries
    without = [entry for entry in entries if not entry.captions]
    kept, _ = without_blank([entry for entry in entries if entry.captions], source.path)
    if not kept:
        raise DataError(f"{source.path}: no captions in it that have words")
    if without:
        warnings.warn(
            f"{source.path}: {len(without):,} of {len(entries):,} pictures have no captions and are left out; the "
            f"first is {without[0].name}",
            LeftOutWarning,
            stacklevel=2,
        )
    return kept


def _picture(entry: Entry, folder: Path) -> Path | ShardPicture:
    if isinstance(entry.image, ShardPicture):
        return entry.image
    if entry.image is None:
        raise DataError(
            f"{entry.place}: picture {entry.id!r} has no name of a file",
            remedy="add 'image' (or 'file_name') with its path below the folder of the pictures",
        )
    return folder / entry.image


def _image_folder(beside: Path, names: Sequence[str]) -> Path:
    """The folder in which most of the first pictures are, among the usual places; thumbnails of some may lie in
    another."""
    some = names[:20]
    if not some:
        return beside
    found = {folder: sum(_is_file(beside / folder / name) for name in some) for folder in _IMAGE_FOLDERS}
    best = max(found, key=found.__getitem__)
    if found[best]:
        return beside / best
    raise DataError(
        f"{beside}: none of the first pictures is in {_places(_IMAGE_FOLDERS)}",
        remedy="say where they are with --images",
    )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long
        return False


def _places(folders: Iterable[str]) -> str:
    return ", ".join(folder or "." for folder in folders)
