"""The metadata of a model file, read and validated without torch.

A model file is a safetensors file: eight bytes with the length of a JSON header, the header, the weights. The header's
``__metadata__`` holds the format's name and version, and under "model" the JSON text of the configuration, the
vocabulary and "about": training, scores and defaults. Every field may come from a stranger. It is validated here and
nowhere else.

A file may lack the weights of its encoder, and of its refiner. It then names, under "shares", the model file that has
them, and that file's digest; the file lies beside it or in the folder above.
"""

from __future__ import annotations

import json
import math
import os
import struct

from captioner.errors import CaptionerError, CheckpointError, one_line
from captioner.foreign import describe, is_foreign
from captioner.old_names import current_names
from captioner.sharing import is_shared_name, places_of

TYPE_CHECKING = False  # here and below: 'captioner models' does without what takes longer to import than to list them
if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Any, NoReturn, TypedDict, cast

    from captioner.options import Beam
else:
    TypedDict = dict

    def cast(kind, value):
        return value


FORMAT = "captioner"
FORMAT_VERSION = 2
OLDEST_VERSION = 1

_MOST_HEADER = 64 << 20  # bytes; ours have some hundred kilobytes
_MOST_WORDS = 1_000_000
_WIDEST_STORED_BEAM = 100
_LONGEST_STORED_CAPTION = 200
_LARGEST_NUMBER = 100_000  # beyond every width or side: what is larger would fill the memory first
_LONGEST_OPTION = 200  # characters
MOST_MEMBERS = 16
"""The most decoders of an ensemble."""
_MOST_LAYERS = 200  # each takes time to make, also where the weights of none are there


_DAMAGE = (CaptionerError, KeyError, TypeError, ValueError, OverflowError, RecursionError)
"""What validation raises on metadata that this program did not write."""


class Header(TypedDict):
    """The metadata of a model file: plain values.

    Keys:
        config: values of `captioner.model.caption_model.ModelConfig`: "encoder", "refiner", "decoder"; or of
            `captioner.model.answer_model.AnswerConfig`: "encoder", "refiner", "answerer".
        vocabulary: its words, as `captioner.tokenizer.vocabulary.Vocabulary` takes them.
        answers: of an answering model, those that it chooses from; of a captioning model none.
        about: the training data, the recipe and the scores; decoding options under "decoding", map options under
            "maps".
        version: of the format that the file was written in.
        digest: SHA-256 of the file's header with its keys in order, hexadecimal. In files of version 2 the header holds
            a digest of the weights, so that this digest identifies the whole model.
        renamed: options of the configuration that the file has under former names, each with its present name.
        tensors: by name "dtype", "shape" and "data_offsets", as in the safetensors format.
        start: the byte of the file that offsets count from.
        shared: the path and the header of the model file that has its encoder; None if it has its own.
    """

    config: dict[str, Any]
    vocabulary: list[str]
    answers: list[str]
    about: dict[str, Any]
    version: int
    digest: str
    renamed: list[str]
    tensors: dict[str, dict[str, Any]]
    start: int
    shared: tuple[str, Header] | None


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
    if (path / EXPORTED).is_file():
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
        header = _validated(model, version, sha256(canonical).hexdigest(), tensors=content, start=start)
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
        return content, _parse(metadata["model"]), int(version), start
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
        model = _parse(path.read_text(encoding="utf-8"))
        if model.get("format") != EXPORTED_FORMAT:
            raise ValueError(f"its format is {str(model.get('format'))[:40]!r}, not {EXPORTED_FORMAT!r}")
        if model.get("version") != EXPORTED_VERSION:
            raise ValueError(f"its version is {str(model.get('version'))[:20]!r}, not {EXPORTED_VERSION}")
        digest = model["digest"]
        if not isinstance(digest, str):
            raise TypeError("its digest is no text")
        return _validated(model, FORMAT_VERSION, digest, tensors={}, start=0)
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


def _parse(text: Any) -> dict[str, Any]:
    if not isinstance(text, str):
        raise TypeError("its description is no text")
    model = json.loads(text, parse_constant=_no_constant, parse_float=_finite)
    if not isinstance(model, dict):
        raise TypeError("its description is no object")
    return model


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"its description holds {name}, which is no number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"its description holds {text[:40]}, which is too large")
    return value


def _validated(model: Mapping[str, Any], version: int, digest: str, *, tensors: dict[str, Any], start: int) -> Header:
    from captioner.tokenizer.vocabulary import LONGEST_WORD, Vocabulary, is_word

    config, words, about = model.get("config"), model.get("vocabulary"), model.get("about")
    for name, value, kind in (("config", config, dict), ("vocabulary", words, list), ("about", about, dict)):
        if not isinstance(value, kind):
            raise TypeError(f"its {name} is {'missing' if value is None else f'a {type(value).__name__}'}")
    assert isinstance(config, dict) and isinstance(words, list) and isinstance(about, dict)
    if len(words) > _MOST_WORDS:
        raise ValueError(f"{len(words)} words are more than {_MOST_WORDS}")
    for word in words:
        if not is_word(word):
            raise TypeError(f"{word!r:.60} is no word for a vocabulary: text of 1 to {LONGEST_WORD} characters")
    renamed: list[str] = []
    if version < FORMAT_VERSION:
        config, renamed = current_names(config)
    answering = "answerer" in config or bool(model.get("answers"))
    answers = _checked_answers(model.get("answers")) if answering else []
    for part in ("encoder", "refiner", "answerer" if answering else "decoder"):
        _check_part(part, config.get(part))
    _check_about(about)
    Vocabulary(tuple(words))  # refuses words that are not in place or not unique
    return Header(
        config=config,
        vocabulary=words,
        answers=answers,
        about=about if answering else _with_longest(about, config["decoder"]),
        version=version,
        digest=digest,
        renamed=renamed,
        tensors=tensors,
        start=start,
        shared=None,
    )


