"""Everything that decides what a training run does."""

import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from importlib.resources import files
from pathlib import Path
from typing import Any

from captioner.errors import OptionError

OBJECTIVES = ("words", "reward", "text")
BASELINES = ("samples", "greedy")

# Smallest values; "above" is not reached itself, "below" is not either.
_AT_LEAST = {
    "epochs": 1,
    "frozen_epochs": 0,
    "train_from": 0,
    "batch_pictures": 1,
    "captions_per_picture": 1,
    "longest": 1,
    "minimum_count": 1,
    "warm_up": 0,
    "workers": 0,
    "dev_beam": 1,
    "dev_pictures": 0,
    "train_pictures": 0,
    "samples": 1,
    "accumulate": 1,
    "encoder_learning_rate": 0,
    "weight_decay": 0,
    "map_regularisation": 0,
    "map_supervision": 0,
    "cross_entropy": 0,
    "bleu_reward": 0,
    "bleu_1_reward": 0,
    "distillation": 0,
}
_ABOVE_ZERO = ("learning_rate", "clip", "save_minutes")
_FILES = ("weights", "start_from", "encoder_from", "decoder_from", "teacher")
_OF_ENCODER, _OF_DECODER = ("backbone", "encoder_options", "weights"), ("decoder", "decoder_options")
_GIVEN = {
    "start_from": (*_OF_ENCODER, *_OF_DECODER, "refiner_options"),
    "encoder_from": _OF_ENCODER,
    "decoder_from": _OF_DECODER,
}
_SHARES = ("label_smoothing", "average", "hide_words", "own_words", "cut", "light", "final_rate")


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The options of a run, each with what it means; stored in the run's folder and in its models.

    A run has one objective: "words" is cross-entropy on the captions of pictures; "reward" is self-critical
    training on CIDEr-D, from a model that knows its words; "text" teaches a decoder the language, from captions
    without pictures. Runs are chained by ``start_from``, ``encoder_from`` and ``decoder_from``.

    The encoder learns in two phases: for ``frozen_epochs`` it stays as it is, then it learns from the stage
    ``train_from`` on until the last epoch.
    """

    objective: str = _option("words", "words (cross-entropy), reward (self-critical, on CIDEr-D) or text (no pictures)")
    decoder: str = _option("lstm", "lstm or transformer")
    decoder_options: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "JSON: options of the decoder's configuration"}
    )
    backbone: str = _option("efficientnet_lite0", "the encoder's network")
    encoder_options: dict[str, Any] = field(
        default_factory=dict,
        metadata={"help": "JSON: options of the encoder's configuration; an earlier model may be given another side"},
    )
    refiner_options: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "JSON: options of the grid refiner's configuration"}
    )
    weights: str = _option("", "the encoder's first weights: torchvision, a file, or empty for random ones")
    start_from: str = _option("", "a model file to start from, with its vocabulary; empty for none")
    encoder_from: str = _option("", "a model file whose encoder to take; empty for a new one")
    decoder_from: str = _option("", "a model file whose decoder and vocabulary to take; empty for new ones")

    train_pictures: int = _option(0, "learn from so many of the training pictures, evenly spread; 0 for all")
    epochs: int = _option(10, "times over the training data")
    frozen_epochs: int = _option(6, "of them, the first, with the encoder frozen")
    train_from: int = _option(0, "the first stage of the encoder that learns after that")
    batch_pictures: int = _option(40, "pictures of a step, over all processes")
    captions_per_picture: int = _option(5, "captions of each that share one pass of the encoder")
    accumulate: int = _option(1, "rounds in which a step is computed, to save memory")
    longest: int = _option(24, "words; longer training captions are cut")
    minimum_count: int = _option(5, "a word rarer than this in the training captions is unknown")

    learning_rate: float = _option(8e-4, "the peak, of refiner and decoder")
    encoder_learning_rate: float = _option(1e-4, "the peak, of the encoder")
    warm_up: int = _option(300, "steps of rising learning rate; after them it falls along a cosine")
    final_rate: float = _option(0.0, "share of the peak at which the cosine ends")
    weight_decay: float = _option(0.01, "of AdamW, on matrices")
    clip: float = _option(1.0, "largest norm of the gradient")
    average: float = _option(0.998, "decay of the running average of the weights that is scored and kept; 0 for none")

    label_smoothing: float = _option(0.1, "share of the target spread over all words")
    hide_words: float = _option(0.0, "share of the words read that are hidden behind <unk>")
    own_words: float = _option(0.0, "share of the words read that are the model's own guesses (scheduled sampling)")
    map_regularisation: float = _option(0.0, "weight of the doubly stochastic penalty on the maps")
    map_supervision: float = _option(0.0, "weight of the penalty on maps that miss the boxes of their words")
    samples: int = _option(5, "captions drawn for each picture, where the objective is reward")
    baseline: str = _option("samples", "what a sample's reward is compared with: the other samples, or greedy")
    bleu_reward: float = _option(0.0, "weight of BLEU-4 (0 to 1) in the reward beside CIDEr-D (0 to 10)")
    bleu_1_reward: float = _option(0.0, "weight of BLEU-1 (0 to 1) in the reward")
    cross_entropy: float = _option(0.1, "weight of cross-entropy beside the reward")
    teacher: str = _option(
        "", "a model file to learn every next word's likelihood from, with frozen_epochs 0; empty for none"
    )
    distillation: float = _option(1.0, "weight of the distance from the teacher's likelihoods, where there is one")

    flips: bool = _option(True, "mirror pictures at random, but where a caption says left or right")
    cut: float = _option(0.0, "largest share of each side of a picture that is cut off, while the encoder learns")
    light: float = _option(0.0, "variation of brightness, contrast and saturation, while the encoder learns")
    precision: str = _option("auto", "auto (bfloat16 where the device multiplies in it), float32 or bfloat16")
    seed: int = _option(1, "of everything that is drawn at random")

    cache: bool = _option(True, "keep the frozen encoder's grids on disk while it is frozen")
    workers: int = _option(0, "processes that read pictures; 0 reads them in this one")
    save_minutes: float = _option(5.0, "between saves of the run's state")
    dev_beam: int = _option(1, "beam width of the dev captions")
    dev_pictures: int = _option(0, "at most so many dev pictures are scored; 0 for all")

    def __post_init__(self) -> None:
        for name, known in {
            "objective": OBJECTIVES,
            "decoder": ("lstm", "transformer"),
            "precision": ("auto", "float32", "bfloat16"),
            "baseline": BASELINES,
        }.items():
            if getattr(self, name) not in known:
                *some, last = known
                raise OptionError(f"{name} must be {', '.join(some)} or {last}, not '{getattr(self, name)}'")
        for name, low in _AT_LEAST.items():
            if not getattr(self, name) >= low:
                raise OptionError(f"{name} must be at least {low}, not {getattr(self, name)}")
        for name in _ABOVE_ZERO:
            if not getattr(self, name) > 0:
                raise OptionError(f"{name} must be above 0, not {getattr(self, name)}")
        for name in _SHARES:
            if not 0 <= getattr(self, name) < 1:
                raise OptionError(f"{name} must be in [0, 1), not {getattr(self, name)}")
        if self.objective == "reward":
            if not self.start_from:
                raise OptionError("the objective 'reward' improves a model that knows its words: give start_from")
            if self.baseline == "samples" and self.samples < 2:
                raise OptionError("a baseline of the other samples needs at least 2 samples")
        if self.teacher and (self.objective == "text" or self.frozen_epochs):
            raise OptionError("a teacher must see the pictures: it needs frozen_epochs 0, and not the objective 'text'")
        if self.distillation != 1.0 and not self.teacher:
            raise OptionError(f"distillation {self.distillation} weighs what a teacher says: give teacher")
        if self.start_from and (self.encoder_from or self.decoder_from):
            raise OptionError("start_from is a whole model: encoder_from and decoder_from do not go with it")

    @property
    def given(self) -> set[str]:
        """The options that a model file decides in their stead."""
        return {name for file, names in _GIVEN.items() if getattr(self, file) for name in names}

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def for_readers(self) -> dict[str, Any]:
        """As `as_dict`, for a model that others get: of files the last two parts of their paths, and without the
        options that they decide; the encoder's are shown where any was set, for its side may be new."""
        shown = {name: "/".join(Path(getattr(self, name)).parts[-2:]) for name in _FILES}
        hidden = self.given - ({"encoder_options"} if self.encoder_options else set())
        return {name: value for name, value in {**self.as_dict(), **shown}.items() if name not in hidden}


