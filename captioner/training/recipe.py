"""The options of a training run."""

import math
from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from captioner.errors import OptionError
from captioner.options import MAX_ROWS, MAX_WORDS

BASELINES = ("samples", "greedy")

# Smallest allowed values.
_AT_LEAST = {
    "epochs": 1,
    "frozen_epochs": 0,
    "train_from": 0,
    "batch_pictures": 1,
    "captions_per_picture": 1,
    "max_length": 1,
    "minimum_count": 1,
    "warmup_steps": 0,
    "workers": 0,
    "dev_beam": 1,
    "dev_pictures": 0,
    "train_pictures": 0,
    "samples": 1,
    "gradient_accumulation_steps": 1,
    "encoder_learning_rate": 0,
    "weight_decay": 0,
    "map_regularisation": 0,
    "map_supervision": 0,
    "off_grid_supervision": 0,
    "map_delay": 0,
    "cross_entropy_weight": 0,
    "bleu_reward": 0,
    "bleu_1_reward": 0,
    "between_pictures_penalty": 0,
    "absent_objects_penalty": 0,
    "distillation": 0,
    "answers": 1,
    "made_questions": 0,
    "presence_questions": 0,
    "attributes": 0,
    "attribute_supervision": 0,
    "transfer_questions": 0,
    "made_weight": 0,
    "seed": 0,
}
# Largest allowed values of the options that the dev captions are decoded with.
_AT_MOST = {"dev_beam": MAX_ROWS, "max_length": MAX_WORDS}
_ABOVE_ZERO = ("learning_rate", "clip_norm", "save_minutes")
_BELOW_ONE = (
    "label_smoothing",
    "ema_decay",
    "word_dropout",
    "scheduled_sampling",
    "crop",
    "colour_jitter",
    "final_learning_rate_ratio",
    "rehearsal",
)
_LARGEST = 2**63 - 1
FILES = ("weights", "start_from", "encoder_from", "decoder_from", "teacher")
"""Options that name a file."""

BUILT_IN: Mapping[str, tuple[str, ...]] = {
    "objective": (
        *("cross_entropy", "self_critical", "language_model", "grid_distillation"),
        *("maps", "answers", "answer_maps"),
    ),
    "decoder": ("lstm", "transformer", "ensemble"),
    "answerer": ("hierarchical", "pooled"),
    "backbone": (
        "resnet50",
        "resnet101",
        "densenet169",
        "efficientnet_b0",
        "efficientnet_b4",
        "efficientnet_lite0",
        "mobilenet_v3_large",
        "convnext_tiny",
        "tiny",
    ),
    "refiner": (
        "transformer_encoder",
        "se",
        "eca",
        "spatial",
        "cbam",
        "latent_queries",
        "coarse_cells",
        "selective_kernel",
        "self_attention",
        "relative_self_attention",
    ),
}
"""Option that names a part of a registry -> the parts that this package registers; plug-ins register others."""

_OF_ENCODER, _OF_DECODER, _OF_REFINER = (
    ("backbone", "encoder_options", "weights"),
    ("decoder", "decoder_options"),
    ("refiner", "refiner_options"),
)
_GIVEN = {
    "start_from": (*_OF_ENCODER, *_OF_DECODER, *_OF_REFINER),
    "encoder_from": _OF_ENCODER,
    "decoder_from": _OF_DECODER,
}


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


def _part(default: str, text: str) -> Any:
    """An option that names a part of a registry."""
    return _option(default, f"{text}, or the name that an installed package registers")


