"""What made a file of results: the model, how captions were searched, and what the maps are."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from captioner.foreign import describe, is_foreign

# Options of the command line that have other names.
_NAMES = {"width": "beam", "max_length": "max-words", "min_length": "min-words"}


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """The model and the options of a run, as far as they change what it writes.

    Attributes:
        model: its name.
        digest: SHA-256 of its file, see `digest_of`; "" where there is no file.
        decoding: options of the search by name.
        maps: options of the maps by name.
        texts: what is put before and after each caption, by name; "" for nothing.
    """

    model: str
    digest: str = ""
    decoding: Mapping[str, Any] = field(default_factory=dict)
    maps: Mapping[str, Any] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def differences(self, stored: Mapping[str, Any]) -> list[str]:
        """In what a stored provenance (`as_dict`) differs, a phrase each.

        Options that only one of the two knows, as after an update of the program, are not compared.
        """
        found = []
        name, digest = stored.get("model"), stored.get("digest")
        if self.digest and digest:
            if self.digest != digest:
                found.append(
                    f"model {name}, not {self.model}" if name != self.model else f"another file of model {name}"
                )
        elif name != self.model:
            found.append(f"model {name}, not {self.model}")
        for ours, theirs in ((self.decoding, stored.get("decoding")), (self.maps, stored.get("maps"))):
            for option, value in ours.items():
                if option == "delay" and isinstance(theirs, Mapping) and theirs.get("explain") != ours.get("explain"):
                    continue  # it follows from that
                if isinstance(theirs, Mapping) and option in theirs and theirs[option] != value:
                    found.append(f"{_NAMES.get(option, option.replace('_', '-'))} {theirs[option]}, not {value}")
        before = stored.get("texts")
        for option, value in self.texts.items():
            former = before.get(option, "") if isinstance(before, Mapping) else ""  # older versions had none
            if former != value:
                found.append(f"{option} '{former}', not '{value}'")
        return found


def digest_of(path: Path) -> str:
    """SHA-256 of a file, or of all files of a folder with their names, hexadecimal."""
    if is_foreign(path):  # may have gigabytes
        return str(describe(path)["digest"])
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    total = hashlib.sha256()
    for part in sorted(one for one in path.rglob("*") if one.is_file()):
        total.update(f"{part.relative_to(path).as_posix()} {digest_of(part)}\n".encode("utf-8", "surrogateescape"))
    return total.hexdigest()
