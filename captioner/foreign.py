"""Models in the form of transformers: finding them, and what their files say, without torch or transformers.

Such a model is a folder with a ``config.json`` that has a "model_type", or a repository of the Hugging Face hub, which
is fetched once into the hub's own cache. `captioner.backends.huggingface` runs it.
"""

from __future__ import annotations

import json
import os
from contextlib import contextmanager

from captioner.errors import CheckpointError, OptionError, one_line

TYPE_CHECKING = False  # 'captioner models' does without what takes longer to import than to list them
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path
    from typing import Any

PREFIX = "hf:"
EXTRA = "pip install 'captioner[hf]'"

_CONFIG = "config.json"
_OURS = "captioner"  # the model type in `captioner.hub`
_TEXTS = ("graphs/**", "*.json", "*.txt", "*.jinja", "*.model", "*.tiktoken")
_WEIGHTS = (".safetensors", ".bin")
_HASHED = (".json", ".txt", ".jinja", ".model", ".tiktoken")  # beside them
_MOST_CONFIG = 64 << 20  # bytes
_SAMPLE = 1 << 20  # bytes of a file of weights, at its beginning and its end
_WIDEST, _LONGEST = 100, 200  # of a beam and of a caption, as in our own files
_DEFAULT_LENGTH = 30  # pieces, where the model says nothing


