"""Watching folders: what appears in them is captioned, until the command is stopped."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from captioner.commands.console import Terminated
from captioner.errors import OptionError
from captioner.results import Failure

if TYPE_CHECKING:
    from captioner.data.pictures import FoundPictures

_Stamp = tuple[int, int]


def check_watch(seconds: float, names: list[str]) -> None:
    """Make sure that there are folders to watch. Raises OptionError."""
    if not 0.05 <= seconds <= 86400:
        raise OptionError(f"--watch {seconds:g}: seconds between two looks must be from 0.05 to 86400")
    for name in names:
        if not os.path.isdir(name):  # noqa: PTH112 - unlike Path.is_dir, it takes names that are too long
            raise OptionError(f"--watch: {name} is no folder", remedy="name folders alone, without --from")


class Watcher:
    """Looks at folders again and again for pictures that are new or have changed.

    A picture is taken when two looks in a row find the same size and time of change, so that none is taken while it is
    being copied. A failure is reported once, and a picture that failed is taken again when it has changed.

    Args:
        find: finds the pictures that are there.
        seconds: between two looks.
        sleep: waits; for tests.
    """

    def __init__(
        self, find: "Callable[[], FoundPictures]", *, seconds: float, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._find, self._seconds, self._sleep = find, seconds, sleep
        self._seen: dict[Path, _Stamp] = {}
        self._taken: dict[Path, _Stamp] = {}
        self._reported: set[str] = set()
        self._count = 0

    def rounds(self) -> "Iterator[FoundPictures]":
        """What is to be done, each time something is. It ends by Ctrl-C or a signal while it waits."""
        while True:
            found = self._new(self._find())
            if found.pictures or found.failures:
                yield found
            try:
                self._sleep(self._seconds)
            except (KeyboardInterrupt, Terminated):
                return

    def _new(self, found: "FoundPictures") -> "FoundPictures":
        from captioner.data.pictures import FoundPictures

        stamps = {picture: stamp for picture in found.files if (stamp := _stamp(picture)) is not None}
        pictures: list[Path] = []
        for picture, stamp in stamps.items():
            if self._taken.get(picture) != stamp and self._seen.get(picture) == stamp:
                pictures.append(picture)
                self._taken[picture] = stamp
        self._seen = stamps
        self._taken = {picture: stamp for picture, stamp in self._taken.items() if picture in stamps}
        failures = [one for one in found.failures if not self._is_empty(one) and one.error not in self._reported]
        self._reported.update(one.error for one in failures)
        numbers = list(range(self._count + 1, self._count + 1 + len(pictures)))
        self._count += len(pictures)
        return FoundPictures(
            pictures=list(pictures),
            numbers=numbers,
            failures=failures,
            notes=[],
            several=True,
            elsewhere=found.elsewhere,
        )

    @staticmethod
    def _is_empty(failure: Failure) -> bool:
        """Whether it is that of a folder in which nothing is yet."""
        return os.path.isdir(failure.image) and "no pictures in this folder" in failure.error  # noqa: PTH112


def _stamp(picture: Path) -> _Stamp | None:
    try:
        found = picture.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns
