"""Encoder, refiner and decoder as one module, and the configuration that rebuilds it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from captioner.errors import OptionError
from captioner.model.decoder import DECODERS, Decoded
from captioner.model.encoder import EncoderConfig, GridEncoder
from captioner.model.ensemble import EnsembleConfig
from captioner.model.fine_maps import FineMaps, split_fine
from captioner.model.grid import Grid
from captioner.model.lstm import LSTMConfig
from captioner.model.quantised import dequantise, quantise
from captioner.model.refiners import REFINERS, Refiner, RefinerConfig
from captioner.model.reranker import Reranker, RerankerConfig
from captioner.model.transformer import TransformerConfig
from captioner.registry import plain_values


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Everything about a model but its weights and its words.

    Attributes:
        encoder: of the `GridEncoder`.
        refiner: of a class that `captioner.model.refiners.REFINERS` holds.
        decoder: of a class that `captioner.model.decoder.DECODERS` holds: `LSTMConfig`, `TransformerConfig`,
            `EnsembleConfig` or another.
        reranker: of the `Reranker`; None for a model that has none.
        quantised: the decoder's matrix products are of integers of 8 bits; see `captioner.model.quantised`.
    """

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    refiner: Any = field(default_factory=RefinerConfig)
    decoder: LSTMConfig | TransformerConfig | EnsembleConfig | Any = field(default_factory=LSTMConfig)
    reranker: RerankerConfig | None = None
    quantised: bool = False

    def __post_init__(self) -> None:
        if type(self.quantised) is not bool:
            raise OptionError(f"quantised must be true or false, not {self.quantised!r}")

    @property
    def decoder_name(self) -> str:
        """The decoder's name in its registry: "lstm", "transformer"."""
        return DECODERS.name_of(self.decoder)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "encoder": plain_values(self.encoder),
            "refiner": REFINERS.values_of(self.refiner),
            "decoder": DECODERS.values_of(self.decoder),
            **({"reranker": plain_values(self.reranker)} if self.reranker else {}),
            **({"quantised": True} if self.quantised else {}),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ModelConfig":
        """The inverse of `as_dict`.

        Raises:
            OptionError: a part is missing or has an option that is unknown or out of range.
        """
        if "sets" in values.get("reranker", {}):
            raise OptionError(
                "its reranker is of an earlier version", remedy="get the model of this version, or fit another reranker"
            )
        with checked_parts():
            return cls(
                encoder=EncoderConfig(**values["encoder"]),
                refiner=REFINERS.config_of(values["refiner"], default="transformer_encoder"),
                decoder=DECODERS.config_of(values["decoder"]),
                reranker=RerankerConfig(**values["reranker"]) if "reranker" in values else None,
                quantised=values.get("quantised", False),
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
        options = fine_options(self.encoder, getattr(config.decoder, "fine_width", 0))
        if getattr(config.decoder, "has_refiners", False):
            options["encoder_channels"] = self.encoder.channels
        decoder = DECODERS[config.decoder_name]
        self.decoder = decoder.build(
            vocabulary_size=vocabulary_size, image_width=config.refiner.width, config=config.decoder, **options
        )
        if config.quantised:
            quantise(self.decoder)
        self.reranker = self._make_reranker()

    def blank_copy(self) -> "CaptionModel":
        """A model of the same shape with weights of its own."""
        return CaptionModel(self.config, vocabulary_size=self.vocabulary_size)

    def _make_reranker(self) -> Reranker | None:
        if self.config.reranker is None:
            return None
        channels = self.encoder.vector_width
        return Reranker(self.config.reranker, channels=channels, vocabulary_size=self.vocabulary_size)

    def set_reranker(self, config: RerankerConfig | None) -> None:
        """Give the model a new reranker, in the place of the one that it has; None for none."""
        self.config = replace(self.config, reranker=config)
        self.reranker = self._make_reranker()

    def set_quantised(self, quantised: bool) -> None:
        """Put the decoder's matrices into integers of 8 bits, or back into floats, which can be trained."""
        if quantised != self.config.quantised:
            (quantise if quantised else dequantise)(self.decoder)
            self.config = replace(self.config, quantised=quantised)

    def set_map_heads(self, heads: Sequence[int]) -> None:
        """Choose the heads whose mean is a word's map, as ``layer * heads + head``; empty for the decoder's default."""
        self.decoder.set_map_heads(heads)
        self.config = replace(self.config, decoder=self.decoder.config)

    def refiners(self) -> Iterator[nn.Module]:
        """What refines the encoder's grid: the refiner, and those of an ensemble's members."""
        yield self.refiner
        yield from (part for part in self.decoder.modules() if isinstance(part, Refiner))

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
        """Take pictures of another size from now on; see `GridEncoder.set_side`. A reranker is of one size."""
        if side != self.encoder.config.side:
            self.set_reranker(None)
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
        whole, grid = grid, split_fine(grid, self.encoder.channels)
        refined: Grid = self.refiner(grid)
        if members := self.decoder.member_grids(grid):
            refined = replace(refined, members=members)
        return refined if self.reranker is None else replace(refined, pooled=whole.mean())

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
            blank = Grid(torch.zeros(1, cells, encoder.channels, device=device), encoder.grid_shape)
            grid = Grid(features, encoder.grid_shape, fine=fine, members=self.decoder.member_grids(blank))
            tokens = tokens.to(device)
        else:
            grid = self.refine(pictures if isinstance(pictures, Grid) else self.encode_image(pictures, mask))
        decoded: Decoded = self.decoder(grid, tokens)
        return decoded
