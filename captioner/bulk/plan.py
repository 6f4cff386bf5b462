"""What a run has to do: the pictures of a source without those that the output has, and the counts of both."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from captioner.bulk.chunks import Chunk
from captioner.bulk.parts import checksum
from captioner.errors import DataError


@dataclass
class Counts:
    """What became of the pictures of a source.

    Attributes:
        pictures: in the source.
        captioned, failed: in this run.
        skipped: that were there from an earlier run.
        failed_before: of those, the failures.
    """

    pictures: int = 0
    captioned: int = 0
    failed: int = 0
    skipped: int = 0
    failed_before: int = 0


@dataclass
class Plan:
    """What is to be done.

    Attributes:
        chunks: of the pictures that are not done.
        counts: with those that are.
        total: pictures in the chunks.
        checksum: of their names.
    """

    chunks: list[Chunk] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)
    total: int = 0
    checksum: int = 0


def plan(chunks: Iterable[Chunk], done: Iterable[tuple[str, bool]]) -> Plan:
    """The pictures of a source without those that are done (an anti-join by name).

    Args:
        chunks: of the source.
        done: names, with whether they failed.

    Raises:
        DataError: a name stands for two pictures, or the output has one twice.
    """
    before: dict[str, bool] = {}
    for name, failed in done:
        if name in before:
            raise DataError(f"the output holds '{name}' twice", remedy="start again with --overwrite")
        before[name] = failed
    names: set[str] = set()
    found = Plan()
    for chunk in chunks:
        for name in chunk.ids:
            if name in names:
                raise DataError(f"'{name}' names two pictures", remedy="give another --key, or rename one")
            names.add(name)
        rest = chunk.without(before)
        found.counts.pictures += len(chunk.ids)
        found.counts.skipped += len(chunk.ids) - len(rest.ids)
        found.counts.failed_before += sum(before.get(name, False) for name in chunk.ids)
        if rest.ids:
            found.chunks.append(rest)
            found.total += len(rest.ids)
            found.checksum = (found.checksum + checksum(rest.ids)) % (1 << 64)
    return found
