"""Attention times gradient: the cells whose weight spoke for the word.

After Chefer et al. 2021, "Generic Attention-model Explainability for Interpreting Bi-Modal and Encoder-Decoder
Transformers", equation 5. The gradients are taken with respect to tensors that `Decoder.forward` returns.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from captioner.errors import OptionError
from captioner.explain.attention import by_step
from captioner.model.decoder import Decoder, captions_per_picture
from captioner.model.grid import Grid


def gradient_maps(
    decoder: Decoder, grid: Grid, tokens: Tensor, targets: Tensor, *, signed: bool = False
) -> tuple[Tensor, Tensor]:
    """Attention times the gradient of each target's log-probability, where positive, summed over all heads.

    A step's map takes the gradient with respect to the weights of that step alone, not of earlier ones.

    Args:
        decoder: any whose forward returns its attention.
        grid: of B pictures.
        tokens: (N, T) read, see `captioner.model.decoder.Decoder.forward`.
        targets: (N, T), the word that is asked about at each step.
        signed: keep what is negative, for the difference of two words' maps, in which the logarithm of the softmax's
            denominator, common to both, cancels out.

    Returns:
        Log-probabilities (N, T) and maps (N, T, h, w), not normalised; non-negative unless ``signed``.

    Raises:
        OptionError: the decoder returns no attention, or other tensors than those that it used.
    """
    copies, steps = captions_per_picture(len(tokens), len(grid)), tokens.shape[1]
    # Decoding runs in inference mode, whose tensors gradients cannot pass: copies can.
    with torch.inference_mode(False), torch.enable_grad():
        copy = _copy(grid)
        copy.features.requires_grad_()
        decoded = decoder(copy, tokens.clone(), attention=True)
        if not decoded.attention:
            raise OptionError(f"{type(decoder).__name__} returns no attention weights: it has no gradient maps")
        log_p = log_probabilities(decoded.logits, targets.clone())
        at_once = decoded.attention[0].shape[2] == copies * steps
        layers = len(decoded.attention) if at_once else max(1, len(decoded.attention) // steps)
        maps: list[Tensor] = []
        for step in range(steps):
            asked = decoded.attention if at_once else decoded.attention[step * layers : (step + 1) * layers]
            if not asked:  # every caption has ended
                maps.append(torch.zeros_like(maps[-1]))
                continue
            gradients = torch.autograd.grad(log_p[:, step].sum(), asked, retain_graph=True, allow_unused=True)
            if any(gradient is None for gradient in gradients):
                raise OptionError(
                    f"{type(decoder).__name__} returns attention weights that its contexts were not computed from",
                    remedy="return the very tensor, see captioner.model.attention.Attended",
                )
            products = [weights * gradient for weights, gradient in zip(asked, gradients, strict=True)]
            heads = by_step(
                products if signed else [one.clamp(min=0) for one in products], copies, steps if at_once else 1
            )  # (N, heads, T or 1, L)
            maps.append(heads[:, :, step if at_once else 0].sum(1))
    return log_p.detach(), grid.maps(torch.stack(maps, 1).detach())


def _copy(grid: Grid) -> Grid:
    """A grid with tensors of its own, also of members."""
    tensors: dict[str, Any] = {name: one.clone() for name, one in vars(grid).items() if isinstance(one, Tensor)}
    members = {number: _copy(one) for number, one in grid.members.items()}
    return replace(grid, **tensors, members=members, weights={})


def log_probabilities(logits: Tensor, targets: Tensor) -> Tensor:
    """Log-probabilities (N, T) of targets (N, T) under logits (N, T, V), in float32."""
    log_p: Tensor = logits.float().log_softmax(-1).gather(2, targets[:, :, None])[:, :, 0]
    return log_p