def _checked_answers(answers: Any) -> list[str]:
    """The answers of an answering model, which are texts that are not blank and without controls, each once."""
    from captioner.tokenizer.vocabulary import LONGEST_WORD, is_word

    if not isinstance(answers, list) or not 1 <= len(answers) <= _MOST_WORDS:
        raise TypeError("its answers are no list of texts")
    for answer in answers:
        if not is_word(answer) or not answer.strip():
            raise TypeError(f"{answer!r:.60} is no answer: text of 1 to {LONGEST_WORD} characters")
    if len(set(answers)) != len(answers):
        raise ValueError("an answer is there twice")
    return answers


def _check_part(part: str, values: Any) -> None:
    """Options are plain values: finite numbers within reason, texts, or lists and tables of these."""
    if not isinstance(values, dict):
        raise TypeError(f"its {part} is {'missing' if values is None else f'a {type(values).__name__}'}")
    for name, value in values.items():
        if part == "decoder" and name == "members" and isinstance(value, list) and len(value) <= MOST_MEMBERS:
            for one in value:  # of an ensemble, which has none in it
                _check_part("member", one)
            continue
        if part == "member" and name == "refiner":
            _check_part("member's refiner", value)
            continue
        if not _is_plain(value) or (name == "layers" and _is_number(value) and value > _MOST_LAYERS):
            raise ValueError(f"the {part}'s {name[:60]!r} is {value!r:.60}")


def _is_plain(value: Any, depth: int = 0) -> bool:
    if isinstance(value, list):
        return depth < 3 and len(value) <= 1000 and all(_is_plain(one, depth + 1) for one in value)
    if isinstance(value, dict):  # options of a part's part, which are plain themselves
        return depth < 1 and len(value) <= 100 and all(_is_plain(one, depth + 1) for one in (*value, *value.values()))
    if isinstance(value, str):
        return len(value) <= _LONGEST_OPTION
    if isinstance(value, bool) or value is None:
        return True
    return _is_number(value) and abs(value) <= _LARGEST_NUMBER  # an integer may be too large for a float


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -math.inf < value < math.inf


def _check_about(about: Mapping[str, Any]) -> None:
    from captioner.options import Beam, MapOptions

    for name in ("decoding", "maps", "test", "dev", "recipe"):
        if not isinstance(about.get(name, {}), dict):
            raise TypeError(f"about.{name} is a {type(about[name]).__name__}")
    for name in ("earlier", "teacher"):
        recipes = about.get(name, [])
        if not isinstance(recipes, list) or not all(isinstance(one, dict) for one in recipes):
            raise TypeError(f"about.{name} is no list of recipes")
    beam = Beam(**about.get("decoding", {}))
    if not can_store(beam):
        raise ValueError(f"about.decoding asks for a beam of {beam.width} and {beam.max_length} words")
    MapOptions.stored(dict(about))
    for method, values in about.get("maps", {}).items():
        if method != "explain":
            MapOptions(explain=method, **values)
    for split in ("dev", "test"):
        for name in ("scores", "counts"):
            values, most = about.get(split, {}).get(name, {}), _LARGEST_NUMBER if name == "scores" else 2**53
            if not isinstance(values, dict) or not all(
                _is_number(value) and abs(value) <= most for value in values.values()
            ):
                raise TypeError(f"about.{split}.{name} are no numbers by name")


def _with_longest(about: dict[str, Any], decoder: Mapping[str, Any]) -> dict[str, Any]:
    """What a file says of its model, with the most words of a caption where the decoder reads fewer than we ask for."""
    from captioner.options import Beam

    decoding = about.get("decoding", {})
    members = decoder["members"] if decoder.get("kind") == "ensemble" else [decoder]
    positions = [one["max_length"] for one in members if type(one.get("max_length")) is int]
    longest = min(positions, default=0) - 1  # the start takes one
    if "max_length" in decoding or not 0 < longest < Beam().max_length:
        return about
    shortest = {"min_length": min(decoding["min_length"], longest)} if "min_length" in decoding else {}
    return {**about, "decoding": {**decoding, "max_length": longest, **shortest}}


def can_store(beam: Beam) -> bool:
    """Whether a model file may hold these options of decoding: what it asks for ends soon."""
    return beam.width <= _WIDEST_STORED_BEAM and beam.max_length <= _LONGEST_STORED_CAPTION
