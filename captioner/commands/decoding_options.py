"""The options of commands that caption: what maps are made of, the search and its words; and the provenance of both."""

import argparse
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captioner.commands.steering_options import add_steering_options, steering
from captioner.errors import OptionError

if TYPE_CHECKING:
    from captioner.data.writers import Provenance
    from captioner.options import Greedy
    from captioner.pipeline import Captioner


_OF_WORDS = ("max_length", "min_length", "no_repeat_ngram")
"""The options that every search has."""


def add_decoding_options(parser: argparse.ArgumentParser) -> None:
    """Declare --explain, the options of decoding and those that steer the words."""
    parser.add_argument(
        "--explain",
        choices=("attention", "gradient", "occlusion"),
        help="what the maps are computed from; occlusion is slow. Default: what was measured best for the model",
    )
    search = parser.add_argument_group("decoding (default: what the model's file holds)")
    search.add_argument("--beam", type=int, metavar="N", help="width of the beam; 1 is greedy")
    search.add_argument("--n-best", type=int, metavar="N", help="captions for each picture, the best first")
    search.add_argument("--length-penalty", type=float, metavar="A", help="score = sum(log p) / tokens ** A")
    search.add_argument(
        "--rerank",
        type=float,
        metavar="X",
        help="weight of the reranker of a model that has one; 0 for the beam's order",
    )
    search.add_argument("--max-length", "--max-words", type=int, metavar="N", help="most words of a caption")
    search.add_argument("--min-length", "--min-words", type=int, metavar="N", help="fewest words of a caption")
    search.add_argument("--no-repeat-ngram", type=int, metavar="N", help="no sequence of N words twice in a caption")
    search.add_argument("--sample", action="store_true", help="draw words at random instead of by beam search")
    search.add_argument("--temperature", type=float, help="of sampling; below 1 sharpens the distribution")
    search.add_argument("--top-k", type=int, metavar="N", help="sample from the N likeliest words")
    search.add_argument(
        "--top-p", type=float, metavar="P", help="sample from the likeliest words that reach P together"
    )
    search.add_argument("--seed", type=int, help="of sampling")
    add_steering_options(parser.add_argument_group("steering the words"))


def decoding_options(options: argparse.Namespace, about: dict[str, Any]) -> "Greedy":
    """The options of decoding: those of the command line, and for the rest those of the model's file.

    Raises:
        OptionError: options that exclude each other, or a value out of its range.
    """
    from captioner.options import Beam, Sampling

    shared = _given(options, *_OF_WORDS) | steering(options)
    sampling = _given(options, "temperature", "top_k", "top_p", "seed")
    beam = _given(options, "n_best", "length_penalty", "rerank") | (
        {} if options.beam is None else {"width": options.beam}
    )
    if options.sample:
        if any(value is not None for value in (options.beam, options.length_penalty, options.rerank)):
            raise OptionError("--sample draws at random: --beam and --length-penalty do not go with it, nor --rerank")
        samples = {"samples": options.n_best} if options.n_best is not None else {}
        stored = Beam(**about.get("decoding", {})).changed(**_given(options, *_OF_WORDS))
        return Sampling(**{name: getattr(stored, name) for name in _OF_WORDS} | shared, **sampling, **samples)
    if sampling:
        name = next(iter(sampling)).replace("_", "-")
        raise OptionError(f"--{name} is an option of sampling: add --sample")
    return Beam(**about.get("decoding", {})).changed(**shared, **beam)


def readable(decoding: "Greedy", options: argparse.Namespace, model: "Captioner") -> "Greedy":
    """The options, with no more words than the model reads where the command line gives no number."""
    if options.max_length is not None or decoding.max_length <= model.max_length:
        return decoding
    shortest = decoding.min_length if options.min_length is not None else min(decoding.min_length, model.max_length)
    return replace(decoding, max_length=model.max_length, min_length=shortest)


def _given(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    return {name: getattr(options, name) for name in names if getattr(options, name) is not None}


def provenance_of(
    model: Path,
    options: argparse.Namespace,
    decoding: "Greedy",
    about: dict[str, Any],
    texts: Mapping[str, str],
    **more_of_maps: Any,
) -> "Provenance":
    """What makes the captions of a run.

    Args:
        model: its file.
        options: of the command.
        decoding: options of the search.
        about: the model file's metadata.
        texts: what is put before and after each caption.
        more_of_maps: further options of maps.
    """
    from captioner.data.writers import Provenance, digest_of
    from captioner.foreign import is_foreign, name_of, parse_heads
    from captioner.options import MapOptions

    search = {"search": type(decoding).__name__.lower(), **decoding.as_dict()}
    maps = {**asdict(MapOptions.stored(about, options.explain)), **more_of_maps}
    if is_foreign(model):
        heads = parse_heads(getattr(options, "map_heads", None) or "")
        maps["map_heads"] = [list(one) for one in sorted(heads, key=str)]  # as JSON gives them back
    return Provenance(model=name_of(model), digest=digest_of(model), decoding=search, maps=maps, texts=texts)
