"""Encoder, refiner and decoder as one module, and the configuration that rebuilds it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from captioner.errors import OptionError
from captioner.model.encoder import EncoderConfig, GridEncoder
from captioner.model.grid import Grid, GridRefiner, RefinerConfig
from captioner.model.lstm import LSTMConfig, LSTMDecoder
from captioner.model.transformer import TransformerConfig, TransformerDecoder

DECODERS = {"lstm": LSTMConfig, "transformer": TransformerConfig}


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Everything about a model but its weights and its words."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    refiner: RefinerConfig = field(default_factory=RefinerConfig)
    decoder: LSTMConfig | TransformerConfig = field(default_factory=LSTMConfig)

    @property
    def decoder_name(self) -> str:
        """ "lstm" or "transformer"."""
        return next(name for name, kind in DECODERS.items() if isinstance(self.decoder, kind))

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "encoder": asdict(self.encoder),
            "refiner": asdict(self.refiner),
            "decoder": {"kind": self.decoder_name, **asdict(self.decoder)},
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ModelConfig":
        """The inverse of `as_dict`.

        Raises:
            OptionError: a part is missing or has an option that is not known or out of range.
        """
        try:
            decoder = dict(values["decoder"])
            kind = decoder.pop("kind")
            if kind not in DECODERS:
                raise OptionError(f"no decoder is called '{kind}'; there are {', '.join(DECODERS)}")
            return cls(
                encoder=EncoderConfig(**values["encoder"]),
                refiner=RefinerConfig(**values["refiner"]),
                decoder=DECODERS[kind](**decoder),
            )
        except KeyError as error:
            raise OptionError(f"the model's configuration lacks {error}") from None
        except TypeError as error:
            raise OptionError(f"the model's configuration does not fit this version: {error}") from None


class CaptionModel(nn.Module):
    """Pixels to grid (`encoder`), grid to what the decoder sees (`refiner`), grid to words (`decoder`).

    Args:
        config: shapes of the parts.
        vocabulary_size: V, with the four special words.
        weights: of the encoder's backbone; see `captioner.model.backbones.build_stages`.
    """

    def __init__(self, config: ModelConfig, *, vocabulary_size: int, weights: str | Path | None = None) -> None:
        super().__init__()
        self.config = config
        self.encoder = GridEncoder(config.encoder, weights=weights)
        self.refiner = GridRefiner(channels=self.encoder.channels, config=config.refiner)
        self.decoder: LSTMDecoder | TransformerDecoder
        if isinstance(config.decoder, LSTMConfig):
            self.decoder = LSTMDecoder(
                vocabulary_size=vocabulary_size, image_width=config.refiner.width, config=config.decoder
            )
        else:
            self.decoder = TransformerDecoder(
                vocabulary_size=vocabulary_size, image_width=config.refiner.width, config=config.decoder
            )

    def make_maps_of(self, heads: Sequence[Any]) -> None:
        """Choose the heads whose mean is a word's map; see the decoder's configuration. None gives its usual ones."""
        decoder: Any = self.config.decoder
        decoder = replace(decoder, map_heads=tuple(heads))
        self.config = replace(self.config, decoder=decoder)
        self.decoder.config = decoder

    def take_side(self, side: int) -> None:
        """Take pictures of another size from now on; see `GridEncoder.take_side`."""
        self.encoder.take_side(side)
        self.config = replace(self.config, encoder=self.encoder.config)

    def encode(self, pixels: Tensor, mask: Tensor | None = None) -> Grid:
        """The grid that the decoder sees; arguments as of `GridEncoder.forward`."""
        return self.refine(self.look(pixels, mask))

    def look(self, pixels: Tensor, mask: Tensor | None = None) -> Grid:
        """The encoder's grid, not yet refined; arguments as of `GridEncoder.forward`."""
        grid: Grid = self.encoder(pixels, mask)
        return grid

    def refine(self, grid: Grid) -> Grid:
        """The encoder's grid, made ready for the decoder."""
        refined: Grid = self.refiner(grid)
        return refined

    def forward(
        self, pictures: Tensor | Grid | None, tokens: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits and maps of captions that are known; see `Decoder.teach`.

        Args:
            pictures: pixels, or the encoder's grids of them, or None for captions without pictures, which are
                read with one blank grid.
            tokens: as of `Decoder.teach`.
            mask: of pixels; see `GridEncoder.forward`.
        """
        if pictures is None:
            cells = self.encoder.grid_shape[0] * self.encoder.grid_shape[1]
            device = next(self.decoder.parameters()).device
            grid = Grid(torch.zeros(1, cells, self.config.refiner.width, device=device), self.encoder.grid_shape)
            return self.decoder.teach(grid, tokens.to(device))
        grid = pictures if isinstance(pictures, Grid) else self.look(pictures, mask)
        return self.decoder.teach(self.refine(grid), tokens)
