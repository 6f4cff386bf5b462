"""Files of results: a row for each caption, which a run that was stopped goes on with."""

import json
import os
from pathlib import Path
from typing import Any, Self

from captioner.data.writers.formats import WRITERS, ForeignRowsError, Scan
from captioner.data.writers.provenance import Provenance
from captioner.errors import OptionError
from captioner.partial import append_whole, open_locked, place_of, remove_stale, written_whole
from captioner.results import Caption


class ResultsFile:
    """Captions in a file, in the format that `WRITERS` has for its ending.

    Each caption is in the file before the next is made, so that a kill loses at most the row that was being written.
    When the file is opened again, its rows are read one by one, and only the pictures' names are kept. A row that was
    cut off is removed; a whole row without a line feed, as editors leave it, gets one. A file that something else wrote
    is refused and stays as it is. While a file is open, a second run that opens it is refused.

    What made the captions (see `check`) stands in a hidden file beside the results,
    ``.captions.csv.run.json`` beside ``captions.csv``. A run with another model or other options is refused.

    Args:
        path: of the file.
        overwrite: start again: `begin` removes the rows of a former run.

    Attributes:
        notes: what the user should know, a line each.

    Raises:
        OptionError: another ending, rows of another form, a file that cannot be written or that another run writes.
    """

    def __init__(self, path: Path, *, overwrite: bool = False) -> None:
        suffix = path.suffix.lower()
        if suffix not in WRITERS:
            raise OptionError(f"{path}: results end in {_listed([*WRITERS, '.parquet'])}, not '{path.suffix}'")
        self.path = path
        self.notes: list[str] = []
        self._format = WRITERS[suffix]()
        self._overwrite = overwrite
        self._place = place_of(path)
        self._sidecar = self._place.with_name(f".{self._place.name}.run.json")
        self._real_folders: dict[str, str] = {}
        self._known: set[str] = set()
        self._provenance: Provenance | None = None
        self._moved = False
        self._begun = False
        try:
            self._descriptor, self._created = self._open()
        except OSError as error:
            raise self._cannot_write(error) from None
        try:
            self._stored = self._read_sidecar() if os.fstat(self._descriptor).st_size else {}
            self._folder = self._stored_folder()
            self._scan = self._read()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __contains__(self, picture: object) -> bool:
        """Whether the file has a caption of a picture, under this or another name of the same file."""
        return isinstance(picture, (str, os.PathLike)) and self.place_of(os.fspath(picture)) in self._known

    def place_of(self, picture: str) -> str:
        """The path of a picture's file, links resolved; names of one file have the same."""
        return self._key(picture, os.curdir)

    @property
    def lost_detail(self) -> str:
        """What the file holds where a picture has several captions; "" where it holds all."""
        return self._format.detail()

    def check(self, provenance: Provenance) -> None:
        """Say what makes the captions that follow. This changes nothing on the disk.

        Raises:
            OptionError: the file holds captions that another model or other options made.
        """
        if self._known:
            self._compare(provenance)
        self._provenance = provenance

    def begin(self) -> None:
        """Make the file ready for further rows: remove those of former runs if they are to be overwritten, and mend
        the last row.

        Raises:
            OptionError: it cannot be written.
        """
        try:
            self._mend()
        except OSError as error:
            raise self._cannot_write(error) from None
        if self._provenance is not None and (self._overwrite or self._moved or not self._stored or not self._known):
            self._write_sidecar(self._provenance)
        self._begun = True

    def write(self, caption: Caption) -> None:
        """Append a caption. One of a picture that the file has is left out.

        Raises:
            OptionError: the file cannot be written; the rows before stay whole.
        """
        if not self._begun:
            self.begin()
        key = self.place_of(caption.image)
        if key in self._known:
            return
        header = "" if self._end else self._format.header()
        self._append(header + self._format.row(caption, self._stored_name(caption.image)))
        self._known.add(key)

    def close(self) -> None:
        """Close the file, which ends the lock. A file of this run that holds nothing is removed."""
        if self._descriptor < 0:
            return
        try:
            if self._created and not os.fstat(self._descriptor).st_size:
                self._place.unlink(missing_ok=True)
                self._sidecar.unlink(missing_ok=True)
        except OSError:
            pass  # it is empty, and stays
        finally:
            os.close(self._descriptor)
            self._descriptor = -1

    def _open(self) -> tuple[int, bool]:
        opened = open_locked(self._place)
        if opened is None:
            raise OptionError(
                f"{self.path}: is being written by another run", remedy="wait for it, or give another --output"
            )
        return opened

    # Reading.

    def _read(self) -> Scan:
        previous: list[str] = [""]
        twice: list[str] = []

        def found(stored: str) -> None:
            name = _local(stored)
            if name == previous[0] and is_text and not self._stored:
                raise ForeignRowsError(f"several captions of {name}, as files of reference captions have")
            if not previous[0]:
                self._settle_folder(name)
            previous[0] = name
            key = self._key(name, self._folder)
            if key in self._known:
                twice.append(name)
            self._known.add(key)

        is_text = self.path.suffix.lower() == ".txt"  # a table of references has other columns
        try:
            with self._place.open("rb") as file:
                scan = self._format.scan(file, found, model=str(self._stored.get("model", "")))
        except ForeignRowsError as error:
            raise OptionError(
                f"{self.path}: holds lines that are no captions of this program ({error})",
                remedy="give another --output",
            ) from None
        except OSError as error:
            raise self._cannot_write(error) from None
        if self._overwrite:
            self._known.clear()
        elif twice:
            self.notes.append(
                f"{self.path}: has more than one row of {len(set(twice))} pictures, the first is {twice[0]}; keep one "
                "row of each"
            )
        self._end = scan.end
        return scan

    def _key(self, name: str, folder: str) -> str:
        """The resolved path of a picture; folders are resolved once each."""
        parent, base = os.path.split(os.path.join(folder, name))  # noqa: PTH118 - the base may be ".."
        path = os.path.join(self._real_folder(parent), base)  # noqa: PTH118
        return os.path.realpath(path) if os.path.islink(path) else path  # noqa: PTH114

    def _real_folder(self, folder: str) -> str:
        if folder not in self._real_folders:
            try:
                self._real_folders[folder] = os.path.realpath(folder)
            except ValueError:  # a null character or a lone surrogate: no file has that name
                self._real_folders[folder] = folder
        return self._real_folders[folder]

    def _stored_folder(self) -> str:
        """The folder that relative names in the file are relative to: the one in which the first run was started. It is
        stored relative to the file, so that all of it can be moved together."""
        folder = self._stored.get("folder")
        if isinstance(folder, str):
            path = os.path.normpath(self._place.parent / folder)
            if os.path.isdir(path):  # noqa: PTH112
                return path
        return os.curdir

    def _settle_folder(self, name: str) -> None:
        """Take the present folder where the file was moved alone, so that its names hold from here."""
        if Path(self._folder, name).exists() or not Path(name).exists():
            return
        self._folder = os.curdir
        self._moved = True

    def _folder_beside(self) -> str:
        """The folder that relative names count from, relative to the file."""
        return os.path.relpath(self._folder, self._place.parent)

    def _stored_name(self, image: str) -> str:
        if Path(image).is_absolute() or self._real_folder(self._folder) == self._real_folder(os.curdir):
            return _portable(image)
        return _portable(os.path.relpath(image, self._folder))

    # Provenance.

    def _read_sidecar(self) -> dict[str, Any]:
        try:
            if self._sidecar.stat().st_size > 1 << 20:
                raise ValueError("it is too large")
            stored = json.loads(self._sidecar.read_bytes())
            if not isinstance(stored, dict):
                raise ValueError("it is no object")
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError) as error:
            self.notes.append(f"{self._sidecar}: cannot be read ({error}); it is written again")
            return {}
        return stored

    def _compare(self, provenance: Provenance) -> None:
        differences = provenance.differences(self._stored) if self._stored else []
        models = self._scan.models
        if not differences and models and provenance.model not in models and self._stored.get("model") not in models:
            differences = [f"model {_listed(sorted(models))}, not {provenance.model}"]
        if differences:
            raise OptionError(
                f"{self.path}: holds captions of another run: {'; '.join(differences)}",
                remedy="start again with --overwrite, or give another --output",
            )
        if not self._stored:
            known = "which options" if models else "which model and options"
            self.notes.append(
                f"{self.path}: nothing says {known} made its captions; going on with model {provenance.model}"
            )

    def _write_sidecar(self, provenance: Provenance) -> None:
        content = provenance.as_dict()
        try:
            content["folder"] = self._folder_beside()
            remove_stale(self._place.parent)
            with written_whole(self._sidecar) as partial:
                partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            self.notes.append(f"{self._sidecar}: cannot be written ({reason}); a later run cannot compare its options")

    # Writing.

    def _mend(self) -> None:
        """Remove former rows that are not to stay, and close the last row that is."""
        size = os.fstat(self._descriptor).st_size
        if self._overwrite:
            self._end = 0
        elif self._end < size:
            os.lseek(self._descriptor, self._end, os.SEEK_SET)
            lost = os.read(self._descriptor, 200).decode("utf-8", "replace")
            self.notes.append(f"{self.path}: a last line that is not whole is removed: {lost[:60].strip()!r}")
        if self._end < size:
            os.ftruncate(self._descriptor, self._end)
        if self._end and not self._scan.closed and not self._overwrite:
            self._append("\n")

    def _append(self, text: str) -> None:
        data = text.encode("utf-8", "surrogateescape")
        try:
            append_whole(self._descriptor, data, at=self._end)
        except OSError as error:
            raise self._cannot_write(error) from None
        self._end += len(data)

    def _cannot_write(self, error: OSError) -> OptionError:
        return OptionError(f"{self.path}: cannot be written ({error.strerror or error})")


def _portable(name: str) -> str:
    """A file's name as it is stored: its bytes as UTF-8, whatever the locale is in which Python decoded them."""
    try:
        return os.fsencode(name).decode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # no file has that name
        return name


def _local(name: str) -> str:
    """The inverse of `_portable`."""
    try:
        return os.fsdecode(name.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:
        return name


def _listed(names: list[str]) -> str:
    """Names with commas between them, and "or" before the last."""
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1]))) if names else ""
