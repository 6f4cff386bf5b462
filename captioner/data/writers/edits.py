"""Files of edits: what a person decided about the captions of a folder of pictures, a JSON object a line."""

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from captioner.errors import OptionError
from captioner.partial import append_whole, open_locked, place_of, remove_stale, rewrite_locked

STATUSES = ("accepted", "edited", "flagged", "draft")
"""What a row says: the model's caption is good; it was changed; a person should come back to it; a text that is being
typed. The last two are no captions that anything should learn from."""


@dataclass(frozen=True, kw_only=True)
class Edit:
    """A person's decision about a picture.

    Attributes:
        image: the path of the picture.
        caption: the text as it stands.
        status: of `STATUSES`.
        original: the model's caption.
        model: its name.
    """

    image: str
    caption: str
    status: str
    original: str = ""
    model: str = ""


class EditsFile:
    """Edits in a ``.jsonl`` file, each of which is on the disk before `write` returns.

    A later row of a picture replaces an earlier one. When the file is opened or closed, replaced rows are removed, and
    so is a row that a kill cut off. Names of pictures in its folder are relative to it. While it is open, a second
    program that opens it is refused.

    Args:
        path: of the file.

    Attributes:
        notes: what the user should know, a line each.

    Raises:
        OptionError: another ending, rows of another kind, a file that cannot be written or that another program writes.
    """

    def __init__(self, path: Path) -> None:
        if path.suffix.lower() != ".jsonl":
            raise OptionError(f"{path}: edits end in .jsonl, not '{path.suffix}'")
        self.path = path
        self.notes: list[str] = []
        self._place = place_of(path, option="--output")
        self._edits: dict[str, Edit] = {}
        self._rows = 0
        try:
            remove_stale(self._place.parent)
            self._descriptor = self._open()
            try:
                self._read()
                self._compact()
            except BaseException:
                os.close(self._descriptor)
                raise
        except OSError as error:
            raise self._cannot_write(error) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def get(self, picture: str | os.PathLike[str]) -> Edit | None:
        """The last edit of a picture, under this or another name of the same file."""
        return self._edits.get(os.path.realpath(picture))

    def write(self, edit: Edit) -> None:
        """Append an edit, and wait until it is on the disk.

        Raises:
            OptionError: it cannot be written; the rows before stay whole.
        """
        data = (json.dumps({**asdict(edit), "image": self._stored(edit.image)}) + "\n").encode()
        try:
            append_whole(self._descriptor, data, sync=True)
        except OSError as error:
            raise self._cannot_write(error) from None
        self._edits[os.path.realpath(edit.image)] = edit
        self._rows += 1

    def close(self) -> None:
        """Remove the rows that were replaced, and close the file. One that holds nothing is removed."""
        if self._descriptor < 0:
            return
        with suppress(OSError):  # then the next program does it
            self._compact()
            if not self._rows:
                self._place.unlink(missing_ok=True)
        os.close(self._descriptor)
        self._descriptor = -1

    def _open(self) -> int:
        opened = open_locked(self._place)
        if opened is None:
            raise OptionError(
                f"{self.path}: is being written by another program", remedy="stop it, or give another --output"
            )
        return opened[0]

    def _read(self) -> None:
        lines = self._place.read_bytes().split(b"\n")
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                edit = _parse(json.loads(line))
            except (ValueError, RecursionError):
                if number == len(lines) and line.startswith(b'{"image": '[: len(line)]):  # a kill cut it off
                    self.notes.append(f"{self.path}: line {number} is not whole and is left out")
                    self._rows += 1  # so that it is removed
                    break
                raise OptionError(
                    f"{self.path}: line {number} is no edit of 'captioner review'", remedy="give another --output"
                ) from None
            image = os.path.normpath(self._place.parent / edit.image)
            self._edits[os.path.realpath(image)] = Edit(**{**asdict(edit), "image": image})
            self._rows += 1
        if lines[-1].strip():  # without a line feed, as editors leave it: written again
            self._rows += not self.notes

    def _compact(self) -> None:
        if self._rows == len(self._edits):
            return
        lines = [
            json.dumps({**asdict(edit), "image": self._stored(edit.image)}) + "\n" for edit in self._edits.values()
        ]
        before, self._descriptor = self._descriptor, rewrite_locked(self._place, "".join(lines).encode())
        os.close(before)
        self._rows = len(self._edits)

    def _stored(self, image: str) -> str:
        folder, real = os.path.realpath(self._place.parent), os.path.abspath(image)  # noqa: PTH100 - links stay
        inside = os.path.join(os.path.realpath(os.path.dirname(real)), os.path.basename(real))  # noqa: PTH118, PTH119, PTH120
        name = os.path.relpath(inside, folder) if inside.startswith(folder + os.sep) else real
        return name.replace(os.sep, "/")

    def _cannot_write(self, error: OSError) -> OptionError:
        return OptionError(f"{self.path}: cannot be written ({error.strerror or error})")


def _parse(row: Any) -> Edit:
    """The edit of a row. Raises ValueError."""
    if not isinstance(row, dict) or row.get("status") not in STATUSES:
        raise ValueError
    values = {name: row.get(name, "") for name in Edit.__dataclass_fields__}
    if not all(isinstance(value, str) for value in values.values()) or not values["image"]:
        raise ValueError
    return Edit(**values)
