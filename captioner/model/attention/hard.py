"""Hard attention: one cell is drawn, and the drawing is learned by REINFORCE (Xu et al. 2015, section 4.1)."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from captioner.errors import OptionError
from captioner.model.attention.additive import AdditiveAttention
from captioner.model.attention.base import ATTENTIONS, Attended, AttentionCache, masked_softmax
from captioner.model.grid import Grid


@dataclass(frozen=True)
class HardCache(AttentionCache):
    """Keys and values, and which of the pictures take the expected context.

    Attributes:
        expected: (B,), True for a picture whose captions take it at every word; None where none does.
    """

    expected: Tensor | None = None


@ATTENTIONS.register("hard")
class HardAttention(AdditiveAttention):
    """The context is the feature vector of one cell.

    Xu et al. 2015, "Show, Attend and Tell", section 4.1. In training the cell is drawn from the probabilities of
    additive attention (equation 8), and no gradient passes the drawing: `captioner.training.losses.hard_attention_loss`
    is the estimator of equation 12 with its baseline, which needs ``others["log_p"]``. As in the paper, each picture of
    a batch has a chance to take the expected context instead, for all its words, which lowers the variance. In
    evaluation the likeliest cell is taken, and gradients pass as if the context were the expected one
    (straight-through), for gradient maps.

    ``weights`` are the probabilities. ``others`` has "cell" (B, T), the number of the chosen cell, and in training
    "log_p" (B, T), the log-probability of the draw, 0 where the expected context was taken.

    Args:
        expected_share: the chance that a picture of a training batch takes the expected context.
        reward_weight: of the estimator in the loss; lambda_r of the paper.
        entropy_weight: of the entropy of the probabilities in the loss; lambda_e of the paper.

    Attributes:
        baseline: the moving average of the captions' log-likelihoods; the loss sets it, and 0 means that there is none
            yet.
    """

    baseline: Tensor
    needs_steps = True  # the estimator takes the draws of one layer

    def __init__(
        self,
        *,
        text_width: int,
        image_width: int,
        width: int,
        heads: int = 1,
        expected_share: float = 0.5,
        reward_weight: float = 1.0,
        entropy_weight: float = 0.01,
    ) -> None:
        super().__init__(text_width=text_width, image_width=image_width, width=width, heads=heads)
        if not 0 <= expected_share <= 1:
            raise OptionError(f"expected_share must be from 0 to 1, not {expected_share}")
        if not (reward_weight >= 0 and entropy_weight >= 0):
            raise OptionError(f"weights of a loss must not be negative, as {reward_weight} or {entropy_weight} is")
        self.expected_share = expected_share
        self.reward_weight, self.entropy_weight = reward_weight, entropy_weight
        self.register_buffer("baseline", torch.zeros(()))

    @torch.no_grad()
    def follow(self, log_p: Tensor) -> Tensor:
        """The baseline for captions of these log-likelihoods (N,), after which it follows their mean: the paper's
        ``b_k = 0.9 b_(k-1) + 0.1 log p(y|s, a)``. It starts at the first mean."""
        mean = log_p.float().mean()
        before = torch.where(self.baseline == 0, mean, self.baseline)
        self.baseline.copy_(0.9 * before + 0.1 * mean)
        return before

    def keys_values(self, grid: Grid) -> HardCache:
        """See `Attention.keys_values`."""
        cache = HardCache.of(grid, self.key(grid.features), grid.features)
        if not self.training:
            return cache
        return replace(cache, expected=torch.rand(len(grid), device=cache.keys.device) < self.expected_share)

    def forward(self, query: Tensor, cache: AttentionCache) -> Attended:
        """See `Attention.forward`."""
        scores = self.scores(self.query(query), cache.keys)
        mask = None if cache.mask is None else cache.mask[:, None]
        probabilities = masked_softmax(scores, mask)  # (B, T, L)
        weights = probabilities.unsqueeze(1)  # (B, 1, T, L)
        if not self.training:
            cell = probabilities.argmax(-1)  # (B, T)
            one = F.one_hot(cell, probabilities.shape[-1]).to(weights).unsqueeze(1)
            used = weights + (one - weights).detach()
            return Attended.on_grid((used @ cache.values.unsqueeze(1)).squeeze(1), weights, cell=cell)
        # A picture without a valid cell has probabilities of 0, from which nothing can be drawn.
        possible = probabilities.detach().float().clamp(min=1e-12)
        cell = torch.multinomial(possible.flatten(0, 1), 1).view(probabilities.shape[:2])
        one = F.one_hot(cell, probabilities.shape[-1]).to(weights).unsqueeze(1)
        expected = getattr(cache, "expected", None)
        if expected is None:  # the grid was kept in evaluation
            expected = torch.zeros(len(cell), dtype=torch.bool, device=cell.device)
        context = (torch.where(expected[:, None, None, None], weights, one) @ cache.values.unsqueeze(1)).squeeze(1)
        log_p = probabilities.float().gather(-1, cell.unsqueeze(-1)).squeeze(-1).clamp(min=1e-12).log()
        return Attended.on_grid(context, weights, cell=cell, log_p=log_p.masked_fill(expected[:, None], 0.0))
