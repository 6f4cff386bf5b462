"""An ensemble of trained models of one encoder; see `captioner.model.ensemble`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from captioner import checkpoint
from captioner.checkpoint import Checkpoint
from captioner.errors import OptionError
from captioner.metadata import MOST_MEMBERS
from captioner.model.caption_model import CaptionModel
from captioner.model.decoder import DECODERS
from captioner.model.ensemble import EnsembleConfig
from captioner.model.refiners import REFINERS
from captioner.training.growth import without_fine_maps
from captioner.training.provenance import Member, about_of

_NOT_LEARNED = ("side", "fine_stage", "dropout")


def make_ensemble(files: Sequence[str | Path]) -> Checkpoint:
    """A model that averages the probabilities of trained models' words.

    Args:
        files: model files, 2 to 16, of the same encoder and the same words. The first one makes the maps, and
            gives the size of the pictures, the order of the words, and the map and decoding options where it has any.
            Fine maps of the others are left out, and so are rerankers.

    Raises:
        OptionError: too few or many files, an ensemble among them, or models of different encoders or words.
        CheckpointError: a file does not load.
    """
    if not 2 <= len(files) <= MOST_MEMBERS:
        raise OptionError(f"an ensemble needs two model files or more, and {MOST_MEMBERS} at most, not {len(files)}")
    first = checkpoint.load_to_train(files[0])
    configs: list[dict[str, Any]] = []
    weights: dict[str, Tensor] = {}
    members: list[Member] = []
    for number, file in enumerate(files):
        one = first if number == 0 else checkpoint.load_to_train(file)
        config: Any = one.model.config.decoder
        if isinstance(config, EnsembleConfig):
            raise OptionError(
                f"{file} is an ensemble itself",
                remedy="name the models that it was made of, or take them out with --member",
            )
        if not _is_same("encoder", one.model, first.model):
            raise OptionError(
                f"the encoder of {file} is not that of {files[0]}",
                remedy=f"train it with --encoder-from {files[0]}, and frozen_epochs as many as epochs",
            )
        own = _in_order(one, first, file, files[0])
        if number and getattr(config, "fine_width", 0):
            config = replace(config, fine_width=0)
            own = {name: tensor for name, tensor in own.items() if not name.startswith("fine.")}
        configs.append(DECODERS.values_of(config))
        weights |= {f"members.{number}.{name}": tensor for name, tensor in own.items()}
        if not _is_same("refiner", one.model, first.model):
            configs[-1]["refiner"] = REFINERS.values_of(one.model.config.refiner)
            weights |= {f"refiners.{number}.{name}": value for name, value in one.model.refiner.state_dict().items()}
        members.append(Member(file, one.about, {"maps": one.about["maps"]} if "maps" in one.about else {}))
    config = replace(first.model.config, decoder=EnsembleConfig(members=tuple(configs)))
    model = CaptionModel(config, vocabulary_size=len(first.vocabulary))
    model.encoder.load_state_dict(first.model.encoder.state_dict())
    model.refiner.load_state_dict(first.model.refiner.state_dict())
    model.decoder.load_state_dict(weights)
    return replace(first, model=model.eval(), about=about_of("ensemble", members))


def take_member(file: str | Path, number: int) -> Checkpoint:
    """One decoder of an ensemble as a model of its own, with the encoder and the refiner that it reads.

    Fine maps are the first member's alone, and a reranker stays behind. The decoding options are the ensemble's, and
    its record has the runs of all members.

    Args:
        file: of the ensemble.
        number: of the member, from 1.

    Raises:
        OptionError: the model is no ensemble, or has fewer members.
        CheckpointError: the file does not load.
    """
    whole = checkpoint.load_to_train(file)
    config = whole.model.config.decoder
    if not isinstance(config, EnsembleConfig):
        raise OptionError(f"{file} is no ensemble", remedy="use it as it is")
    members = config.configs()
    if not 1 <= number <= len(members):
        raise OptionError(f"the members of {file} are 1 to {len(members)}, not {number}")
    model = whole.model if number == 1 else without_fine_maps(whole.model)
    decoder, refiner = members[number - 1]
    own = CaptionModel(
        replace(model.config, decoder=decoder, refiner=refiner or model.config.refiner),
        vocabulary_size=len(whole.vocabulary),
    )
    weights = model.decoder.state_dict()
    own.encoder.load_state_dict(model.encoder.state_dict())
    own.decoder.load_state_dict(_below(f"members.{number - 1}.", weights))
    own.refiner.load_state_dict(
        _below(f"refiners.{number - 1}.", weights) if refiner else model.refiner.state_dict(),
    )
    about = about_of("member", [Member(file, whole.about, {"number": number})])
    if number > 1:
        about["maps"] = _maps_of(whole.about, number)
    return replace(whole, model=own.eval(), about=about)


def _maps_of(about: Mapping[str, Any], number: int) -> dict[str, Any]:
    """The map options that a member had before it was one; none where the record of the ensemble has none."""
    recipes = [*about.get("earlier", []), about.get("recipe") or {}]
    named = [recipe["ensemble_of"] for recipe in recipes if "ensemble_of" in recipe]
    return dict(named[-1][number - 1].get("maps", {})) if named else {}


def _below(prefix: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def _is_same(part: str, model: CaptionModel, first: CaptionModel) -> bool:
    """Whether a part of two models has the same weights, as files hold them, and the same options that are learned."""
    ours, theirs = (
        {name: value for name, value in vars(getattr(one.config, part)).items() if name not in _NOT_LEARNED}
        for one in (model, first)
    )
    weights, others = (getattr(one, part).state_dict() for one in (model, first))
    return ours == theirs and all(torch.equal(weights[name].half(), others[name].half()) for name in others)


def _in_order(one: Checkpoint, first: Checkpoint, file: str | Path, first_file: str | Path) -> dict[str, Tensor]:
    """The weights of a model's decoder, the words in the order of the first model. Raises OptionError."""
    state = one.model.decoder.state_dict()
    if one.vocabulary.words == first.vocabulary.words:
        return state
    if set(one.vocabulary.words) != set(first.vocabulary.words):
        raise OptionError(
            f"the words of {file} are not those of {first_file}",
            remedy="train with the same captions, or from the same decoder (--decoder-from)",
        )
    order = torch.tensor([one.vocabulary.ids[word] for word in first.vocabulary.words])
    with torch.device("meta"):
        larger = _decoder_of(one.model, len(order) + 1).state_dict()
    return {name: tensor[order] if tensor.shape != larger[name].shape else tensor for name, tensor in state.items()}


def _decoder_of(model: CaptionModel, words: int) -> nn.Module:
    """A new decoder like that of a model, of so many words."""
    config = model.config.decoder
    fine = {"fine_channels": model.encoder.fine_channels} if getattr(config, "fine_width", 0) else {}
    built: nn.Module = DECODERS[DECODERS.name_of(config)].build(
        vocabulary_size=words, image_width=model.config.refiner.width, config=config, **fine
    )
    return built
