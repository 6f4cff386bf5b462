"""What training minimises."""

import torch
import torch.nn.functional as F
from torch import Tensor

from captioner.model.decoder import PAD, UNKNOWN


def caption_loss(logits: Tensor, targets: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy, the mean over the words to be said.

    ``<unk>`` is read but never asked for: a model that learned to say it would have to be kept from it.

    Args:
        logits: (N, T, V).
        targets: (N, T), padded with PAD.
        label_smoothing: share of the target spread over all words (Szegedy et al. 2016).
    """
    asked = targets.masked_fill(targets == UNKNOWN, PAD)
    return F.cross_entropy(
        logits.flatten(0, 1).float(), asked.flatten(), ignore_index=PAD, label_smoothing=label_smoothing
    )


def map_supervision(maps: Tensor, targets: Tensor) -> Tensor:
    """How much of the attention misses what the word names: ``-log(share inside)``, the mean over known words.

    Args:
        maps: (N, T, h, w).
        targets: (N, T, h, w), the share of each cell that the word's box covers; all 0 where no box is known.

    Returns:
        A scalar; 0 where no word has a box.
    """
    known = targets.amax((2, 3)) > 0  # (N, T)
    if not known.any():
        return maps.sum() * 0
    inside = (maps * targets).sum((2, 3))[known]
    return -inside.clamp(min=1e-6).log().mean()


def doubly_stochastic_penalty(maps: Tensor, targets: Tensor, mask: Tensor | None = None) -> Tensor:
    """How unevenly a caption's maps cover the picture, the mean over captions.

    Show, Attend and Tell (eq. 14) asks each cell for attention of 1 in all, which 11 words cannot give to 196
    cells: here a cell is asked for its share, (number of words) / (number of cells), over unpadded steps.
    Relative to that share, so that the weight of the penalty means the same on every grid.

    Args:
        maps: (N, T, h, w).
        targets: (N, T), padded with PAD.
        mask: (N, h, w), True where a cell holds picture; None where every cell does.
    """
    spoken = (targets != PAD).to(maps.dtype)  # (N, T)
    coverage = torch.einsum("nt,nthw->nhw", spoken, maps)
    valid = torch.ones_like(coverage) if mask is None else mask.to(maps.dtype)
    cells = valid.sum((1, 2)).clamp(min=1)
    share = spoken.sum(1) / cells  # (N,)
    uneven = (coverage / share.clamp(min=1e-6)[:, None, None] - 1).square() * valid
    return (uneven.sum((1, 2)) / cells).mean()