def _names(option: str) -> str:
    return ", ".join(BUILT_IN[option])


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The options of a run; stored in the run's folder and in its models.

    ``objective`` names an entry of `captioner.training.tasks.TASKS`: "cross_entropy" on the captions of pictures,
    "self_critical" training on CIDEr-D, which starts from a trained model, "language_model", which trains the
    decoder alone on captions without pictures, "grid_distillation", which trains an encoder and a refiner on the grids
    of a teacher, "maps", which trains the fine maps of a trained model on boxes and nothing else, "answers", which
    trains a model that answers questions, or "answer_maps", which does for it what "maps" does. Runs are chained by
    ``start_from``, ``encoder_from`` and ``decoder_from``.

    The encoder is trained in two phases: it is frozen for ``frozen_epochs``, then it is trained from the stage
    ``train_from`` on until the last epoch.

    Raises:
        OptionError: an option is out of its range, or options exclude each other. What a task, a decoder or an encoder
            requires is checked where these are built.
    """

    objective: str = _part(
        "cross_entropy",
        "cross_entropy, self_critical (on CIDEr-D), language_model (captions without pictures), grid_distillation (of "
        "a teacher's grids into the encoder), maps (boxes, for fine maps alone), answers (questions), answer_maps "
        "(boxes, for the fine maps of answers alone)",
    )
    decoder: str = _part("lstm", _names("decoder"))
    decoder_options: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "JSON: options of the decoder's configuration"}
    )
    answerer: str = _part("hierarchical", f"for the objective answers: {_names('answerer')}")
    answerer_options: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "JSON: options of the answerer's configuration"}
    )
    answers: int = _option(1500, "the most frequent training answers, among which an answering model chooses")
    made_questions: int = _option(
        0, "questions made by rule from a picture's captions in an epoch, for the objective answers; see --captions"
    )
    presence_questions: float = _option(
        0.0, "questions such as 'is there a dog in the image?' of a picture in an epoch, on average, half of them no"
    )
    attributes: int = _option(
        0,
        "words of captions whose presence in a picture the answerer predicts, COCO's classes first; 0 for none",
    )
    attribute_supervision: float = _option(0.1, "weight of the cross-entropy of these attributes in each picture")
    made_weight: float = _option(0.5, "weight of made, presence and transfer questions; that of others is 1")
    transfer_questions: int = _option(
        0, "most questions about other pictures that the teacher alone answers, for each picture and epoch"
    )
    blind: bool = _option(False, "train an answering model that sees no picture, as a baseline")
    backbone: str = _part("efficientnet_lite0", f"the encoder's network: {_names('backbone')}")
    encoder_options: dict[str, Any] = field(
        default_factory=dict,
        metadata={"help": "JSON: options of the encoder's configuration; the side of an earlier model may be changed"},
    )
    refiner: str = _part("transformer_encoder", f"what acts on the grid before the decoder: {_names('refiner')}")
    refiner_options: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "JSON: options of the refiner's configuration"}
    )
    weights: str = _option("", "initial weights of the encoder: torchvision, a file, or empty for random ones")
    start_from: str = _option("", "a model to start from, with its vocabulary: a file or a name; empty for none")
    encoder_from: str = _option("", "a model file whose encoder to take; empty for a new one")
    decoder_from: str = _option("", "a model file whose decoder and vocabulary to take; empty for new ones")
    grow_vocabulary: bool = _option(False, "add the words of the training captions to the vocabulary of start_from")

    train_pictures: int = _option(0, "number of training pictures to use, evenly spread; 0 for all")
    epochs: int = _option(10, "passes over the training data")
    frozen_epochs: int = _option(6, "number of first epochs in which the encoder is frozen")
    train_from: int = _option(0, "the first stage of the encoder that is trained after them")
    train_refiner: bool = _option(True, "train the refiner of the grid")
    batch_pictures: int = _option(40, "pictures of a step, over all processes")
    captions_per_picture: int = _option(
        5, "captions, or questions, of each picture in a step; they share one pass of the encoder"
    )
    gradient_accumulation_steps: int = _option(1, "parts in which a step is computed, to save memory")
    rehearsal: float = _option(
        0.0,
        "share of a step's pictures that come from the data sets after the first, or from drawn scenes where there is "
        "only one, so that the model does not forget; the dev score is then taken on both",
    )
    max_length: int = _option(24, "words; longer training captions are truncated")
    minimum_count: int = _option(5, "words that are rarer in the training captions are <unk>")

    learning_rate: float = _option(8e-4, "peak learning rate of refiner and decoder")
    encoder_learning_rate: float = _option(1e-4, "peak learning rate of the encoder")
    warmup_steps: int = _option(300, "steps of linear warm-up; the learning rate then follows a cosine down")
    final_learning_rate_ratio: float = _option(0.0, "final learning rate, as a share of the peak")
    weight_decay: float = _option(0.01, "of AdamW, on matrices")
    clip_norm: float = _option(1.0, "largest norm of the gradient")
    ema_decay: float = _option(
        0.998, "decay of the exponential moving average of the weights, which is scored and saved; 0 for none"
    )

    label_smoothing: float = _option(0.1, "share of the target spread over all words")
    word_dropout: float = _option(0.0, "share of the input words that are replaced by <unk>")
    scheduled_sampling: float = _option(0.0, "share of the input words that are replaced by the model's predictions")
    map_regularisation: float = _option(0.0, "weight of the doubly stochastic penalty on the maps")
    map_supervision: float = _option(
        0.0, "weight of the penalty on maps that miss the boxes of their words, or of their answers"
    )
    off_grid_supervision: float = _option(
        0.0,
        "weight of the penalty on function words ('a', 'of') that look at the picture; needs attention with an "
        "off-grid place: adaptive or memory",
    )
    map_delay: int = _option(
        0, "1 supervises the map of the step after a word, which has read the word, and takes the word's map from there"
    )
    samples: int = _option(5, "captions sampled for each picture (self_critical)")
    baseline: str = _option("samples", "baseline of a sample's reward: the other samples, or greedy (self_critical)")
    bleu_reward: float = _option(0.0, "weight of BLEU-4 (0 to 1) in the reward, beside CIDEr-D (0 to 10)")
    bleu_1_reward: float = _option(0.0, "weight of BLEU-1 (0 to 1) in the reward")
    between_pictures_penalty: float = _option(
        0.0,
        "weight of CIDErBtw, which is subtracted from the reward: CIDEr-D against the captions of the five training "
        "pictures whose captions are the most similar (self_critical)",
    )
    absent_objects_penalty: float = _option(
        0.0,
        "subtracted from the reward for each of COCO's classes that a sample names and no caption of its picture does "
        "(self_critical)",
    )
    cross_entropy_weight: float = _option(0.1, "weight of cross-entropy beside the reward (self_critical)")
    teacher: str = _option(
        "",
        "a model whose distributions of the next word, or of the answer, are distilled: a file or the name of one that "
        "ships; empty for none",
    )
    distillation: float = _option(1.0, "weight of the divergence from the teacher")

    horizontal_flip: bool = _option(True, "mirror pictures at random, unless a caption says left or right")
    crop: float = _option(
        0.0, "largest share of each side that random crops remove; not of grids that are kept on disk"
    )
    colour_jitter: float = _option(
        0.0, "variation of brightness, contrast and saturation; not of grids that are kept on disk"
    )
    precision: str = _option("auto", "auto (bfloat16 where the device supports it natively), float32 or bfloat16")
    seed: int = _option(1, "of all random numbers")

    cache: bool = _option(
        True, "keep the grids of the frozen encoder and of a teacher on disk, and those of dev pictures in memory"
    )
    workers: int = _option(0, "processes that read pictures; 0 reads them in the training process")
    save_minutes: float = _option(5.0, "minutes between saves of the run's state")
    dev_beam: int = _option(1, "beam width of the dev captions")
    dev_pictures: int = _option(0, "largest number of dev pictures that are scored; 0 for all")

    def __post_init__(self) -> None:
        for name, allowed in {"precision": ("auto", "float32", "bfloat16"), "baseline": BASELINES}.items():
            if getattr(self, name) not in allowed:
                *some, last = allowed
                raise OptionError(f"{name} must be {', '.join(some)} or {last}, not '{getattr(self, name)}'")
        for option in fields(self):
            value = getattr(self, option.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise OptionError(f"{option.name} must be a finite number, not {value}")
            if isinstance(value, int) and abs(value) > _LARGEST:
                raise OptionError(f"{option.name} must be at most {_LARGEST}, not {value}")
        for name, low in _AT_LEAST.items():
            if not getattr(self, name) >= low:
                raise OptionError(f"{name} must be at least {low}, not {getattr(self, name)}")
        for name, high in _AT_MOST.items():
            if not getattr(self, name) <= high:
                raise OptionError(f"{name} must be at most {high}, not {getattr(self, name)}")
        for name in _ABOVE_ZERO:
            if not getattr(self, name) > 0:
                raise OptionError(f"{name} must be above 0, not {getattr(self, name)}")
        for name in _BELOW_ONE:
            if not 0 <= getattr(self, name) < 1:
                raise OptionError(f"{name} must be in [0, 1), not {getattr(self, name)}")
        if self.map_delay > 1:
            raise OptionError(f"map_delay must be 0 or 1, not {self.map_delay}")
        if self.map_delay and not (self.map_supervision or self.off_grid_supervision):
            raise OptionError("map_delay is 1 and no maps are supervised", remedy="give map_supervision")
        if self.distillation != 1.0 and not self.teacher:
            raise OptionError(f"distillation is {self.distillation} and there is no teacher", remedy="give teacher")
        if self.transfer_questions and not self.teacher:
            raise OptionError(
                f"transfer_questions is {self.transfer_questions} and there is no teacher", remedy="give teacher"
            )
        if self.grow_vocabulary and not self.start_from:
            raise OptionError("grow_vocabulary adds words to a trained model", remedy="give start_from (--start-from)")
        if self.rehearsal and self.batch_pictures < 2:
            raise OptionError("rehearsal needs steps of at least 2 pictures", remedy="raise batch_pictures")
        if self.start_from and (self.encoder_from or self.decoder_from):
            raise OptionError(
                "start_from is a whole model; encoder_from and decoder_from cannot be given with it",
                remedy="give start_from alone, or encoder_from and decoder_from",
            )

    @property
    def given(self) -> set[str]:
        """The options that are decided by a model file."""
        given = {name for file, names in _GIVEN.items() if getattr(self, file) for name in names}
        return given | set(_OF_REFINER) if self.encoder_from and not self.train_refiner else given

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def for_readers(self) -> dict[str, Any]:
        """As `as_dict`, for a model that is passed on: only the last two parts of paths, and without the options that
        a model file decided. ``encoder_options`` stay where any was set, since the side may be changed."""
        shown = {name: "/".join(Path(getattr(self, name)).parts[-2:]) for name in FILES}
        found = {**self.as_dict(), **shown}
        # The side of the pictures, slots of memory, fine maps and layers may be set for a model that is started from.
        kept = {"encoder_options"} if self.encoder_options else set()
        if added := {name: self.decoder_options[name] for name in _ADDED if name in self.decoder_options}:
            kept.add("decoder_options")
            if "decoder_options" in self.given:
                found["decoder_options"] = added
        if "layers" in self.refiner_options and "refiner_options" in self.given and self.train_refiner:
            kept.add("refiner_options")
            found["refiner_options"] = {n: x for n, x in self.refiner_options.items() if n in ADDED_TO_REFINERS}
        return {name: value for name, value in found.items() if name not in self.given - kept}


_ADDED = ("attention", "attention_options", "fine_width", "fine_dropout")
"""Of the decoder's options, what a model that is started from may gain."""
ADDED_TO_REFINERS = ("layers", "heads", "hidden")
"""Of the refiner's options, the same."""


def options() -> tuple["Field[Any]", ...]:
    """The recipe's fields, for a command line."""
    return fields(Recipe)


def default_of(option: "Field[Any]") -> Any:
    """An option's default."""
    return option.default_factory() if option.default_factory is not MISSING else option.default


OF_ANSWERS = (
    "answerer",
    "answerer_options",
    "answers",
    "made_questions",
    "presence_questions",
    "made_weight",
    "attributes",
    "attribute_supervision",
    "transfer_questions",
    "blind",
)
"""The options that models of captions have no use for."""


OF_REWARD = (
    "samples",
    "baseline",
    "cross_entropy_weight",
    "bleu_reward",
    "bleu_1_reward",
    "between_pictures_penalty",
    "absent_objects_penalty",
)
"""The options that only self-critical training reads."""


def refuse_options(recipe: Recipe, *names: str) -> None:
    """Make sure that options which the objective does not read have their defaults. Raises OptionError."""
    defaults = {option.name: default_of(option) for option in options()}
    for name in names:
        if (value := getattr(recipe, name)) != defaults[name]:
            raise OptionError(
                f"{name} is {value!r}, and the objective '{recipe.objective}' has no use for it", remedy="leave it out"
            )
