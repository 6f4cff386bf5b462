"""Everything that decides what a training run does."""

from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from typing import Any

from captioner.errors import OptionError


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The options of a run, each with what it means; stored in the run's folder and in its models.

    The encoder learns in two phases: for ``frozen_epochs`` it stays as it is, then it learns from the stage
    ``train_from`` on until the last epoch.
    """

    decoder: str = _option("lstm", "lstm or transformer")
    decoder_options: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "JSON: options of the decoder's configuration"}
    )
    backbone: str = _option("efficientnet_lite0", "the encoder's network")
    encoder_options: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "JSON: options of the encoder's configuration"}
    )
    refiner_options: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "JSON: options of the grid refiner's configuration"}
    )
    weights: str = _option("", "the encoder's first weights: torchvision, a file, or empty for random ones")
    start_from: str = _option("", "a model file to start from, with its vocabulary; empty for none")

    epochs: int = _option(10, "times over the training pictures")
    frozen_epochs: int = _option(6, "of them, the first, with the encoder frozen")
    train_from: int = _option(0, "the first stage of the encoder that learns after that")
    batch_pictures: int = _option(40, "pictures of a batch")
    captions_per_picture: int = _option(5, "captions of each that share one pass of the encoder")
    longest: int = _option(24, "words; longer training captions are cut")
    minimum_count: int = _option(5, "a word rarer than this in the training captions is unknown")

    learning_rate: float = _option(8e-4, "the peak, of refiner and decoder")
    encoder_learning_rate: float = _option(1e-4, "the peak, of the encoder")
    warm_up: int = _option(300, "steps of rising learning rate; after them it falls along a cosine to zero")
    weight_decay: float = _option(0.01, "of AdamW, on matrices")
    label_smoothing: float = _option(0.1, "share of the target spread over all words")
    map_regularisation: float = _option(0.0, "weight of the doubly stochastic penalty on the maps")
    map_supervision: float = _option(0.0, "weight of the penalty on maps that miss the boxes of their words")
    clip: float = _option(1.0, "largest norm of the gradient")
    average: float = _option(0.998, "decay of the running average of the weights that is scored and kept; 0 for none")
    flips: bool = _option(True, "mirror pictures at random, but where a caption says left or right")
    precision: str = _option("auto", "auto (bfloat16 where a GPU has it), float32 or bfloat16")
    seed: int = _option(1, "of everything that is drawn at random")

    cache: bool = _option(True, "keep the frozen encoder's grids on disk while it is frozen")
    workers: int = _option(0, "processes that read pictures; 0 reads them in this one")
    save_minutes: float = _option(5.0, "between saves of the run's state")
    dev_beam: int = _option(1, "beam width of the dev captions")
    dev_pictures: int = _option(0, "at most so many dev pictures are scored; 0 for all")

    def __post_init__(self) -> None:
        if self.decoder not in ("lstm", "transformer"):
            raise OptionError(f"decoder must be lstm or transformer, not '{self.decoder}'")
        if self.precision not in ("auto", "float32", "bfloat16"):
            raise OptionError(f"precision must be auto, float32 or bfloat16, not '{self.precision}'")
        for name, low in {
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
        }.items():
            if getattr(self, name) < low:
                raise OptionError(f"{name} must be at least {low}, not {getattr(self, name)}")
        for name in ("learning_rate", "clip", "save_minutes"):
            if not getattr(self, name) > 0:
                raise OptionError(f"{name} must be above 0, not {getattr(self, name)}")
        for name in ("encoder_learning_rate", "weight_decay", "map_regularisation", "map_supervision"):
            if not getattr(self, name) >= 0:
                raise OptionError(f"{name} must not be negative, as {getattr(self, name)} is")
        for name in ("label_smoothing", "average"):
            if not 0 <= getattr(self, name) < 1:
                raise OptionError(f"{name} must be in [0, 1), not {getattr(self, name)}")

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def options() -> tuple["Field[Any]", ...]:
    """The recipe's fields, for a command line."""
    return fields(Recipe)


def default_of(option: "Field[Any]") -> Any:
    """An option's default."""
    return option.default_factory() if option.default_factory is not MISSING else option.default
