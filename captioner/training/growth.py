"""A trained model that gets more words, a place off the grid, layers of its refiner or fine maps, or loses these."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from captioner.checkpoint import Checkpoint
from captioner.errors import DataError, OptionError
from captioner.model.answer_model import AnswerModel
from captioner.model.caption_model import CaptionModel, ModelConfig
from captioner.model.ensemble import EnsembleConfig
from captioner.model.refiners import GridRefiner, RefinerConfig
from captioner.tokenizer.ptb import tokenize
from captioner.tokenizer.vocabulary import SPECIAL, Vocabulary
from captioner.training.recipe import ADDED_TO_REFINERS

_Model = TypeVar("_Model", CaptionModel, AnswerModel)

_RARE = 0.1  # the share of the words, the rarest, that a new word's first values are of


def grow(start: Checkpoint, captions: Iterable[str], *, minimum_count: int) -> tuple[CaptionModel, Vocabulary]:
    """The model with the words of captions added to its vocabulary; what it knew stays as it was.

    The words that it has keep their ids. The embedding of a new word is the mean of the embeddings that are there, with
    a tenth of a new word's own random values, so that new words differ; its bias is the mean of the rarest tenth of the
    words, so that it is not chosen before it was learned.

    Args:
        start: the model; it is not changed.
        captions: as their authors wrote them.
        minimum_count: rarer words are not added.
    """
    known = set(start.vocabulary.words)
    try:
        found = Vocabulary.build((tokenize(caption) for caption in captions), minimum_count=minimum_count)
    except DataError:  # no word is frequent enough
        return start.model, start.vocabulary
    new = tuple(word for word in found.words if word not in known)
    if not new:
        return start.model, start.vocabulary
    vocabulary = Vocabulary(start.vocabulary.words + new)
    model = CaptionModel(start.model.config, vocabulary_size=len(vocabulary))
    before = start.model.state_dict()
    size = len(start.vocabulary)
    rare = max(len(SPECIAL), int(size * (1 - _RARE)))  # words are sorted by their counts
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            old = before[name]
            if tensor.shape == old.shape:
                tensor.copy_(old)
                continue
            tensor[:size] = old  # (V, ...)
            if tensor.dim() > 1:
                tensor[size:] = old[len(SPECIAL) :].mean(0) + 0.1 * tensor[size:]
            else:
                tensor[size:] = old[rare:].mean()
    return model.train(start.model.training), vocabulary


def add_slots(start: Checkpoint, decoder_options: Mapping[str, Any]) -> Checkpoint:
    """The model with slots of memory beside the cells, where the options ask for them and it has multi-head attention.

    Keys and values of the slots are 0, so that a slot weighs as much as a cell of score 0, and adds nothing: the model
    is almost what it was, until the slots have learned.

    Args:
        start: the model; it is not changed.
        decoder_options: of the recipe: ``{"attention": "memory", "attention_options": {"slots": 1}}``.

    Returns:
        The new model, or ``start`` where nothing is to be added.

    Raises:
        OptionError: unknown options of the attention.
    """
    config = start.model.config.decoder
    if decoder_options.get("attention") != "memory" or getattr(config, "attention", "") != "multihead":
        return start
    options = dict(decoder_options.get("attention_options", {}))
    config = replace(config, attention="memory", attention_options=options)
    model, added = _rebuilt(start, replace(start.model.config, decoder=config))
    with torch.no_grad():
        for tensor in added:
            tensor.zero_()
    return replace(start, model=model)


def add_refiner_layers(start: Checkpoint, refiner_options: Mapping[str, Any]) -> Checkpoint:
    """The model with more layers of self-attention among the cells, where the options ask for more than it has.

    Each new layer adds 0 to the cells, so that the model is what it was, until the layers have learned.

    Args:
        start: the model; it is not changed.
        refiner_options: of the recipe: ``{"layers": 2}``.

    Returns:
        The new model, or ``start`` where nothing is to be added.

    Raises:
        OptionError: the width of the grid is no multiple of the heads.
    """
    config = start.model.config.refiner
    layers = refiner_options.get("layers")
    if type(config) is not RefinerConfig or type(layers) is not int or layers <= config.layers:
        return start
    names = ("layers",) if config.layers else ADDED_TO_REFINERS  # the first layer decides the shape of all
    added = {name: refiner_options[name] for name in names if name in refiner_options}
    model, _ = _rebuilt(start, replace(start.model.config, refiner=replace(config, **added)))
    refiner = cast(GridRefiner, model.refiner)
    for layer in refiner.layers[config.layers :]:
        for name in ("self_attn.out_proj", "linear2"):
            for tensor in layer.get_submodule(name).parameters():
                nn.init.zeros_(tensor)
    return replace(start, model=model)


def add_fine_maps(
    start: Checkpoint, encoder_options: Mapping[str, Any], decoder_options: Mapping[str, Any]
) -> Checkpoint:
    """The model with fine maps, where the options ask for them and it has none; see `captioner.model.fine_maps`.

    Its words stay what they are, and so do its maps, each cell in equal parts, until the fine maps have learned.

    Args:
        start: the model; it is not changed.
        encoder_options, decoder_options: of the recipe: ``{"fine_stage": 5}`` and ``{"fine_width": 128}``.

    Returns:
        The new model, or ``start`` where nothing is to be added.

    Raises:
        OptionError: one option without the other, or a decoder or an encoder that cannot have them.
    """
    config = _with_fine_maps(start.model.config, "decoder", encoder_options, decoder_options)
    return start if config is None else replace(start, model=_rebuilt(start, config)[0])


def without_fine_maps(model: _Model) -> _Model:
    """The model without its fine maps, of the same words or answers; the model itself where it has none."""
    config: Any = model.config
    if config.encoder.fine_stage is None:
        return model
    encoder = replace(config.encoder, fine_stage=None)
    if isinstance(model, AnswerModel):
        config = replace(config, encoder=encoder, answerer=replace(config.answerer, fine_width=0))
        plain: Any = AnswerModel(config, vocabulary_size=model.vocabulary_size, answers=model.answers)
    else:
        own: Any = config.decoder
        if isinstance(own, EnsembleConfig):
            own = EnsembleConfig(members=({**own.members[0], "fine_width": 0}, *own.members[1:]))
        else:
            own = replace(own, fine_width=0)
        config = replace(config, encoder=encoder, decoder=own, reranker=None)
        plain = CaptionModel(config, vocabulary_size=model.vocabulary_size)
    missing, _ = plain.load_state_dict(model.state_dict(), strict=False)
    assert not missing
    return cast(_Model, plain.train(model.training))


def add_fine_answer_maps(
    start: AnswerModel, encoder_options: Mapping[str, Any], answerer_options: Mapping[str, Any]
) -> AnswerModel:
    """As `add_fine_maps`, of a model that answers questions; ``answerer_options`` have the ``fine_width``."""
    config = _with_fine_maps(start.config, "answerer", encoder_options, answerer_options)
    if config is None:
        return start
    model = AnswerModel(config, vocabulary_size=start.vocabulary_size, answers=start.answers)
    model.load_state_dict(start.state_dict(), strict=False)
    return model.train(start.training)


def _with_fine_maps(config: Any, part: str, encoder_options: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    """A model's configuration with fine maps, which ``part`` of it makes; None where none are to be added."""
    stage, own = encoder_options.get("fine_stage"), getattr(config, part)
    if config.encoder.fine_stage is not None or (stage is None and not options.get("fine_width")):
        return None
    if isinstance(own, EnsembleConfig):
        raise OptionError("an ensemble gets no fine maps", remedy="add them to its first member, and make it again")
    if not hasattr(own, "fine_width"):
        raise OptionError(f"{type(own).__name__} has no fine maps", remedy="leave out fine_stage and fine_width")
    changes = {name: options[name] for name in ("fine_width", "fine_dropout") if name in options}
    return replace(config, encoder=replace(config.encoder, fine_stage=stage), **{part: replace(own, **changes)})


def _rebuilt(start: Checkpoint, config: ModelConfig) -> tuple[CaptionModel, list[Tensor]]:
    """A model of another configuration with the weights of a model, and those of its weights that this one lacks."""
    model = CaptionModel(config, vocabulary_size=len(start.vocabulary))
    before, added = start.model.state_dict(), []
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name in before:
                tensor.copy_(before[name])
            else:
                added.append(tensor)
    return model.train(start.model.training), added
