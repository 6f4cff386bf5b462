"""The metadata of a model file, read and validated without torch.

A model file is a safetensors file: eight bytes with the length of a JSON header, the header, the weights. The header's
``__metadata__`` holds the format's name and version, and under "model" the JSON text of the configuration, the
vocabulary and "about": training, scores and defaults. `captioner.metadata` validates them.

A file may lack the weights of its encoder, and of its refiner. It then names, under "shares", the model file that has
them, and that file's digest; the file lies beside it or in the folder above.
"""

from __future__ import annotations

import json
import os
import struct

from captioner.errors import CaptionerError, CheckpointError, one_line
from captioner.foreign import describe, is_foreign
from captioner.metadata import FORMAT_VERSION, Header, parse, validated
from captioner.sharing import is_shared_name, places_of

TYPE_CHECKING = False  # here and below: 'captioner models' does without what takes longer to import than to list them
if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Any, cast
else:

    def cast(kind, value):
        return value


FORMAT = "captioner"
OLDEST_VERSION = 1

_MOST_HEADER = 64 << 20  # bytes; ours have some hundred kilobytes
_DAMAGE = (CaptionerError, AttributeError, KeyError, TypeError, ValueError, OverflowError, RecursionError)
"""What validation raises on metadata that this program did not write."""


def read_summary(path: str | Path) -> dict[str, Any]:
    """What a model file holds under "model": "config", "vocabulary" and "about", of which nothing is validated.

    Raises:
        CheckpointError: the file is missing, damaged, not of this program, or of another version of the format.
    """
    _, model, _, _ = _read_model(os.fspath(path))
    return model


def read_header(path: str | Path) -> Header:
    """Read and validate the metadata of a model file, or of an exported folder, without the weights.

    Of a folder in the form of transformers it is what `captioner.foreign.describe` returns.

    Raises:
        CheckpointError: the file is missing, damaged, not of this program, or of another version of the format.
    """
    from pathlib import Path

    path = Path(path)
    if os.path.isfile(path / EXPORTED):  # noqa: PTH113
        if is_foreign(path):
            return cast("Header", describe(path))
        return read_exported(path)
    header, shares = _read_file(path)
    if shares is not None:
        header["shared"] = _find_shared(os.fspath(path), shares)
    return header


def _read_file(path: Path) -> tuple[Header, Any]:
    """The header of a model file as if it shared nothing, and what it says of that; None for nothing."""
    from hashlib import sha256

    content, model, version, start = _read_model(os.fspath(path))
    canonical = json.dumps(content, sort_keys=True).encode()  # safetensors writes its metadata in any order
    del content["__metadata__"]
    try:
        header = validated(model, version, sha256(canonical).hexdigest(), tensors=content, start=start)
    except _DAMAGE as error:
        raise damaged(path, error) from None
    return header, model.get("shares")


def _find_shared(path: str, shares: Any) -> tuple[str, Header]:
    """The path and the header of the file that has the encoder and the refiner of the one at ``path``."""
    from pathlib import Path

    name = _shared_name(path, shares)
    found = places_of(name, path)
    for file in found:
        try:
            header, others = _read_file(Path(file))
        except CheckpointError:  # something else of this name
            continue
        if header["digest"] == shares.get("digest") and others is None:
            return file, header
    if found:
        what, remedy = f"is that of another file than {found[0]}", "get both files from one place"
    else:
        what, remedy = f"is in {name}, which is neither beside it nor in the folder above", "put that file there"
    raise CheckpointError(f"{path}: its encoder {what}", remedy=remedy)


def _shared_name(path: str, shares: Any) -> str:
    name = shares.get("file") if isinstance(shares, dict) else None
    if not is_shared_name(name):
        raise damaged(path, f"it shares weights with {name!r:.60}")
    return name


def shared_files(path: str | Path) -> list[str]:
    """The files that a model file may share weights with; none where it is no model file that shares any."""
    try:
        model = read_summary(path)
        return places_of(_shared_name(os.fspath(path), model["shares"]), os.fspath(path)) if "shares" in model else []
    except CheckpointError:
        return []


