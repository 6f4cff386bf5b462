"""The model that a run starts from: new, or made of parts of earlier ones."""

import contextlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from captioner.checkpoint import Checkpoint, load_to_train
from captioner.data.records import Record
from captioner.errors import CaptionerError, CheckpointError, DataError, OptionError, one_line
from captioner.header import read_header
from captioner.model.answer_model import AnswerConfig, AnswerModel
from captioner.model.answering.base import NOT_LEARNED
from captioner.model.caption_model import CaptionModel, ModelConfig
from captioner.model.decoder import DECODERS
from captioner.model.encoder import EncoderConfig
from captioner.model.ensemble import EnsembleConfig
from captioner.model.grid import Grid
from captioner.model.refiners import REFINERS
from captioner.options import MapOptions
from captioner.tokenizer.ptb import tokenize
from captioner.tokenizer.vocabulary import START, Vocabulary
from captioner.training.aliases import current
from captioner.training.growth import add_fine_maps, add_refiner_layers, add_slots, grow
from captioner.training.recipe import Recipe, default_of, options

_FINE = ("fine_width", "fine_dropout")

Model = TypeVar("Model", CaptionModel, AnswerModel)


def first_model(
    recipe: Recipe, records: Sequence[Record], *, vocabulary: Vocabulary | None = None
) -> tuple[CaptionModel, Vocabulary]:
    """The model before its first step.

    Args:
        recipe: names its parts.
        records: of the training split; the vocabulary is built from their captions, or grows by them.
        vocabulary: of the run, if it was started before; else that of a model file, or one that is built.

    Raises:
        OptionError: an option of the model is unknown, parts do not fit together, or an option differs from what a
            model file has.
        CheckpointError: a model file does not load.
        DataError: the captions contain no word that is frequent enough.
    """
    if recipe.start_from:
        start = load_to_train(recipe.start_from)
        with naming_options():
            start = add_slots(start, recipe.decoder_options)
            start = _with_layers(start, recipe)
            start = add_fine_maps(start, recipe.encoder_options, recipe.decoder_options)
            model = with_options(start.model, "decoder", recipe.decoder_options, vocabulary_size=len(start.vocabulary))
        start = replace(start, model=model)
        set_side(recipe, start.model)
        refuse_other_options(recipe, start.model.config, given=recipe.given)
        _check_length(recipe, start.model)
        try_once(start.model, torch.tensor([[START]]))
        if recipe.grow_vocabulary:
            captions = (caption for record in records for caption in record.captions)
            return grow(start, captions, minimum_count=recipe.minimum_count)
        return start.model, start.vocabulary
    encoder = load_to_train(recipe.encoder_from) if recipe.encoder_from else None
    decoder = load_to_train(recipe.decoder_from) if recipe.decoder_from else None
    if decoder:
        with naming_options():
            decoder = add_slots(decoder, recipe.decoder_options)
    if decoder and isinstance(decoder.model.config.decoder, EnsembleConfig):
        raise OptionError(
            f"decoder_from is {recipe.decoder_from}, an ensemble",
            remedy="give it as start_from, or a member of it (captioner ensemble --member)",
        )
    if encoder:
        set_side(recipe, encoder.model)
    if vocabulary is None or decoder:
        vocabulary = decoder.vocabulary if decoder else build_vocabulary(recipe, records)
    config = _config(recipe, encoder, decoder)
    refuse_other_options(recipe, config, given=recipe.given)
    weights = None if encoder else recipe.weights or None
    with naming_options():
        model = CaptionModel(config, vocabulary_size=len(vocabulary), weights=weights)
    _check_length(recipe, model)
    try_once(model, torch.tensor([[START]]))
    if encoder:
        model.encoder.load_state_dict(encoder.model.encoder.state_dict())
        if not recipe.train_refiner:
            model.refiner.load_state_dict(encoder.model.refiner.state_dict())
    if decoder:
        if decoder.model.config.refiner.width != config.refiner.width:
            raise OptionError(
                f"the decoder of {recipe.decoder_from} attends to grids of width "
                f"{decoder.model.config.refiner.width}, not {config.refiner.width}",
                remedy="leave the width out of refiner_options, or train the refiner",
            )
        state = decoder.model.decoder.state_dict()
        taken = {name: tensor for name, tensor in state.items() if not name.startswith("fine.")}
        missing, unknown = model.decoder.load_state_dict(taken, strict=False)
        assert not unknown
        assert all(name.startswith("fine.") for name in missing)
    for name, tensor in model.state_dict().items():
        if not tensor.isfinite().all():
            raise CheckpointError(f"{recipe.weights}: {name} is not finite", remedy="give other --weights")
    return model, vocabulary


