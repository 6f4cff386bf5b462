"""Which split each picture is in: by its own field, by lists of names beside the file, or by the file's name."""

import warnings
from collections.abc import Sequence
from pathlib import Path

from captioner.data.readers.fields import split_in_name
from captioner.data.readers.formats import Entry, Format, LeftOutWarning, Source
from captioner.data.readers.text import read_text
from captioner.errors import DataError


def splits_of(entries: Sequence[Entry], source: Source, form: Format) -> list[str] | None:
    """The split of each entry, "" for none; None where no split is known.

    The first that is there decides for all entries: the field ``split``, where entries that lack it are in no split;
    the lists ``*trainImages.txt``, ``*devImages.txt`` and ``*testImages.txt`` beside the file; a whole word of the
    file's name. Warns with `LeftOutWarning` how many pictures have no split.
    """
    if any(entry.split is not None for entry in entries):
        found = [entry.split or "" for entry in entries]
    else:
        lists = split_lists(source.path.parent) if form.split_lists else {}
        found = [lists.get(entry.name, "") for entry in entries]
        if not any(found):
            word = split_in_name(source.name)
            return None if word is None else [word] * len(entries)
    missing = [entry for entry, split in zip(entries, found, strict=True) if not split]
    if missing:
        warnings.warn(
            f"{source.path}: {len(missing):,} of {len(entries):,} pictures have no split and are left out of all "
            f"splits; the first is {missing[0].name}",
            LeftOutWarning,
            stacklevel=2,
        )
    return found


def split_lists(folder: Path) -> dict[str, str]:
    """The split of each name in the lists of a folder, as Flickr8k has them.

    Raises:
        DataError: a name is in two splits.
    """
    splits: dict[str, str] = {}
    for split in ("train", "dev", "test"):
        for file in sorted(folder.glob(f"*{split}Images.txt")):
            for name in names_in(file):
                if splits.setdefault(name, split) != split:
                    raise DataError(f"{file}: {name} is in the split '{splits[name]}' too: keep it in one")
    return splits


def names_in(file: Path) -> list[str]:
    """The names in a list, one a line."""
    return [line.strip() for line in read_text(file).split("\n") if line.strip()]
