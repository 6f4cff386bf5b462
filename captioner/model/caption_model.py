"""Encoder, refiner and decoder as one module, and the configuration that rebuilds it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from captioner.errors import OptionError
from captioner.model.decoder import DECODERS, Decoded
from captioner.model.encoder import EncoderConfig, GridEncoder
from captioner.model.fine_maps import FineMaps, split_fine
from captioner.model.grid import Grid
from captioner.model.lstm import LSTMConfig
from captioner.model.refiners import REFINERS, RefinerConfig
from captioner.model.transformer import TransformerConfig
from captioner.registry import ConfiguredRegistry


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Everything about a model but its weights and its words.

    Attributes:
        encoder: of the `GridEncoder`.
        refiner: of a class that `captioner.model.refiners.REFINERS` holds.
        decoder: of a class that `captioner.model.decoder.DECODERS` holds: `LSTMConfig`, `TransformerConfig` or another.
    """

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    refiner: Any = field(default_factory=RefinerConfig)
    decoder: LSTMConfig | TransformerConfig | Any = field(default_factory=LSTMConfig)

    @property
    def decoder_name(self) -> str:
        """The decoder's name in its registry: "lstm", "transformer"."""
        return DECODERS.name_of(self.decoder)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "encoder": _given(self.encoder),
            "refiner": {"kind": REFINERS.name_of(self.refiner), **_given(self.refiner)},
            "decoder": {"kind": self.decoder_name, **_given(self.decoder)},
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ModelConfig":
        """The inverse of `as_dict`.

        Raises:
            OptionError: a part is missing or has an option that is unknown or out of range.
        """
        with checked_parts():
            return cls(
                encoder=EncoderConfig(**values["encoder"]),
                refiner=built_part(REFINERS, values["refiner"], default="transformer_encoder"),
                decoder=built_part(DECODERS, values["decoder"]),
            )


@contextmanager
def checked_parts() -> Iterator[None]:
    """What is wrong with the parts of a configuration that are built inside, as an `OptionError`."""
    try:
        yield
    except KeyError as error:
        raise OptionError(f"the model's configuration lacks {error}") from None
    except OptionError:
        raise
    except (TypeError, ValueError) as error:
        raise OptionError(f"the model's configuration does not fit this version: {error}") from None


def _given(config: Any) -> dict[str, Any]:
    """The options of a configuration; tables that are empty by default and here are left out."""
    empty = {option.name for option in fields(config) if option.default_factory is dict}
    return {name: value for name, value in asdict(config).items() if value or name not in empty}


def built_part(registry: ConfiguredRegistry[Any], values: dict[str, Any], *, default: str | None = None) -> Any:
    """The configuration of a part, of plain values; ``kind`` among them names it in its registry."""
    options = dict(values)
    kind = options.pop("kind") if default is None else options.pop("kind", default)
    return registry[kind].config(**options)


def fine_options(encoder: GridEncoder, width: int) -> dict[str, int]:
    """What the constructor of a decoder or answerer with this ``fine_width`` is given of the encoder's fine stage.

    Raises:
        OptionError: there is one without the other.
    """
    if bool(width) != bool(encoder.fine_channels):
        raise OptionError(
            "fine maps need fine_stage of the encoder, and fine_width of the decoder or the answerer",
            remedy="give both or neither",
        )
    return {"fine_channels": encoder.fine_channels} if width else {}


class CaptionModel(nn.Module):
    """Pixels to grid (`encoder`), grid to what the decoder attends to (`refiner`), grid to words (`decoder`).

    Args:
        config: shapes of the parts.
        vocabulary_size: V, with the four special words.
        weights: of the encoder's backbone; see `captioner.model.backbones.build_stages`.
    """

    def __init__(self, config: ModelConfig, *, vocabulary_size: int, weights: str | Path | None = None) -> None:
        super().__init__()
        self.config, self.vocabulary_size = config, vocabulary_size
        self.encoder = GridEncoder(config.encoder, weights=weights)
        refiner = REFINERS[REFINERS.name_of(config.refiner)]
        self.refiner = refiner.build(channels=self.encoder.channels, config=config.refiner)
        fine = fine_options(self.encoder, getattr(config.decoder, "fine_width", 0))
        decoder = DECODERS[config.decoder_name]
        self.decoder = decoder.build(
            vocabulary_size=vocabulary_size, image_width=config.refiner.width, config=config.decoder, **fine
        )

    def blank_copy(self) -> "CaptionModel":
        """A model of the same shape with weights of its own."""
        return CaptionModel(self.config, vocabulary_size=self.vocabulary_size)

    def set_map_heads(self, heads: Sequence[int]) -> None:
        """Choose the heads whose mean is a word's map, as ``layer * heads + head``; empty for the decoder's default."""
        self.decoder.config = self.decoder.config_with_map_heads(heads)
        self.config = replace(self.config, decoder=self.decoder.config)

    @property
    def fine_maps(self) -> FineMaps | None:
        """The decoder's fine maps, where it has some."""
        fine = getattr(self.decoder, "fine", None)
        return fine if isinstance(fine, FineMaps) else None

    def set_plain_maps(self) -> None:
        """Make maps of all heads of the last attention layer, each cell of a fine map in equal parts."""
        self.set_map_heads(())
        if self.fine_maps is not None:
            self.fine_maps.divide_equally()

    def set_side(self, side: int) -> None:
        """Take pictures of another size from now on; see `GridEncoder.set_side`."""
        self.encoder.set_side(side)
        self.config = replace(self.config, encoder=self.encoder.config)

    def encode(self, pixels: Tensor, mask: Tensor | None = None) -> Grid:
        """The grid that the decoder attends to; arguments as of `GridEncoder.forward`."""
        return self.refine(self.encode_image(pixels, mask))

    def encode_image(self, pixels: Tensor, mask: Tensor | None = None) -> Grid:
        """The encoder's grid, before the refiner; arguments as of `GridEncoder.forward`."""
        grid: Grid = self.encoder(pixels, mask)
        return grid

    def refine(self, grid: Grid) -> Grid:
        """The encoder's grid, made ready for the decoder."""
        refined: Grid = self.refiner(split_fine(grid, self.encoder.channels))
        return refined

    def forward(self, pictures: Tensor | Grid | None, tokens: Tensor, mask: Tensor | None = None) -> Decoded:
        """Teacher forcing; see `captioner.model.decoder.Decoder.forward`.

        Args:
            pictures: pixels, or the encoder's grids of them, or None for captions without pictures, which are
                read with one blank grid.
            tokens: as of `Decoder.forward`.
            mask: of pixels; see `GridEncoder.forward`.
        """
        if pictures is None:
            encoder = self.encoder
            cells, device = encoder.grid_shape[0] * encoder.grid_shape[1], next(self.decoder.parameters()).device
            parts = encoder.vector_width - encoder.channels
            fine = torch.zeros(1, cells, parts, device=device) if parts else None
            features = torch.zeros(1, cells, self.config.refiner.width, device=device)
            grid = Grid(features, encoder.grid_shape, fine=fine)
            tokens = tokens.to(device)
        else:
            grid = self.refine(pictures if isinstance(pictures, Grid) else self.encode_image(pictures, mask))
        decoded: Decoded = self.decoder(grid, tokens)
        return decoded
