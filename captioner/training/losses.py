"""Loss functions."""

import torch
import torch.nn.functional as F
from torch import Tensor

from captioner.tokenizer.vocabulary import PAD, UNKNOWN


def caption_loss(logits: Tensor, targets: Tensor, *, label_smoothing: float = 0.0, count: int | None = None) -> Tensor:
    """Cross-entropy, the mean over the predicted words.

    ``<unk>`` is an input but never a target, since it may not be generated.

    Args:
        logits: (N, T, V).
        targets: (N, T), padded with PAD.
        label_smoothing: share of the target spread over all words (Szegedy et al. 2016).
        count: the divisor of the sum, where these are a part of a larger batch; None for the number of words here.
    """
    known = (targets != UNKNOWN) & (targets != PAD)
    loss = F.cross_entropy(logits[known].float(), targets[known], label_smoothing=label_smoothing, reduction="sum")
    return loss / (count or known.sum())


def reward_loss(logits: Tensor, samples: Tensor, advantage: Tensor, *, count: int | None = None) -> Tensor:
    """The policy gradient's loss: ``-advantage * log p(sample)``, the mean over the words of the samples.

    Rennie et al. 2017, "Self-critical Sequence Training for Image Captioning", eq. 8.

    Args:
        logits: (N, T, V), for each word of the samples.
        samples: (N, T), the sampled words and end tokens, padded with PAD.
        advantage: (N,), each sample's reward minus its baseline.
        count: as of `caption_loss`.
    """
    log_p = -F.cross_entropy(
        logits.flatten(0, 1).float(), samples.flatten(), ignore_index=PAD, reduction="none"
    ).view_as(samples)
    return -(advantage[:, None] * log_p).sum() / (count or (samples != PAD).sum())


def distillation_loss(logits: Tensor, teacher: Tensor, targets: Tensor, *, count: int | None = None) -> Tensor:
    """The divergence of the model's next words from the teacher's, ``KL(teacher || model)``, the mean over words.

    Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", at temperature 1.

    Args:
        logits, teacher: (N, T, V).
        targets: (N, T), the next tokens, padded with PAD, which is left out.
        count: as of `caption_loss`.
    """
    valid = targets != PAD
    ours, theirs = (F.log_softmax(one[valid].float(), -1) for one in (logits, teacher))
    return F.kl_div(ours, theirs, log_target=True, reduction="sum") / (count or valid.sum())


def map_supervision(maps: Tensor, targets: Tensor, *, count: int | None = None) -> Tensor:
    """Attention outside the boxes of a word: ``-log(share inside)``, the mean over words with boxes.

    Args:
        maps: (N, T, h, w).
        targets: (N, T, h, w), the share of each cell that the word's boxes cover; all 0 where there is no box.
        count: as of `caption_loss`.

    Returns:
        A scalar; 0 where no word has a box.
    """
    known = targets.amax((2, 3)) > 0  # (N, T)
    if not known.any():
        return maps.sum() * 0
    inside = (maps * targets).sum((2, 3))[known]
    return -inside.clamp(min=1e-6).log().sum() / (count or len(inside))


def off_grid_supervision(off_grid: Tensor, words: Tensor, *, count: int | None = None) -> Tensor:
    """Attention of function words that stays on the picture: ``-log(off_grid)``, the mean over these words.

    Args:
        off_grid: (N, T), the weight that went to no cell.
        words: (N, T), True where the word is a function word.
        count: as of `caption_loss`.

    Returns:
        A scalar; 0 where there is no such word.
    """
    if not words.any():
        return off_grid.sum() * 0
    found = off_grid[words]
    return -found.clamp(min=1e-6).log().sum() / (count or len(found))


def hard_attention_loss(
    log_p_caption: Tensor,
    log_p_cells: Tensor,
    entropy: Tensor,
    baseline: Tensor,
    *,
    reward: float,
    entropy_weight: float,
) -> Tensor:
    """The estimator of hard attention's gradient: ``-(lambda_r (log p(y|s,a) - b) log p(s|a) + lambda_e H[s])``.

    Xu et al. 2015, "Show, Attend and Tell", after equation 12: REINFORCE (Williams 1992) with a moving average of the
    captions' log-likelihoods as baseline, and the entropy of the probabilities. The likelihood is a reward here: no
    gradient passes it, and the cross-entropy beside it has its own.

    Args:
        log_p_caption: (N,), of each caption's words, under the cells that were drawn.
        log_p_cells: (N, T), of the drawn cells; 0 where none was drawn and beyond the caption.
        entropy: (N, T), of the cells' probabilities, 0 beyond the caption.
        baseline: b, a scalar.
        reward: lambda_r.
        entropy_weight: lambda_e.

    Returns:
        A scalar, the sum over the captions.
    """
    advantage = (log_p_caption - baseline).detach()
    return -(reward * (advantage * log_p_cells.sum(1)).sum() + entropy_weight * entropy.sum())


def doubly_stochastic_penalty(
    maps: Tensor, targets: Tensor, mask: Tensor | None = None, *, count: int | None = None
) -> Tensor:
    """How unevenly a caption's maps cover the picture, the mean over captions.

    Xu et al. 2015, "Show, Attend and Tell", eq. 14, with another target: the attention of a cell, summed over the
    unpadded steps, should be (number of words) / (number of cells), not 1, which 11 words cannot give to 196 cells.
    The deviation is relative to that target, so that a weight of the penalty means the same on every grid.

    Args:
        maps: (N, T, h, w).
        targets: (N, T), padded with PAD.
        mask: (N, h, w), True where a cell holds picture; None where every cell does.
        count: as of `caption_loss`, in captions.
    """
    spoken = (targets != PAD).to(maps.dtype)  # (N, T)
    coverage = torch.einsum("nt,nthw->nhw", spoken, maps)
    valid = torch.ones_like(coverage) if mask is None else mask.to(maps.dtype)
    cells = valid.sum((1, 2)).clamp(min=1)
    share = spoken.sum(1) / cells  # (N,)
    uneven = (coverage / share.clamp(min=1e-6)[:, None, None] - 1).square() * valid
    return (uneven.sum((1, 2)) / cells).sum() / (count or len(maps))


def attribute_loss(logits: Tensor, shows: Tensor, known: Tensor, *, count: int) -> Tensor:
    """Binary cross-entropy of attributes, summed over those that are known of each picture.

    Args:
        logits: (B, N).
        shows: (B, N), 1 for what the pictures show and 0 for what they do not.
        known: (B, N), 1 where that is known.
        count: pictures of the step, by which it is divided: parts of a step add up to the whole.
    """
    each = F.binary_cross_entropy_with_logits(logits.float(), shows, reduction="none")
    return (each * known).sum() / max(1, count)
