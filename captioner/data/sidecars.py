"""Captions in files beside their pictures: the forms of such files, and how a new caption joins what one holds."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from captioner.errors import DataError, OptionError
from captioner.registry import Registry

EXISTING = ("skip", "overwrite", "append", "prepend")


@dataclass(frozen=True, kw_only=True)
class Join:
    """What becomes of a text that is there.

    Attributes:
        existing: "skip" leaves it, "overwrite" replaces it, "append" and "prepend" put the caption behind or before it.
        separator: stands between the two.

    Raises:
        OptionError: ``existing`` is something else.
    """

    existing: str = "skip"
    separator: str = ", "

    def __post_init__(self) -> None:
        if self.existing not in EXISTING:
            raise OptionError(f"--existing is '{self.existing}'", remedy=f"give one of {', '.join(EXISTING)}")

    def __call__(self, former: str | None, caption: str) -> str | None:
        """The text to write, or None where nothing is to change.

        A caption that was appended before is not appended again, so that a run that was stopped can be repeated.

        Args:
            former: the text that is there; None where there is none.
            caption: the new one.
        """
        if former is None:
            return caption
        if self.existing == "skip" or former == caption:
            return None
        if self.existing == "overwrite" or not former.strip():
            return caption
        if self.existing == "append":
            added = self.separator + caption
            return None if former.endswith(added) else former + added
        added = caption + self.separator
        return None if former.startswith(added) else added + former


class SidecarForm(Protocol):
    """A form of sidecars."""

    def is_complete(self, content: bytes | None) -> bool:
        """Whether a file that is there leaves nothing to add. ``content`` is None where the form does not need it.

        Raises:
            DataError: the file holds something else.
        """
        ...

    def merged(self, content: bytes | None, text: str, facts: Mapping[str, Any], join: Join) -> bytes | None:
        """The file with a caption in it, or None where nothing is to change.

        Args:
            content: of the file that is there; None where there is none.
            text: the caption.
            facts: all that is known of the caption, as `captioner.results.Caption.as_dict` has it.
            join: how the caption joins what is there.

        Raises:
            DataError: the file holds something else, which would be lost.
        """
        ...

    def captions(self, path: Path) -> list[str]:
        """The captions that a file holds. Raises DataError."""
        ...

    @property
    def needs_content(self) -> bool:
        """Whether `is_complete` looks into the file."""
        ...


SIDECARS: Registry[type[SidecarForm]] = Registry("form of sidecars")
"""Forms of sidecars by the ending of their files."""


@SIDECARS.register(".txt")
@SIDECARS.register(".caption")
class TextSidecar:
    """A caption a line, in UTF-8. Only the best caption of a picture is written."""

    needs_content = False

    def is_complete(self, content: bytes | None) -> bool:
        """See `SidecarForm`."""
        return True

    def merged(self, content: bytes | None, text: str, facts: Mapping[str, Any], join: Join) -> bytes | None:
        """See `SidecarForm`."""
        former = None if content is None else _decoded(content).rstrip("\r\n")
        found = join(former, " ".join(text.splitlines()))
        return None if found is None else f"{found}\n".encode("utf-8", "replace")

    def captions(self, path: Path) -> list[str]:
        """See `SidecarForm`."""
        return [line.strip() for line in _read(path).splitlines() if line.strip()]


@SIDECARS.register(".json")
class JsonSidecar:
    """The object of ``--json``. Keys of others stay; ``caption`` joins the one that is there.

    A file with ``captions``, which are read in place of ``caption``, is no sidecar of this program.
    """

    needs_content = True

    def is_complete(self, content: bytes | None) -> bool:
        """See `SidecarForm`."""
        _object(content or b"", ("caption", "captions"))
        return True

    def merged(self, content: bytes | None, text: str, facts: Mapping[str, Any], join: Join) -> bytes | None:
        """See `SidecarForm`."""
        former = None if content is None else _object(content)
        if former is not None and former.get("captions") is not None:
            raise DataError("holds 'captions' beside 'caption', and stays as it is", remedy="give another ending")
        found = join(None if former is None else former["caption"], text)
        if found is None:
            return None
        values = {**(former or {}), **facts, "caption": found}
        return f"{json.dumps(values)}\n".encode()

    def captions(self, path: Path) -> list[str]:
        """See `SidecarForm`."""
        values = self.values(path)
        several = values.get("captions")
        found = [values.get("caption")] if several is None else several
        if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
            raise DataError(f"{path}: 'caption' is no text, or 'captions' no list of texts")
        return list(found)

    def values(self, path: Path) -> dict[str, Any]:
        """The object of a file. Raises DataError."""
        try:
            values = json.loads(_read(path))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: no JSON ({error})") from None
        if not isinstance(values, dict):
            raise DataError(f"{path}: not a JSON object")
        return values


def _read(path: Path) -> str:
    try:
        return _decoded(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    except DataError as error:
        raise DataError(f"{path} {error}") from None


def _decoded(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError("is not UTF-8, and stays as it is", remedy="save it as UTF-8") from None


_KINDS = {"caption": str, "captions": list}


def _object(content: bytes, keys: tuple[str, ...] = ("caption",)) -> dict[str, Any]:
    """The object in a file, one of whose keys has a caption, or captions. Raises DataError."""
    try:
        values = json.loads(_decoded(content))
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict) or not any(isinstance(values.get(key), _KINDS[key]) for key in keys):
        raise DataError("holds no object with a caption, and stays as it is", remedy="give another ending")
    return values
