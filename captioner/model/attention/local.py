"""Local attention: a window on the grid, with a Gaussian inside (Luong et al. 2015).

Luong et al. 2015, "Effective Approaches to Attention-based Neural Machine Translation", section 3.2
(https://arxiv.org/abs/1508.04025), carried from a sentence's positions to rows and columns.
"""

import torch
from torch import Tensor, nn

from captioner.errors import OptionError
from captioner.model.attention.base import ATTENTIONS, Attended, AttentionCache, masked_softmax
from captioner.model.attention.dot_product import DotProductAttention
from captioner.model.grid import Grid


class _WindowAttention(DotProductAttention):
    """Scaled dot products inside a window about a centre, times a Gaussian (equation 10).

    A cell is in the window if its row and its column are at most ``window`` from the centre's. The Gaussian's standard
    deviation is ``window / 2``. Other than in the paper, the weights are normalised after it, so that they sum to 1.
    """

    def __init__(self, *, text_width: int, image_width: int, width: int, heads: int = 1, window: float = 4.0) -> None:
        super().__init__(text_width=text_width, image_width=image_width, width=width, heads=heads)
        if not window >= 1:
            raise OptionError(f"the window of local attention must be at least 1 cell, not {window}")
        self.window = window

    def keys_values(self, grid: Grid) -> AttentionCache:
        """See `Attention.keys_values`. Raises OptionError for clips, and where the grid's vectors are no cells."""
        if grid.frames != 1:
            raise OptionError("local attention has no window in a clip", remedy="choose a model of another attention")
        if grid.sources is not None:
            raise OptionError("local attention needs the grid's cells", remedy="choose another refiner")
        return super().keys_values(grid)

    def attend(self, query: Tensor, cache: AttentionCache, centre: Tensor) -> Attended:
        """Attend about a centre (B, T, 2): row and column, in cells, 0 the middle of the first."""
        distance = places(cache) - centre[:, :, None]  # (B, T, L, 2)
        near = (distance.abs() <= self.window).all(-1)  # (B, T, L)
        if cache.mask is not None:
            # Where the window holds no picture, all of the picture counts: weights still sum to 1.
            inside = near & cache.mask[:, None]
            near = inside | (cache.mask[:, None] & ~inside.any(-1, keepdim=True))
        deviation = self.window / 2
        scores = self.scores(self.query(query), cache.keys)
        gaussian = -distance.square().sum(-1) / (2 * deviation**2)  # its logarithm
        weights = masked_softmax(scores + gaussian.to(scores.dtype), near).unsqueeze(1)  # (B, 1, T, L)
        return Attended.on_grid((weights @ cache.values.unsqueeze(1)).squeeze(1), weights, centre=centre)


def places(cache: AttentionCache) -> Tensor:
    """Row and column of every cell, (L, 2)."""
    rows, columns = cache.shape
    row = torch.arange(rows, device=cache.keys.device).repeat_interleave(columns)
    column = torch.arange(columns, device=cache.keys.device).repeat(rows)
    return torch.stack((row, column), 1).to(cache.keys.dtype)


@ATTENTIONS.register("local")
class LocalAttention(_WindowAttention):
    """Attention in a window about a centre that is predicted from the query (local-p).

    Luong et al. 2015, equations 9 and 10: ``p = S * sigmoid(v . tanh(W q))``, here for the rows and for the columns
    that hold picture. Weights are 0 outside the window. ``others`` has "centre" (B, T, 2), row and column.

    Args:
        window: cells from the centre to the window's edge; D of the paper.
    """

    def __init__(self, *, text_width: int, image_width: int, width: int, heads: int = 1, window: float = 4.0) -> None:
        super().__init__(text_width=text_width, image_width=image_width, width=width, heads=heads, window=window)
        self.centre_hidden = nn.Linear(text_width, width)
        self.centre = nn.Linear(width, 2, bias=False)

    def forward(self, query: Tensor, cache: AttentionCache) -> Attended:
        """See `Attention.forward`."""
        share: Tensor = self.centre(self.centre_hidden(query).tanh()).sigmoid()  # (B, T, 2)
        rows, columns = cache.shape
        if cache.mask is None:
            size = share.new_tensor((rows, columns))
        else:
            held = cache.mask.unflatten(1, cache.shape)  # (B, h, w)
            counts = (held.any(2).sum(1), held.any(1).sum(1))
            size = torch.stack(counts, 1)[:, None].to(share.dtype)  # (B, 1, 2)
        return self.attend(query, cache, share * size - 0.5)


@ATTENTIONS.register("local_previous")
class LocalPreviousAttention(_WindowAttention):
    """Attention in a window about where the word before was seen, the counterpart of local-m.

    Luong et al. 2015, section 3.2, let the centre of a monotonic alignment go one position on with each word. On a
    picture there is no such order: the centre is the mean position under the weights of the step before, and the
    middle of the picture at the first. ``others`` has "centre" (B, T, 2). Gradients do not pass from step to step.

    Args:
        window: cells from the centre to the window's edge; D of the paper.
    """

    takes = ("previous",)
    needs_steps = True

    def forward(self, query: Tensor, cache: AttentionCache, previous: Tensor | None = None) -> Attended:
        """See `Attention.forward`; ``previous`` (B, T, L) are the weights of the step before, None for an even map."""
        if previous is None:
            even = cache.keys.new_ones(cache.keys.shape[:2]) if cache.mask is None else cache.mask.to(cache.keys.dtype)
            even = even / even.sum(1, keepdim=True).clamp(min=1)
            previous = even[:, None].expand(-1, query.shape[1], -1)
        return self.attend(query, cache, previous.detach() @ places(cache))