def _with_layers(start: Checkpoint, recipe: Recipe) -> Checkpoint:
    """See `add_refiner_layers`. Raises OptionError where the layers would not learn."""
    grown = add_refiner_layers(start, recipe.refiner_options)
    if grown is not start and (not recipe.train_refiner or recipe.objective in ("maps", "language_model")):
        raise OptionError(
            f"refiner_options add layers, and the objective '{recipe.objective}' with train_refiner "
            f"{str(recipe.train_refiner).lower()} does not train them",
            remedy="leave layers out of refiner_options",
        )
    return grown


def delay_of_maps(recipe: Recipe) -> int:
    """The delay of the maps of a run's model: the recipe's, or else that of the model whose decoder it starts from."""
    source = recipe.start_from or recipe.decoder_from
    if recipe.map_delay or not source:
        return recipe.map_delay
    return MapOptions.stored(read_header(source)["about"], "attention").delay


def stored_options(recipe: Recipe) -> dict[str, Any]:
    """The map and decoding options of a run's model, as files store them: those of the model that it starts from, with
    the delay of its own maps."""
    about = read_header(recipe.start_from)["about"] if recipe.start_from else {}
    kept: dict[str, Any] = {name: about[name] for name in ("maps", "decoding") if name in about}
    delay = delay_of_maps(recipe)
    attention = MapOptions.stored(kept, "attention")
    if delay == attention.delay:
        return kept
    maps = {**kept.get("maps", {}), "attention": MapOptions.as_stored(replace(attention, delay=delay))["attention"]}
    return {**kept, "maps": {"explain": "attention", **maps}}


@contextlib.contextmanager
def naming_options() -> Iterator[None]:
    """Within it, whatever comes of options that do not fit a part of the model is an OptionError."""
    try:
        yield
    except CaptionerError:
        raise
    except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise OptionError(
            f"no model can be built with these options ({one_line(error)})",
            remedy="correct encoder_options, refiner_options, decoder_options or answerer_options",
        ) from None


@torch.no_grad()
def try_once(model: CaptionModel | AnswerModel, tokens: Tensor) -> None:
    """Read tokens with a blank grid, so that parts that do not fit together are refused before the first epoch.

    Raises:
        OptionError: a mechanism does not take the encoder's grid.
    """
    training = model.training
    height, width = model.encoder.grid_shape
    blank = Grid(torch.zeros(1, height * width, model.encoder.vector_width), (height, width))
    model.eval()(blank, tokens)
    model.train(training)


def build_vocabulary(recipe: Recipe, records: Sequence[Record]) -> Vocabulary:
    """The words of the training captions. Raises DataError if no word is frequent enough."""
    captions = (tokenize(caption) for record in records for caption in record.captions)
    try:
        vocabulary = Vocabulary.build(captions, minimum_count=recipe.minimum_count)
    except DataError as error:
        raise DataError(str(error), remedy="lower --minimum-count") from None
    return vocabulary


def earlier_recipes(recipe: Recipe) -> list[dict[str, Any]]:
    """The recipes of the runs that this one goes on from, the first one first; runs that its parts have in common are
    there once."""
    found: list[dict[str, Any]] = []
    for file in filter(None, (recipe.start_from, recipe.encoder_from, recipe.decoder_from)):
        found += [one for one in recipes_of(file) if one not in found]
    return found


def teacher_recipes(recipe: Recipe) -> list[dict[str, Any]]:
    """The recipes of the teachers of this run and of the runs that it goes on from, each once."""
    files = (recipe.start_from, recipe.encoder_from, recipe.decoder_from, recipe.teacher)
    found = [one for file in filter(None, files) for one in read_header(file)["about"].get("teacher", [])]
    return each_once([current(one)[0] for one in found] + (recipes_of(recipe.teacher) if recipe.teacher else []))


