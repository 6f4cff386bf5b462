"""The average of models that share a start: often better than each of them (model soup)."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from captioner import checkpoint
from captioner.checkpoint import Checkpoint
from captioner.errors import OptionError
from captioner.model.caption_model import CaptionModel, ModelConfig
from captioner.model.ensemble import EnsembleConfig
from captioner.options import MapOptions
from captioner.training.provenance import Member, about_of

LEAST_SIMILARITY = 0.5
"""Smallest `_similarity` of two models from one start: it is 0.99 and more after long runs, about 0 by chance."""


def average_checkpoints(files: Sequence[str | Path], *, weights: Sequence[float] | None = None) -> Checkpoint:
    """A model whose every parameter is the weighted mean of the models' parameters.

    Models that were fine-tuned from one start often lie in one basin, and their average is often better than each of
    them (Wortsman et al. 2022, "Model soups"), also where they were trained on different rewards (Ramé et al. 2023,
    "Rewarded soups"). The start may be one of them. Parameters of different starts do not correspond to one another.

    Args:
        files: model files, two or more. The first one gives the size of the pictures, the vocabulary, and the map and
            decoding options where it has any. Scores and rerankers are not taken over, since they are not those of the
            average. One from before its vocabulary grew may be among the others: further words are then the first
            one's.
        weights: of each model, above 0; equal if None. Only their ratios count.

    Raises:
        OptionError: fewer than two files, an ensemble, weights that are not one for each or not above 0, or models of
            different configurations, vocabularies or starts.
        CheckpointError: a file does not load.
    """
    weights = [1.0] * len(files) if weights is None else list(weights)
    whole = sum(weights)
    if len(files) < 2:
        raise OptionError(f"an average needs two model files or more, not {len(files)}")
    if len(weights) != len(files) or not all(weight > 0 for weight in weights) or not math.isfinite(whole):
        raise OptionError(f"{len(files)} model files need as many weights above 0, not {weights}")
    first = checkpoint.load_to_train(files[0])
    if isinstance(first.model.config.decoder, EnsembleConfig):
        raise OptionError(
            f"{files[0]} is an ensemble",
            remedy="take its members out (captioner ensemble --member), average them, and make the ensemble again",
        )
    start = _random_at_start(first.model)
    own = first.model.state_dict()
    total: dict[str, Tensor] = {}
    members: list[Member] = []
    for file, weight in zip(files, weights, strict=True):
        one = first if file == files[0] else checkpoint.load_to_train(file)
        if one.vocabulary.words != first.vocabulary.words[: len(one.vocabulary)]:
            raise OptionError(
                f"the vocabularies of {file} and {files[0]} differ",
                remedy="average models of one vocabulary; of one that grew, name a model with all words first",
            )
        if difference := _difference(one.model.config, first.model.config):
            raise OptionError(f"{difference[0]} is {difference[1]} in {file}, {difference[2]} in {files[0]}")
        delays = [MapOptions.stored(dict(model.about), "attention").delay for model in (one, first)]
        if delays[0] != delays[1]:
            raise OptionError(
                f"the maps of {file} have a delay of {delays[0]}, those of {files[0]} of {delays[1]}",
                remedy="average models whose maps are of the same step",
            )
        if (similarity := _similarity(_random_at_start(one.model), start)) < LEAST_SIMILARITY:
            raise OptionError(
                f"{file} and {files[0]} come from different starts (the cosine of their weights is {similarity:.2f}); "
                "average models that were trained from one start"
            )
        for name, tensor in one.model.state_dict().items():
            if tensor.is_floating_point():
                ours = own[name]
                if tensor.shape != ours.shape:  # (V, ...) of fewer words
                    tensor = torch.cat([tensor, ours[len(tensor) :]])
                weighted = tensor.double() * weight  # so that what is the same in all stays the same to the last bit
                total[name] = total[name] + weighted if name in total else weighted
            else:  # counts of batches, which nothing reads
                total.setdefault(name, tensor)
        members.append(Member(file, one.about, {"weight": weight}))
    mean = {name: value / whole if value.is_floating_point() else value for name, value in total.items()}
    first.model.load_state_dict(mean)
    return replace(first, about=about_of("average", members))


def _random_at_start(model: CaptionModel) -> tuple[Tensor, ...]:
    """Parameters that are uncorrelated in models of different starts: the first matrix or kernel of each part."""
    found = []
    for part, dimensions in ((model.decoder, 2), (model.refiner, 2), (model.encoder, 4)):
        found += [weight.detach() for weight in part.parameters() if weight.dim() == dimensions][:1]
    return tuple(found)


def _similarity(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """The smallest cosine between matrices of one model and another's."""
    # The embeddings of a model from before its vocabulary grew have fewer rows.
    pairs = [(a[: len(b)], b[: len(a)]) for a, b in zip(ours, theirs, strict=True)]
    return min(F.cosine_similarity(a.flatten(), b.flatten(), dim=0).item() for a, b in pairs)


def _difference(one: ModelConfig, other: ModelConfig) -> tuple[str, Any, Any] | None:
    """The first option in which two configurations differ, and its values.

    The size of the pictures, kinds of dropout and the heads of the maps may differ between models of one start.
    """
    ours, theirs = one.as_dict(), other.as_dict()
    for part in ours:
        names = ours[part].keys() | theirs[part].keys()
        for name in sorted(names, key=lambda name: (name != "kind", name)):
            values = (ours[part].get(name), theirs[part].get(name))
            if name not in ("side", "dropout", "fine_dropout", "map_heads") and values[0] != values[1]:
                return (f"the {part}'s {name}", *values)
    return None
