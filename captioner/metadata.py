"""The fields of a model file's metadata, validated without torch: every field may come from a stranger.

They are validated here and nowhere else; `captioner.header` reads the files.
"""

from __future__ import annotations

import json
import math

from captioner.old_names import current_names

TYPE_CHECKING = False  # as in `captioner.header`
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, NoReturn, TypedDict

    from captioner.options import Beam
else:
    TypedDict = dict

FORMAT_VERSION = 2

_MOST_WORDS = 1_000_000
_WIDEST_STORED_BEAM = 100
_LONGEST_STORED_CAPTION = 200
_LARGEST_NUMBER = 100_000  # beyond every width or side: what is larger would fill the memory first
_LONGEST_OPTION = 200  # characters
MOST_MEMBERS = 16
"""The most decoders of an ensemble."""
_MOST_LAYERS = 200  # each takes time to make, also where the weights of none are there


class Header(TypedDict):
    """The metadata of a model file: plain values.

    Keys:
        config: values of `captioner.model.caption_model.ModelConfig`: "encoder", "refiner", "decoder"; or of
            `captioner.model.answer_model.AnswerConfig`: "encoder", "refiner", "answerer". A captioning model may have
            a "reranker".
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


def parse(text: Any) -> dict[str, Any]:
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


def validated(model: Mapping[str, Any], version: int, digest: str, *, tensors: dict[str, Any], start: int) -> Header:
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
    if "reranker" in config:
        _check_part("reranker", config["reranker"])
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
        if part == "decoder" and name == "members":
            if not isinstance(value, list) or not 1 <= len(value) <= MOST_MEMBERS:
                raise ValueError(f"the decoder's 'members' are {value!r:.60}, not up to {MOST_MEMBERS} decoders")
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