def each_once(recipes: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The recipes without those that are there already."""
    return list({json.dumps(one, sort_keys=True): one for one in recipes}.values())


def recipes_of(file: str) -> list[dict[str, Any]]:
    """The recipes that a model file was made by, the first one first, in today's names."""
    about = read_header(file)["about"]
    if not isinstance(about.get("recipe"), dict):
        return []
    earlier = about.get("earlier", [])
    stored = [*(one for one in earlier if isinstance(one, dict)), about["recipe"]] if isinstance(earlier, list) else []
    return [current(recipe)[0] for recipe in stored or [about["recipe"]]]


def _check_length(recipe: Recipe, model: CaptionModel) -> None:
    if recipe.max_length > (most := model.decoder.max_length):
        raise OptionError(
            f"max_length is {recipe.max_length}, and the decoder reads at most {most} words",
            remedy=f"set max_length {most}, or more positions in decoder_options",
        )


def set_side(recipe: Recipe, model: CaptionModel | AnswerModel) -> None:
    """The size of the pictures is not learned: the recipe may change it."""
    if recipe.encoder_options.get("side") is not None:
        model.set_side(recipe.encoder_options["side"])


def with_options(model: Model, part: str, options: Mapping[str, Any], **sizes: int) -> Model:
    """The model with other values of the options that are `NOT_LEARNED`; ``sizes`` are those of its constructor.

    Raises:
        OptionError: it is out of range.
    """
    config = getattr(model.config, part)
    changes = {name: options[name] for name in NOT_LEARNED if name in options and hasattr(config, name)}
    if all(getattr(config, name) == value for name, value in changes.items()):
        return model
    changed: Any = replace(model.config, **{part: replace(config, **changes)})
    constructor: Any = type(model)
    made: Model = constructor(changed, **sizes)
    made.load_state_dict(model.state_dict())
    return made


def refuse_other_options(recipe: Recipe, config: ModelConfig | AnswerConfig, *, given: Collection[str]) -> None:
    """Make sure that options of parts that come from files have the values of these files.

    Args:
        recipe: of the run.
        config: of the model.
        given: the options that files decide.

    Raises:
        OptionError: one has another value.
    """
    asked: list[tuple[str, Any, Any]] = []
    defaults = {option.name: default_of(option) for option in options()}
    found_names: dict[str, Callable[[], str]] = {
        "backbone": lambda: config.encoder.backbone,
        "refiner": lambda: REFINERS.name_of(config.refiner),
        "decoder": lambda: config.decoder_name,  # type: ignore[union-attr]
        "answerer": lambda: config.answerer_name,  # type: ignore[union-attr]
    }
    for option, found in found_names.items():
        if option in given and getattr(recipe, option) != defaults[option]:
            asked.append((option, getattr(recipe, option), found()))
    for part in ("encoder", "refiner", "decoder", "answerer"):
        if f"{part}_options" in given:
            for name, value in getattr(recipe, f"{part}_options").items():
                asked.append((f"{part}_options: {name}", value, getattr(getattr(config, part), name, None)))
    for name, wanted, found in asked:
        if wanted != found and wanted != _as_json(found):
            raise OptionError(
                f"{name} is {found!r} in the model that is started from, not {wanted!r}", remedy="leave it out"
            )


def _as_json(value: Any) -> Any:
    """Tuples as JSON has them."""
    return [_as_json(one) for one in value] if isinstance(value, tuple) else value


def taken_encoder(recipe: Recipe, source: Checkpoint) -> EncoderConfig:
    """The configuration of an encoder that is taken from a model, whose fine stage the recipe decides."""
    return replace(source.model.config.encoder, fine_stage=recipe.encoder_options.get("fine_stage"))


def _config(recipe: Recipe, encoder: Checkpoint | None, decoder: Checkpoint | None) -> ModelConfig:
    # A decoder from a file says how wide the grid is that it attends to.
    width = {"width": decoder.model.config.refiner.width} if decoder else {}
    with naming_options():
        config = ModelConfig(
            encoder=taken_encoder(recipe, encoder)
            if encoder
            else EncoderConfig(backbone=recipe.backbone, **recipe.encoder_options),
            refiner=encoder.model.config.refiner
            if encoder and not recipe.train_refiner
            else REFINERS[recipe.refiner].config(**(width | recipe.refiner_options)),
            decoder=DECODERS[recipe.decoder].config(**recipe.decoder_options),
        )
    if decoder is None:
        return config
    # What is learned comes from the file; what is not learned, such as dropout, the recipe may change. Fine maps are
    # learned for an encoder, and stay behind.
    kept = decoder.model.config.decoder
    if hasattr(kept, "fine_width"):
        fine = {"fine_width": 0} | {
            name: recipe.decoder_options[name] for name in _FINE if name in recipe.decoder_options
        }
        kept = replace(kept, **fine)
    if isinstance(kept, type(config.decoder)) and "dropout" in recipe.decoder_options:
        kept = replace(kept, dropout=recipe.decoder_options["dropout"])
    return replace(config, decoder=kept)
