"""Encoder, refiner and answerer as one module, and the configuration that rebuilds it."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from captioner.model.answering import ANSWERERS, Answered, Answerer, HierarchicalConfig
from captioner.model.caption_model import checked_parts, fine_options
from captioner.model.encoder import EncoderConfig, GridEncoder
from captioner.model.fine_maps import split_fine
from captioner.model.grid import Grid
from captioner.model.refiners import REFINERS, RefinerConfig
from captioner.registry import plain_values


@dataclass(frozen=True, kw_only=True)
class AnswerConfig:
    """Everything about an answering model but its weights, its words and its answers.

    Attributes:
        encoder: of the `GridEncoder`.
        refiner: of a class that `captioner.model.refiners.REFINERS` holds.
        answerer: of a class that `captioner.model.answering.ANSWERERS` holds.
        blind: it sees zeros in place of every picture's features: a baseline.
    """

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    refiner: Any = field(default_factory=RefinerConfig)
    answerer: Any = field(default_factory=HierarchicalConfig)
    blind: bool = False

    @property
    def answerer_name(self) -> str:
        """The answerer's name in its registry: "hierarchical", "pooled"."""
        return ANSWERERS.name_of(self.answerer)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "encoder": plain_values(self.encoder),
            "refiner": REFINERS.values_of(self.refiner),
            "answerer": ANSWERERS.values_of(self.answerer),
            **({"blind": True} if self.blind else {}),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "AnswerConfig":
        """The inverse of `as_dict`.

        Raises:
            OptionError: a part is missing or has an option that is unknown or out of range.
        """
        with checked_parts():
            return cls(
                encoder=EncoderConfig(**values["encoder"]),
                refiner=REFINERS.config_of(values["refiner"], default="transformer_encoder"),
                answerer=ANSWERERS.config_of(values["answerer"]),
                blind=values.get("blind") is True,
            )


class AnswerModel(nn.Module):
    """Pixels to grid (`encoder`), grid to what is attended to (`refiner`), grid and questions to answers (`answerer`).

    Args:
        config: shapes of the parts.
        vocabulary_size: of the questions' words, with the four special ones.
        answers: how many answers there are to choose from.
        weights: of the encoder's backbone; see `captioner.model.backbones.build_stages`.
    """

    def __init__(
        self, config: AnswerConfig, *, vocabulary_size: int, answers: int, weights: str | Path | None = None
    ) -> None:
        super().__init__()
        self.config, self.vocabulary_size, self.answers = config, vocabulary_size, answers
        self.encoder = GridEncoder(config.encoder, weights=weights)
        fine = fine_options(self.encoder, getattr(config.answerer, "fine_width", 0))
        refiner = REFINERS[REFINERS.name_of(config.refiner)]
        self.refiner = refiner.build(channels=self.encoder.channels, config=config.refiner)
        answerer = ANSWERERS[config.answerer_name]
        self.answerer: Answerer = answerer.build(
            question_vocabulary=vocabulary_size,
            answers=answers,
            image_width=config.refiner.width,
            config=config.answerer,
            **fine,
        )

    def blank_copy(self) -> "AnswerModel":
        """A model of the same shape with weights of its own."""
        return AnswerModel(self.config, vocabulary_size=self.vocabulary_size, answers=self.answers)

    def set_map_heads(self, heads: Sequence[int]) -> None:
        """Choose the heads whose mean is an answer's map; empty for the answerer's default."""
        self.answerer.config = replace(self.answerer.config, map_heads=tuple(heads))
        self.config = replace(self.config, answerer=self.answerer.config)

    def set_side(self, side: int) -> None:
        """Take pictures of another size from now on; see `GridEncoder.set_side`."""
        self.encoder.set_side(side)
        self.config = replace(self.config, encoder=self.encoder.config)

    def encode(self, pixels: Tensor, mask: Tensor | None = None) -> Grid:
        """The grid that is attended to; arguments as of `GridEncoder.forward`."""
        return self.refine(self.encoder(pixels, mask))

    def refine(self, grid: Grid) -> Grid:
        """The encoder's grid, made ready for the answerer."""
        if self.config.blind:
            grid = grid.with_features(grid.features * 0)
        refined: Grid = self.refiner(split_fine(grid, self.encoder.channels))
        return refined

    def forward(self, pictures: Tensor | Grid, questions: Tensor, mask: Tensor | None = None) -> Answered:
        """Answer questions.

        Args:
            pictures: pixels of B pictures, or the encoder's grids of them.
            questions: (B, k, T); see `captioner.model.answering.base.Answerer.forward`.
            mask: of pixels; see `GridEncoder.forward`.
        """
        grid = pictures if isinstance(pictures, Grid) else self.encoder(pictures, mask)
        answered: Answered = self.answerer(self.refine(grid), questions)
        return answered