def options() -> tuple["Field[Any]", ...]:
    """The recipe's fields, for a command line."""
    return fields(Recipe)


def default_of(option: "Field[Any]") -> Any:
    """An option's default."""
    return option.default_factory() if option.default_factory is not MISSING else option.default


def named_recipes() -> list[str]:
    """The recipes that come with the package."""
    return sorted(Path(file.name).stem for file in files(__package__).joinpath("recipes").iterdir())


def read_recipe(name: str | Path) -> dict[str, Any]:
    """The options that a recipe's file sets: a name of `named_recipes`, or the path of a TOML file.

    Raises:
        OptionError: there is none, it is not TOML, or an option is not known or of another type.
    """
    if str(name) in named_recipes():
        text, place = files(__package__).joinpath("recipes", f"{name}.toml").read_text(encoding="utf-8"), str(name)
    else:
        place = str(name)
        if not Path(name).is_file():
            raise OptionError(
                f"no recipe is called '{name}', nor is that a file; there are {', '.join(named_recipes())}"
            )
        try:
            text = Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise OptionError(f"{name}: cannot be read ({error})") from None
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise OptionError(f"{place}: not TOML ({error})") from None
    return _checked(values, place)


def _checked(values: Mapping[str, Any], place: str) -> dict[str, Any]:
    known = {option.name: default_of(option) for option in options()}
    for name, value in values.items():
        if name not in known:
            raise OptionError(f"{place}: no option is called '{name}'; 'captioner train --help' lists them")
        kinds = (int, float) if isinstance(known[name], float) else (type(known[name]),)
        if not isinstance(value, kinds) or (isinstance(value, bool) and not isinstance(known[name], bool)):
            raise OptionError(f"{place}: {name} must be of the kind of {known[name]!r}, not {value!r}")
    return dict(values)
