"""A page of captions in one file."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from captioner.errors import OptionError
from captioner.partial import PartialFile, check_folder, place_of, remove_stale
from captioner.results import Caption


class PageFile:
    """A page of captions, a gallery where they are several; used as ``with PageFile(path) as file``.

    It is written beside its place, a caption at a time, and moved there when it is whole. A run that fails, is stopped
    or writes no caption leaves the old page as it was.

    Args:
        path: of the page, .html.
        title: of the page; None for the first picture's name.
        several: the page is to hold more than one caption.
        smooth: begin with interpolated maps; False with the cells as they are.
        by_doubt: the captions that are least sure come first. They are then held in memory until the end.

    Raises:
        OptionError: another ending, or a file that cannot be written.
    """

    MOST = 500
    """Captions that a browser can show on a page."""

    def __init__(
        self,
        path: Path,
        *,
        title: str | None = None,
        several: bool = False,
        smooth: bool = True,
        by_doubt: bool = False,
    ) -> None:
        if path.suffix.lower() not in (".html", ".htm"):
            raise OptionError(f"{path}: a page ends in .html, not '{path.suffix}'")
        if os.path.isdir(path):  # noqa: PTH112 - unlike Path.is_dir, it takes names that are too long
            raise OptionError(f"{path}: cannot be written (Is a directory)")
        self.path = path
        self.title = title
        self.several = several
        self.smooth = smooth
        self.by_doubt = by_doubt
        self.count = 0
        self._held: list[tuple[float, str]] = []  # confidence and entry of each

    def __enter__(self) -> Self:
        place = place_of(self.path)
        check_folder(place.parent, name=self.path)
        remove_stale(place.parent)
        with self._named_failures():
            self._partial = PartialFile(place)
        try:
            with self._named_failures():
                self._file = self._partial.path.open("w", encoding="utf-8", newline="")
        except BaseException:
            self._partial.discard()
            raise
        return self

    def write(self, caption: Caption) -> None:
        """Append a caption.

        Raises:
            ImageError: the caption keeps no picture, and the picture's file is gone. The page stays usable.
            OptionError: the file cannot be written.
        """
        from captioner.show.page import entry, name_of, opening

        parts = [] if self.count else [opening(self.title if self.title is not None else name_of(caption))]
        text = entry(caption, several=self.several, smooth=self.smooth)
        if self.by_doubt:
            self._held.append((caption.confidence, text))
        else:
            parts.append(text)
        with self._named_failures():
            self._file.writelines(parts)
        self.count += 1

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        from captioner.show.page import closing

        whole = False
        try:
            with self._named_failures(), self._file:
                if kind is None and self.count:
                    self._file.writelines(text for _, text in sorted(self._held, key=lambda one: one[0]))
                    self._file.write(closing())
                    whole = True
            if whole:
                with self._named_failures():
                    self._partial.commit()
        finally:
            self._partial.discard()  # nothing is left of it where it was moved

    @contextmanager
    def _named_failures(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OptionError(f"{self.path}: cannot be written ({error.strerror or error})") from None