def is_foreign(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a folder in the form of transformers.

    An exported folder of ours has a ``config.json`` too, and one in the form of the hub a model type of its own.
    """
    return _config(path).get("model_type") not in (None, "", _OURS)


def refuse_foreign(path: str | os.PathLike[str], what: str) -> None:
    """Raises OptionError for a model in the form of transformers, where ``what`` needs one of ours."""
    if is_foreign(path):
        raise OptionError(
            f"{os.fspath(path)}: {what} needs a model of ours, and this is one in the form of transformers",
            remedy="name a .safetensors file or a model that ships",
        )


def fetch(name: str) -> Path:
    """The folder of a model of the hub, fetched if the hub's cache lacks it; what is there is not looked up again.

    Args:
        name: "hf:owner/name", or "hf:owner/name@revision".

    Raises:
        CheckpointError: there is no such repository, or the hub cannot be reached and its cache has no such model.
        OptionError: huggingface_hub is not installed.
    """
    from pathlib import Path

    repository, _, revision = name.removeprefix(PREFIX).partition("@")
    if repository.count("/") != 1 or not all(repository.split("/")):
        raise CheckpointError(f"{name}: a model of the hub is {PREFIX}owner/name")
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ModuleNotFoundError:
        raise OptionError(f"{name} needs huggingface_hub, which is not installed", remedy=EXTRA) from None
    wanted: dict[str, Any] = {"repo_id": repository, "revision": revision or None}
    try:
        with _without_log("huggingface_hub"):  # which says each of its tries
            if (cached := _cached(wanted)) is not None:
                return cached
            files = huggingface_hub.list_repo_files(**wanted)
        # Weights in safetensors, and others only where there are none.
        ending = next((one for one in _WEIGHTS if any(file.endswith(one) for file in files)), _WEIGHTS[0])
        return Path(huggingface_hub.snapshot_download(**wanted, allow_patterns=[*_TEXTS, f"*{ending}"]))
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError) as error:
        raise CheckpointError(
            f"{name}: the hub has no such model, or you may not see it ({one_line(error)[:100]})",
            remedy="check the name, or log in with 'hf auth login'",
        ) from None
    except Exception as error:  # of the network, of the disk
        raise CheckpointError(
            f"{name}: cannot be fetched, and the hub's cache has no such model ({type(error).__name__})",
            remedy="try again with a connection, or give the path of a folder",
        ) from None


def _cached(wanted: Mapping[str, Any]) -> Path | None:
    """What the hub's cache has of a model; None where it lacks the configuration or weights."""
    from pathlib import Path

    import huggingface_hub
    from huggingface_hub import errors

    try:
        folder = Path(huggingface_hub.snapshot_download(**wanted, local_files_only=True))
    except errors.LocalEntryNotFoundError:
        return None
    files = {file.name for file in folder.rglob("*")}
    ending = next((one for one in _WEIGHTS if any(name.endswith(one) for name in files)), None)
    if _CONFIG not in files or ending is None:
        return None
    parts: set[str] = set()
    for index in folder.glob(f"*{ending}.index.json"):  # a download that was stopped may lack some of its parts
        try:
            parts.update(json.loads(index.read_bytes())["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
    return folder if parts <= files else None


@contextmanager
def _without_log(name: str) -> Iterator[None]:
    """Inside, a library's logger is silent but for what is critical."""
    import logging

    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def parse_heads(text: str) -> list[tuple[int, int | None]]:
    """Attention heads: "3" is all of layer 3, "3:0" its first, "-1" all of the last layer; several with commas.

    Raises:
        OptionError: the text has another form.
    """
    found: list[tuple[int, int | None]] = []
    for part in text.split(",") if text else ():
        layer, colon, head = (one.strip() for one in part.partition(":"))
        digits = layer.removeprefix("-")
        if not (digits.isdecimal() and digits.isascii()) or (colon and not (head.isdecimal() and head.isascii())):
            raise OptionError(
                f"heads to make maps of are LAYER or LAYER:HEAD, not '{part.strip():.40}'",
                remedy="--map-heads 5 or --map-heads 4:0,5:2",
            )
        found.append((int(layer), int(head) if colon else None))
    return found


def name_of(path: Path) -> str:
    """What a model is called: "owner/name" for one of the hub, the folder's name for another folder, else the name of
    the file without its ending."""
    path = path if path.name not in ("", "..") else path.resolve()
    parts = path.parts if path.is_dir() else path.parent.parts
    if len(parts) >= 3 and parts[-2] == "snapshots" and parts[-3].startswith("models--"):
        return parts[-3].removeprefix("models--").replace("--", "/")
    return path.name if is_foreign(path) else path.stem


def describe(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """What a folder says about its model, as `captioner.metadata.Header` has it.

    "config" has the model's type as encoder and decoder; "about" has decoding options that mean what those of the
    model's generation mean; the vocabulary is the tokeniser's.

    Raises:
        CheckpointError: its ``config.json`` cannot be read.
    """
    config = _config(folder)
    kind = str(config.get("model_type"))[:40]
    inside = config.get("decoder") or config.get("text_config") or {}
    decoder = str(inside.get("model_type", kind))[:40] if isinstance(inside, dict) else kind
    outside = config.get("encoder") or config.get("vision_config") or {}
    encoder = str(outside.get("model_type", kind))[:40] if isinstance(outside, dict) else kind
    return {
        "config": {"encoder": {"backbone": encoder or kind}, "refiner": {}, "decoder": {"kind": decoder or kind}},
        "vocabulary": _words(folder),
        "answers": [],
        "about": {"model_type": kind, "decoding": _decoding(config, _read(folder, "generation_config.json"))},
        "version": 0,
        "digest": _digest(folder),
        "renamed": [],
        "tensors": {},
        "start": 0,
        "shared": None,
    }


def _decoding(config: Mapping[str, Any], generation: Mapping[str, Any]) -> dict[str, Any]:
    """Options of `captioner.options.Beam` from those of the model's own ``generate``, within our bounds."""
    values = {**config, **generation}

    def number(name: str, low: float, high: float) -> Any:
        value: Any = values.get(name)
        good = isinstance(value, (int, float)) and not isinstance(value, bool) and value >= low
        if not good or not (name == "length_penalty" or value == value // 1):
            return None
        return min(value, high) if name == "length_penalty" else int(min(value, high))

    given = {
        "width": number("num_beams", 1, _WIDEST),
        "max_length": number("max_new_tokens", 1, _LONGEST) or _without_start(number("max_length", 2, _LONGEST)),
        "min_length": number("min_new_tokens", 0, _LONGEST),
        "length_penalty": number("length_penalty", 0, 5),
        "no_repeat_ngram": number("no_repeat_ngram_size", 0, _LONGEST),
    }
    found = {"width": 1, "max_length": _DEFAULT_LENGTH, "min_length": 1, "length_penalty": 1.0}
    found |= {name: value for name, value in given.items() if value is not None}
    return found | {"min_length": min(found["min_length"], found["max_length"])}


def _without_start(length: int | None) -> int | None:
    """A length of ``generate``, which counts the start token, as one of words."""
    return None if length is None else length - 1


def _config(folder: str | os.PathLike[str]) -> dict[str, Any]:
    return _read(folder, _CONFIG)


def _read(folder: str | os.PathLike[str], name: str) -> dict[str, Any]:
    """A JSON object in a folder; empty where there is none."""
    path = os.path.join(os.fspath(folder), name)  # noqa: PTH118
    try:
        if os.stat(path).st_size > _MOST_CONFIG:  # noqa: PTH116
            return {}
        with open(path, encoding="utf-8") as file:  # noqa: PTH123
            found = json.load(file)
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _words(folder: str | os.PathLike[str]) -> list[str]:
    """The pieces of a folder's tokeniser, after our special words; none where its file is of another kind."""
    from captioner.tokenizer.vocabulary import SPECIAL

    stored = _read(folder, "tokenizer.json").get("model")
    pieces = stored.get("vocab") if isinstance(stored, dict) else None
    if isinstance(pieces, list):
        pieces = [one[0] for one in pieces if isinstance(one, list) and one]
    found = dict.fromkeys(piece for piece in pieces or () if isinstance(piece, str) and piece not in SPECIAL)
    return [*SPECIAL, *found]


def _digest(folder: str | os.PathLike[str]) -> str:
    """SHA-256 of the folder's texts, and of the size, beginning and end of each file of weights, which may have
    gigabytes."""
    from hashlib import sha256

    total = sha256()
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if not entry.is_file() or not entry.name.endswith((*_HASHED, *_WEIGHTS)):
            continue
        size = entry.stat().st_size
        total.update(f"{entry.name} {size}\n".encode())
        with open(entry.path, "rb") as file:  # noqa: PTH123
            total.update(file.read(_SAMPLE))
            file.seek(max(0, size - _SAMPLE))
            total.update(file.read(_SAMPLE))
    return total.hexdigest()
