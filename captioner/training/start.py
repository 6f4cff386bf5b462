"""The model that a run starts from: new, or made of parts of earlier ones."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from captioner.checkpoint import Checkpoint, read_header
from captioner.checkpoint import load as load_checkpoint
from captioner.data.records import Record
from captioner.errors import OptionError
from captioner.model.caption_model import DECODERS, CaptionModel, ModelConfig
from captioner.model.encoder import EncoderConfig
from captioner.model.grid import RefinerConfig
from captioner.tokenizer.ptb import tokenize
from captioner.tokenizer.vocabulary import Vocabulary
from captioner.training.recipe import Recipe, default_of, options


def first_model(recipe: Recipe, records: Sequence[Record]) -> tuple[CaptionModel, Vocabulary]:
    """The model before its first step.

    Args:
        recipe: says of what it is made.
        records: of the training split, which the vocabulary comes from.

    Raises:
        OptionError: an option of the model is not known, parts do not fit together, or an option asks of a part that
            comes from a file what it is not.
        CheckpointError: a model file does not load.
    """
    if recipe.start_from:
        start = load_checkpoint(recipe.start_from)
        _take_side(recipe, start.model)
        _agree(recipe, start.model.config)
        return start.model, start.vocabulary
    encoder = load_checkpoint(recipe.encoder_from) if recipe.encoder_from else None
    decoder = load_checkpoint(recipe.decoder_from) if recipe.decoder_from else None
    if encoder:
        _take_side(recipe, encoder.model)
    vocabulary = decoder.vocabulary if decoder else _vocabulary(recipe, records)
    config = _config(recipe, encoder, decoder)
    _agree(recipe, config)
    model = CaptionModel(config, vocabulary_size=len(vocabulary), weights=None if encoder else recipe.weights or None)
    if encoder:
        model.encoder.load_state_dict(encoder.model.encoder.state_dict())
    if decoder:
        if decoder.model.config.refiner.width != config.refiner.width:
            raise OptionError(
                f"the decoder of {recipe.decoder_from} looks at grids of width "
                f"{decoder.model.config.refiner.width}, not {config.refiner.width}: set the refiner's width to that"
            )
        model.decoder.load_state_dict(decoder.model.decoder.state_dict())
    return model, vocabulary


def earlier_recipes(recipe: Recipe) -> list[dict[str, Any]]:
    """The recipes of the runs that this one goes on from, the first one first."""
    files = filter(None, (recipe.start_from, recipe.encoder_from, recipe.decoder_from))
    return [earlier for file in files for earlier in recipes_of(file)]


def recipes_of(file: str) -> list[dict[str, Any]]:
    """The recipes that a model file was made by, the first one first."""
    about = read_header(file)["about"]
    return [*about.get("earlier", []), about["recipe"]] if "recipe" in about else []


def _take_side(recipe: Recipe, model: CaptionModel) -> None:
    """The size of the pictures is nothing that a file has learned: the recipe may change it."""
    if recipe.encoder_options.get("side") is not None:
        model.take_side(recipe.encoder_options["side"])


def _agree(recipe: Recipe, config: ModelConfig) -> None:
    """Make sure that what is asked of the parts that come from files is so: it would be passed over in silence."""
    parts = {"encoder_options": config.encoder, "decoder_options": config.decoder, "refiner_options": config.refiner}
    asked: list[tuple[str, Any, Any]] = []
    if "backbone" in recipe.given:
        asked.append(("backbone", recipe.backbone, config.encoder.backbone))
    if "decoder" in recipe.given:
        asked.append(("decoder", recipe.decoder, config.decoder_name))
    defaults = {option.name: default_of(option) for option in options()}
    asked = [one for one in asked if one[1] != defaults[one[0]]]
    for option in recipe.given & parts.keys():
        for name, value in getattr(recipe, option).items():
            asked.append((f"{option}: {name}", value, getattr(parts[option], name, None)))
    for name, wanted, found in asked:
        if wanted != found and wanted != _as_json(found):
            raise OptionError(f"{name} is {found!r} in the model that is gone on from, not {wanted!r}: leave it out")


def _as_json(value: Any) -> Any:
    """Tuples as JSON has them."""
    return [_as_json(one) for one in value] if isinstance(value, tuple) else value


def _vocabulary(recipe: Recipe, records: Sequence[Record]) -> Vocabulary:
    captions = (tokenize(caption) for record in records for caption in record.captions)
    return Vocabulary.build(captions, minimum_count=recipe.minimum_count)


def _config(recipe: Recipe, encoder: Checkpoint | None, decoder: Checkpoint | None) -> ModelConfig:
    try:
        config = ModelConfig(
            encoder=encoder.model.config.encoder
            if encoder
            else EncoderConfig(backbone=recipe.backbone, **recipe.encoder_options),
            refiner=RefinerConfig(**recipe.refiner_options),
            decoder=DECODERS[recipe.decoder](**recipe.decoder_options),
        )
    except TypeError as error:
        raise OptionError(f"an option of the model is not known: {error}") from None
    if decoder is None:
        return config
    # What is learned is in the file; what is not, such as dropout, the recipe may change.
    kept = decoder.model.config.decoder
    if isinstance(kept, type(config.decoder)) and "dropout" in recipe.decoder_options:
        kept = replace(kept, dropout=config.decoder.dropout)
    return replace(config, decoder=kept)
