"""Attention on two levels: cells inside groups, then groups (Yang et al. 2016; over frames, Yao et al. 2015)."""

import torch
from torch import Tensor, nn

from captioner.errors import OptionError
from captioner.model.attention.additive import AdditiveAttention
from captioner.model.attention.base import ATTENTIONS, Attended, AttentionCache, masked_softmax
from captioner.model.grid import Grid


class _TwoLevelAttention(AdditiveAttention):
    """Additive attention inside each group of cells gives a vector of the group; additive attention over those vectors
    weighs the groups. A cell's weight is the product of both."""

    def __init__(self, *, text_width: int, image_width: int, width: int, heads: int = 1) -> None:
        super().__init__(text_width=text_width, image_width=image_width, width=width, heads=heads)
        self.group_query = nn.Linear(text_width, width)
        self.group_key = nn.Linear(image_width, width, bias=False)
        self.group_score = nn.Linear(width, 1, bias=False)

    def keys_values(self, grid: Grid) -> AttentionCache:
        """See `Attention.keys_values`. Raises OptionError where the grid's vectors are no cells."""
        if grid.sources is not None:
            raise OptionError(f"{type(self).__name__} needs the grid's cells", remedy="choose another refiner")
        return super().keys_values(grid)

    def groups(self, cache: AttentionCache) -> Tensor:
        """Which cells each group has, (G, L), on the cache's device."""
        raise NotImplementedError

    def two_levels(self, query: Tensor, cache: AttentionCache) -> tuple[Tensor, Tensor, Tensor]:
        """Context (B, T, D), weights of the cells (B, 1, T, L), weights of the groups (B, T, G)."""
        member = self.groups(cache)  # (G, L)
        valid = member[None] if cache.mask is None else member[None] & cache.mask[:, None]  # (B or 1, G, L)
        scores = self.scores(self.query(query), cache.keys)  # (B, T, L)
        inside = masked_softmax(scores[:, :, None], valid[:, None])  # (B, T, G, L)
        vectors = inside @ cache.values[:, None]  # (B, T, G, D)
        hidden = (self.group_query(query)[:, :, None] + self.group_key(vectors)).tanh()
        mask = None if cache.mask is None else valid.any(-1)[:, None]  # (B, 1, G)
        groups = masked_softmax(self.group_score(hidden).squeeze(-1), mask)  # (B, T, G)
        weights = torch.einsum("btg,btgl->btl", groups, inside).unsqueeze(1)
        return (weights @ cache.values.unsqueeze(1)).squeeze(1), weights, groups


@ATTENTIONS.register("hierarchical")
class HierarchicalAttention(_TwoLevelAttention):
    """Cells inside regions, then regions.

    Yang et al. 2016, "Hierarchical Attention Networks for Document Classification", equations 5 to 10
    (https://aclanthology.org/N16-1174): there words inside sentences, then sentences, each by additive attention; here
    with the decoder's query in the place of the learned context vectors. The picture is cut into ``regions x regions``
    coarse cells. ``others`` has "regions" (B, T, regions * regions), row by row.

    Args:
        regions: a side.
    """

    def __init__(self, *, text_width: int, image_width: int, width: int, heads: int = 1, regions: int = 3) -> None:
        super().__init__(text_width=text_width, image_width=image_width, width=width, heads=heads)
        if regions < 1:
            raise OptionError(f"hierarchical attention needs 1 region a side or more, not {regions}")
        self.regions = regions

    def groups(self, cache: AttentionCache) -> Tensor:
        """See `_TwoLevelAttention.groups`; the regions of each frame of a clip are groups of their own."""
        one = regions_of(cache.shape, self.regions, cache.keys.device)
        member: Tensor = one if cache.frames == 1 else torch.block_diag(*[one] * cache.frames)
        return member

    def forward(self, query: Tensor, cache: AttentionCache) -> Attended:
        """See `Attention.forward`."""
        context, weights, regions = self.two_levels(query, cache)
        return Attended.on_grid(context, weights, regions=regions)


def regions_of(shape: tuple[int, int], regions: int, device: torch.device) -> Tensor:
    """Which cells each of ``regions x regions`` coarse cells has, (regions * regions, h * w), row by row.

    Raises:
        OptionError: the grid has fewer cells a side than that.
    """
    if regions > min(shape):
        raise OptionError(f"a grid of {shape[0]} x {shape[1]} cells has no {regions} x {regions} regions")
    row, column = (torch.arange(count, device=device) * regions // count for count in shape)
    number = (row[:, None] * regions + column).flatten()
    return number == torch.arange(regions * regions, device=device)[:, None]


@ATTENTIONS.register("temporal")
class TemporalAttention(_TwoLevelAttention):
    """Cells inside frames, then frames of a clip.

    Yao et al. 2015, "Describing Videos by Exploiting Temporal Structure", equations 5 to 8
    (https://arxiv.org/abs/1502.08029): additive attention over the vectors of the frames. There a frame is one vector;
    here it is what was attended to inside it, so that the weights of a word lie on frames and places. ``weights`` of a
    clip are (B, 1, T, frames * h * w); ``others`` has "frames" (B, T, frames). A picture is a clip of one frame.
    """

    def groups(self, cache: AttentionCache) -> Tensor:
        """See `_TwoLevelAttention.groups`."""
        frames = torch.eye(cache.frames, dtype=torch.bool, device=cache.keys.device)
        member: Tensor = frames.repeat_interleave(cache.shape[0] * cache.shape[1], 1)
        return member

    def forward(self, query: Tensor, cache: AttentionCache) -> Attended:
        """See `Attention.forward`."""
        context, weights, frames = self.two_levels(query, cache)
        return Attended.on_grid(context, weights, frames=frames)