def _read_model(path: str) -> tuple[dict[str, Any], dict[str, Any], int, int]:
    """The header, what it holds under "model", the version of its format, and where the header ends."""
    content, start = _read_json(path)
    metadata = content.get("__metadata__")
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise CheckpointError(f"{path}: a safetensors file, but not a model of captioner")
    version = str(metadata.get("version"))
    if version not in [str(known) for known in range(OLDEST_VERSION, FORMAT_VERSION + 1)]:
        raise CheckpointError(
            f"{path}: format version {version[:20]}; this captioner reads {OLDEST_VERSION} to {FORMAT_VERSION}",
            remedy="use the captioner that wrote it, or train the model again",
        )
    try:
        return content, parse(metadata["model"]), int(version), start
    except _DAMAGE as error:
        raise damaged(path, error) from None


def require_captions(header: Header, path: object) -> None:
    """Raises CheckpointError for the header of an answering model."""
    if header["answers"]:
        raise CheckpointError(
            f"{path}: a model that answers questions, and makes no captions", remedy="'captioner ask' runs it"
        )


def require_answers(header: Header, path: object) -> None:
    """Raises CheckpointError for the header of a captioning model."""
    if not header["answers"]:
        raise CheckpointError(
            f"{path}: a model that makes captions, and answers no questions", remedy="'captioner caption' runs it"
        )


EXPORTED = "config.json"
"""The file by which an exported folder is known."""
EXPORTED_FORMAT = "captioner-exported"
EXPORTED_VERSION = 1


def read_exported(folder: str | Path) -> Header:
    """What an exported folder says about its model; see `captioner.export.folder`.

    Raises:
        CheckpointError: its ``config.json`` is missing, damaged, not of this program, or of another version.
    """
    from pathlib import Path

    path = Path(folder) / EXPORTED
    try:
        if path.stat().st_size > _MOST_HEADER:
            raise ValueError(f"{path.stat().st_size} bytes")
        model = parse(path.read_text(encoding="utf-8"))
        if model.get("format") != EXPORTED_FORMAT:
            raise ValueError(f"its format is {str(model.get('format'))[:40]!r}, not {EXPORTED_FORMAT!r}")
        if model.get("version") != EXPORTED_VERSION:
            raise ValueError(f"its version is {str(model.get('version'))[:20]!r}, not {EXPORTED_VERSION}")
        digest = model["digest"]
        if not isinstance(digest, str):
            raise TypeError("its digest is no text")
        return validated(model, FORMAT_VERSION, digest, tensors={}, start=0)
    except FileNotFoundError:
        raise CheckpointError(f"{folder}: a folder without {EXPORTED}, so not an exported model") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    except _DAMAGE as error:
        raise damaged(path, error) from None


def damaged(path: str | Path, error: object) -> CheckpointError:
    """The error of a model file whose content does not fit."""
    return CheckpointError(f"{path}: damaged, or made by another version ({one_line(error)})")


def _read_json(path: str) -> tuple[dict[str, Any], int]:
    """The header, and where it ends."""
    if not os.path.isfile(path):  # noqa: PTH113
        raise CheckpointError(f"{path}: no such model file")
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            size = os.fstat(file.fileno()).st_size
            (length,) = struct.unpack("<Q", file.read(8))
            if not 2 <= length <= min(_MOST_HEADER, size - 8):
                raise ValueError(f"a header of {length} bytes in a file of {size}")
            raw = file.read(length)
        content = json.loads(raw)
        if not isinstance(content, dict):
            raise TypeError("the header is no object")
        _check_tensors(content, size - 8 - length)
    except PermissionError:
        raise CheckpointError(f"{path}: not permitted to read it") from None
    except (OSError, struct.error, *_DAMAGE) as error:
        raise CheckpointError(f"{path}: not a whole safetensors file ({' '.join(str(error).split())[:120]})") from None
    return content, 8 + length


def _check_tensors(content: Mapping[str, Any], size: int) -> None:
    """The weights lie within the file."""
    for name, tensor in content.items():
        if name != "__metadata__":
            begin, end = tensor["data_offsets"]
            if not 0 <= begin <= end <= size:
                raise ValueError(f"the weights {name[:60]} end at byte {end} of {size}: the file is cut short")
