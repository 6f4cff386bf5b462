"""A picture becomes a grid: convolutional features, one vector a cell, row-major."""

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from captioner.errors import OptionError
from captioner.model.backbones import BACKBONES, build_stages
from captioner.model.fine_maps import FINER, parts_of_cells
from captioner.model.folding import fold_norms
from captioner.model.grid import Grid
from captioner.model.grid_attention import EncoderBlock, build_block
from captioner.model.inverted_residuals import set_hidden_channels


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Which network, how much of it, and the pictures that it takes. Kept with the weights.

    Attributes:
        backbone: a name of `captioner.model.backbones.BACKBONES`.
        stages: how many of its stages are kept; None for all.
        last_blocks: how many blocks of the last kept stage are kept; None for all.
        side: of the square input in pixels; None for the backbone's own.
        pad: keep the picture's shape and pad it to the square, rather than squash it.
        mean, std: of the channels, for values in [0, 1]; None for the backbone's own.
        attention: a name of `captioner.model.grid_attention.BLOCKS` for blocks between the stages, "self_attention" for
            instance; "" for none. They have weights of their own, which a file of the backbone does not hold.
        attention_after: the stages, from 0, that such a block follows.
        attention_options: of the blocks, by name; see their class.
        norm_eps: what batch-norm adds to the variance; None for torchvision's. Weights that were trained with
            TensorFlow's EfficientNets want 1e-3.
        hidden_channels: of each inverted residual block, in order, where some were pruned (`captioner prune`); () for
            the backbone's own.
        fine_stage: an earlier stage, from 0, whose output stands beside that of the last, at twice its resolution; None
            for none. See `captioner.model.fine_maps`. Not with ``pad``.
    """

    backbone: str = "efficientnet_lite0"
    stages: int | None = None
    last_blocks: int | None = None
    side: int | None = None
    pad: bool = False
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    norm_eps: float | None = None
    hidden_channels: tuple[int, ...] = ()
    fine_stage: int | None = None
    attention: str = ""
    attention_after: tuple[int, ...] = ()
    attention_options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        own = BACKBONES[self.backbone]
        for name in ("side", "mean", "std"):
            if getattr(self, name) is None:
                object.__setattr__(self, name, getattr(own, name))
        object.__setattr__(self, "mean", tuple(self.mean or ()))
        object.__setattr__(self, "std", tuple(self.std or ()))
        if type(self.side) is not int or not 32 <= self.side <= 4096:
            raise OptionError(f"the encoder's side must be a whole number from 32 to 4096, not {self.side!r}")
        if self.norm_eps is not None and not (_is_number(self.norm_eps) and self.norm_eps > 0):
            raise OptionError(f"norm_eps must be above 0, not {self.norm_eps!r}")
        values = (*(self.mean or ()), *(self.std or ()))
        if len(self.mean or ()) != 3 or len(self.std or ()) != 3 or not all(map(_is_number, values)):
            raise OptionError(f"mean and std need three numbers each, not {self.mean}, {self.std}")
        if not all(value > 0 for value in self.std or ()):
            raise OptionError(f"std must be positive, not {self.std}")
        for name in ("stages", "last_blocks"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise OptionError(f"the encoder's {name} must be a whole number of at least 1, not {value!r}")
        object.__setattr__(self, "attention_after", tuple(self.attention_after))
        for stage in self.attention_after:
            if type(stage) is not int or stage < 0:
                raise OptionError(f"attention_after names stages from 0, not {stage!r}")
        if bool(self.attention) != bool(self.attention_after):
            raise OptionError(
                f"attention between stages needs its name and the stages that it follows, not '{self.attention}' and "
                f"{self.attention_after}",
                remedy="give both attention and attention_after, or neither",
            )
        object.__setattr__(self, "hidden_channels", tuple(self.hidden_channels))
        for width in self.hidden_channels:
            if type(width) is not int or width < 1:
                raise OptionError(f"hidden_channels are whole numbers of at least 1, not {width!r}")
        if type(self.pad) is not bool:
            raise OptionError(f"the encoder's pad must be true or false, not {self.pad!r}")
        if self.fine_stage is not None and (type(self.fine_stage) is not int or self.fine_stage < 0):
            raise OptionError(f"fine_stage names a stage from 0, not {self.fine_stage!r}")
        if self.fine_stage is not None and self.pad:
            raise OptionError("fine maps need pictures that fill the input", remedy="leave out pad, or fine_stage")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


class GridEncoder(nn.Module):
    """The stages of a backbone, from pixels to a `Grid`.

    Cells tile the input evenly: cell (i, j) of an ``h x w`` grid stands for the pixels from ``j / w`` to
    ``(j + 1) / w`` across and ``i / h`` to ``(i + 1) / h`` down. The centres of the receptive fields lie up
    to half a cell further out at the border, but what a border cell responds to lies further in (measured
    by gradients), so the even tiling is the truer one.

    Args:
        config: the network and its input.
        weights: "torchvision", the path of a safetensors file, or None; see `build_stages`.
    """

    def __init__(self, config: EncoderConfig, *, weights: str | Path | None = None) -> None:
        super().__init__()
        self.config = config
        self.stages = build_stages(
            config.backbone, stages=config.stages, last_blocks=config.last_blocks, weights=weights
        )
        if config.norm_eps is not None:
            for module in self.stages.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eps = config.norm_eps
        fold_norms(self.stages)
        if config.hidden_channels:
            set_hidden_channels(self.stages, config.hidden_channels)
        self._add_attention(config)
        # On a CPU, depthwise convolutions over interleaved channels are three times as fast.
        interleave_channels(self.stages)
        self._set_sizes()
        self.update_statistics = False
        self.train_from(None)

    def _set_sizes(self) -> None:
        """Channels and shape of the grids, for pictures of the configuration's side. Raises OptionError."""
        side, fine = _side(self.config), self.config.fine_stage
        self.channels, self.grid_shape = _measure(self.stages, side)
        self.fine_channels = 0
        if fine is not None:
            if fine >= len(self.stages) - 1:
                raise OptionError(
                    f"fine_stage {fine} is no earlier one of the stages 0 to {len(self.stages) - 1} of "
                    f"{self.config.backbone}",
                    remedy="give a smaller fine_stage",
                )
            self.fine_channels = _channels(self.stages, side)[fine]

    @property
    def vector_width(self) -> int:
        """Numbers of each cell of a grid: the channels, and those of the 2 x 2 parts of the fine stage."""
        return self.channels + FINER * FINER * self.fine_channels

    @property
    def map_shape(self) -> tuple[int, int]:
        """(rows, columns) of the maps: the grid's, or twice as many with a fine stage."""
        height, width = self.grid_shape
        return (FINER * height, FINER * width) if self.fine_channels else (height, width)

    def _add_attention(self, config: EncoderConfig) -> None:
        """Put the blocks of the configuration behind their stages. Raises OptionError where there is no such stage."""
        if not config.attention_after:
            return
        if max(config.attention_after) >= len(self.stages):
            raise OptionError(
                f"{config.backbone} has stages 0 to {len(self.stages) - 1} here; {max(config.attention_after)} is none "
                "of them",
                remedy="change attention_after",
            )
        channels = _channels(self.stages, _side(config))
        for stage in config.attention_after:
            block = build_block(config.attention, channels=channels[stage], options=config.attention_options)
            self.stages[stage] = EncoderBlock(self.stages[stage], block)

    def forward(self, pixels: Tensor, mask: Tensor | None = None) -> Grid:
        """Encode pictures.

        Args:
            pixels: (B, 3, side, side), normalised as the configuration says.
            mask: (B, h, w), True where a cell holds picture; None where every cell does.

        Returns:
            The grid. With a fine stage each vector is that of the last stage, then those of the cell's 2 x 2 parts;
            `captioner.model.fine_maps.split_fine` takes them apart.
        """
        x, fine = pixels.to(memory_format=torch.channels_last), None
        if self.config.fine_stage is None:
            x = self.stages(x)  # (B, D, h, w)
        else:
            for i, stage in enumerate(self.stages):
                x = stage(x)
                if i == self.config.fine_stage:
                    fine = x
        height, width = x.shape[2:]
        vectors = x.permute(0, 2, 3, 1).flatten(1, 2)
        if fine is not None:
            vectors = torch.cat((vectors, parts_of_cells(fine, (height, width)).to(vectors.dtype)), 2)
        return Grid(vectors, (height, width), None if mask is None else mask.flatten(1))

    def set_side(self, side: int) -> None:
        """Take pictures of another size from now on. No weight changes, but the grid gets more or fewer cells.

        A network shown larger pictures than it was trained on may see more in them (Touvron et al. 2019, "Fixing
        the train-test resolution discrepancy").

        Raises:
            OptionError: the side is no whole number from 32 to 4096.
        """
        self.config = replace(self.config, side=side)
        training = self.stages.training
        self._set_sizes()
        self.train(training)

    def train_from(self, stage: int | None, *, update_statistics: bool = False) -> None:
        """Choose what learns.

        Args:
            stage: the first stage whose weights learn; 0 for the whole network, None for nothing.
            update_statistics: let batch-norm follow the statistics of the training batches. Without it they
                stay as they were, which small batches ask for.

        Raises:
            OptionError: there is no such stage.
        """
        if stage is not None and not 0 <= stage < len(self.stages):
            raise OptionError(
                f"{self.config.backbone} has stages 0 to {len(self.stages) - 1} here; {stage} is none of them"
            )
        self.first_trained_stage = stage
        self.update_statistics = update_statistics
        for i, module in enumerate(self.stages):
            module.requires_grad_(stage is not None and i >= stage)
        self.train(self.training)

    def train(self, mode: bool = True) -> "GridEncoder":
        """As `nn.Module.train`, but frozen stages and batch-norm statistics stay in evaluation mode."""
        super().train(mode)
        first = len(self.stages) if self.first_trained_stage is None else self.first_trained_stage
        for i, stage in enumerate(self.stages):
            if i < first:
                stage.eval()
            elif not self.update_statistics:
                for module in stage.modules():
                    if isinstance(module, nn.modules.batchnorm._BatchNorm):
                        module.eval()
        return self


def interleave_channels(module: nn.Module) -> None:
    """Lay the weights out as `torch.channels_last`, in place."""
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _side(config: EncoderConfig) -> int:
    assert config.side is not None  # filled in by the configuration
    return config.side


def _channels(stages: nn.Sequential, side: int) -> list[int]:
    """Channels of each stage's output, from one blank picture."""
    stages.eval()
    features, found = torch.zeros(1, 3, side, side, device=next(stages.parameters()).device), []
    with torch.no_grad():
        for stage in stages:
            features = stage(features)
            found.append(features.shape[1])
    return found


def _measure(stages: nn.Sequential, side: int) -> tuple[int, tuple[int, int]]:
    """Channels and grid of the stages' output, from one blank picture."""
    device = next(stages.parameters()).device
    stages.eval()  # statistics must not see the blank picture
    with torch.no_grad():
        output = stages(torch.zeros(1, 3, side, side, device=device))
    return output.shape[1], (output.shape[2], output.shape[3])
