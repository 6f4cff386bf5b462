"""Refiners that give the decoder fewer vectors than there are cells, each a weighted sum of cells.

The maps of words still lie on the cells: a word's weight of a vector is spread over the cells by the vector's own map
(``Grid.sources``).
"""

from dataclasses import dataclass, replace

from torch import Tensor, nn

from captioner.errors import OptionError
from captioner.model.attention.base import masked_softmax
from captioner.model.attention.hierarchical import regions_of
from captioner.model.attention.pooling import AttentionPooling
from captioner.model.grid import Grid
from captioner.model.refiners import REFINERS, GridRefiner, RefinerConfig


@dataclass(frozen=True, kw_only=True)
class LatentQueriesConfig(RefinerConfig):
    """As `RefinerConfig`; ``queries`` and ``pooling_heads`` are of `AttentionPooling`."""

    queries: int = 32
    pooling_heads: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("queries", "pooling_heads"):
            if getattr(self, name) < 1:
                raise OptionError(f"the refiner's {name} must be positive, not {getattr(self, name)}")


@REFINERS.register_with("latent_queries", LatentQueriesConfig)
class LatentQueriesRefiner(GridRefiner):
    """The grid refiner, and latent queries that read its cells; the decoder attends to what they found.

    Jaegle et al. 2021; see `captioner.model.attention.AttentionPooling`. ``Grid.weights`` has "queries"
    (B, heads, Q, h * w), the map of each query, and ``Grid.sources`` their mean over the heads.
    """

    def __init__(self, *, channels: int, config: LatentQueriesConfig) -> None:
        super().__init__(channels=channels, config=config)
        self.pooling = AttentionPooling(
            width=config.width, queries=config.queries, heads=config.pooling_heads, dropout=config.dropout
        )

    def finish(self, grid: Grid, x: Tensor) -> Grid:
        """See `GridRefiner.finish`."""
        pooled = self.pooling(x, grid.mask)
        return replace(
            grid,
            features=self.dropout(self.output_norm(pooled.vectors)),
            mask=None,
            sources=pooled.weights.mean(1),
            weights={"queries": pooled.weights},
        )


@dataclass(frozen=True, kw_only=True)
class CoarseCellsConfig(RefinerConfig):
    """As `RefinerConfig`, and ``regions``, the coarse cells a side."""

    regions: int = 6

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.regions < 1:
            raise OptionError(f"the grid needs 1 coarse cell a side or more, not {self.regions}")


@REFINERS.register_with("coarse_cells", CoarseCellsConfig)
class CoarseCellsRefiner(GridRefiner):
    """The grid refiner, and coarse cells that are each a weighted sum of the cells inside.

    Yang et al. 2016, "Hierarchical Attention Networks for Document Classification", equations 5 to 7, with the cells of
    a coarse cell in the place of the words of a sentence: ``u = tanh(W h + b)``, ``alpha = softmax(u . u_w)`` with a
    learned context vector ``u_w``. The decoder attends to the coarse cells. ``Grid.weights`` has "inside" (B, h * w),
    the weight of each cell inside its coarse cell.
    """

    def __init__(self, *, channels: int, config: CoarseCellsConfig) -> None:
        super().__init__(channels=channels, config=config)
        self.regions = config.regions
        self.hidden = nn.Linear(config.width, config.width)
        self.score = nn.Linear(config.width, 1, bias=False)

    def finish(self, grid: Grid, x: Tensor) -> Grid:
        """See `GridRefiner.finish`."""
        features = self.output_norm(x)
        member = regions_of(grid.shape, self.regions, x.device)[None]  # (1, R, h * w)
        valid = member if grid.mask is None else member & grid.mask[:, None]  # (B or 1, R, h * w)
        scores: Tensor = self.score(self.hidden(features).tanh()).transpose(1, 2)  # (B, 1, h * w)
        sources = masked_softmax(scores.expand(-1, member.shape[1], -1), valid)  # (B, R, h * w)
        return replace(
            grid,
            features=self.dropout(sources @ features),
            mask=None if grid.mask is None else valid.any(-1),
            sources=sources,
            weights={"inside": sources.sum(1)},
        )
