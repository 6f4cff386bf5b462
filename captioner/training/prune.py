"""Channel pruning: an encoder whose blocks have fewer hidden channels gives nearly the same grids in less time."""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from captioner.checkpoint import Checkpoint
from captioner.data.records import Record
from captioner.errors import OptionError
from captioner.model.caption_model import CaptionModel
from captioner.model.encoder import GridEncoder
from captioner.model.inverted_residuals import InvertedResidual, inverted_residuals
from captioner.training.export import device_of
from captioner.training.images import ImageDataset, load_pixels
from captioner.training.provenance import Member, about_of
from captioner.training.views import View

MULTIPLE = 16
"""Channels are kept in multiples of the 16 floats of an AVX-512 register."""
_PLACES = 300  # of each picture and block, at which outputs are compared, at most
_BATCH = 8
_RIDGE = 1e-6  # of the mean variance, so that channels that are alike leave the system solvable


@dataclass(frozen=True)
class Pruned:
    """What pruning made.

    Attributes:
        model: with fewer hidden channels.
        before, after: hidden channels of each block.
        errors: of each block, the squared error of the fit as a share of the variance, on the pictures of the fit.
    """

    model: Checkpoint
    before: tuple[int, ...]
    after: tuple[int, ...]
    errors: tuple[float, ...]


def prune(
    model: Checkpoint,
    records: Sequence[Record],
    *,
    keep: Sequence[float],
    file: str | Path,
    advance: Callable[[int], None] = lambda count: None,
) -> Pruned:
    """Take hidden channels out of each inverted residual block, one block after the other.

    A block's output is linear in its hidden channels. Those are taken out one by one whose loss, after the others'
    weights are fitted again by least squares, raises the output's squared error least: for channel i by |w_i|^2 / P_ii,
    with its weights w_i and P the inverse of the channels' covariance (Hassibi and Stork 1993, "Optimal Brain Surgeon";
    for channels, He et al. 2017, "Channel pruning for accelerating very deep neural networks"). The fit has the output
    before pruning for target and the pruned blocks before it for input; where the block adds its input to its output,
    the target also has what that input has lost. So each block that loses channels corrects the errors of those
    before it. Padding counts as picture.

    Args:
        model: its encoder has inverted residual blocks without squeeze-and-excitation. It loses its reranker.
        records: training pictures; a hundred are enough.
        keep: the share of the hidden channels that stays, above 0 and at most 1, one for all blocks or one for each;
            to the nearest multiple of 16.
        file: the model's file, for what the new one says of itself.
        advance: called with 1 after each block.

    Raises:
        OptionError: the encoder has no such blocks, the shares are others, or there are no records.
        ImageError: a picture does not open.
    """
    model.model.set_reranker(None)  # it is learned for the encoder as it was
    original, encoder = model.model.encoder, copy.deepcopy(model.model.encoder).eval()
    targets, blocks = inverted_residuals(original.stages), inverted_residuals(encoder.stages)
    shares = list(keep) * len(blocks) if len(keep) == 1 else list(keep)
    if len(shares) != len(blocks) or not all(0 < share <= 1 for share in shares):
        raise OptionError(
            f"keep needs one share above 0 and at most 1, or one for each of {len(blocks)} blocks, not {list(keep)}"
        )
    if not records:
        raise OptionError("pruning needs pictures")
    before, errors = tuple(block.hidden_channels for block in blocks), []
    device = device_of(model)
    images = ImageDataset([record.image for record in records], original)
    keys = [[(i, View()) for i in range(a, min(a + _BATCH, len(records)))] for a in range(0, len(records), _BATCH)]
    batches = [pixels.values for pixels in load_pixels(original, images, keys, device=device)]
    generator = torch.Generator().manual_seed(0)
    for block, target, share in zip(blocks, targets, shares, strict=True):
        multiples = max(1, math.floor(block.hidden_channels * share / MULTIPLE + 0.5))
        count = min(block.hidden_channels, multiples * MULTIPLE)
        errors.append(_prune_block(block, target, encoder, original, batches, count, generator))
        advance(1)
    after = tuple(block.hidden_channels for block in blocks)
    config = replace(model.model.config, encoder=replace(original.config, hidden_channels=after))
    built = CaptionModel(config, vocabulary_size=model.model.vocabulary_size).eval().to(device)
    state = {name: tensor for name, tensor in model.model.state_dict().items() if not name.startswith("encoder.")}
    built.load_state_dict(state | {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()})
    about = about_of("prune", [Member(file, model.about, {"keep": list(keep), "pictures": len(records)})])
    return Pruned(replace(model, model=built, about=about), before, after, tuple(errors))


@torch.no_grad()
def _prune_block(
    block: InvertedResidual,
    target: InvertedResidual,
    encoder: GridEncoder,
    original: GridEncoder,
    batches: Sequence[Tensor],
    count: int,
    generator: torch.Generator,
) -> float:
    """Leave ``count`` hidden channels; the error as a share of the variance."""
    if count == block.hidden_channels:
        return 0.0
    hidden, output = [], []
    for batch in batches:
        given, _, whole = _seen(original, target, batch)
        now, inside, _ = _seen(encoder, block, batch)
        if block.has_skip:
            whole = whole + given - now
        count_there = whole.shape[2]
        places = torch.stack([torch.randperm(count_there, generator=generator)[:_PLACES] for _ in batch])
        hidden.append(_at(inside, places[:, None]))
        output.append(_at(whole, places[:, None]))
    x, y = torch.cat(hidden).double(), torch.cat(output).double()  # (N, H), (N, C)
    x_mean, y_mean = x.mean(0), y.mean(0)
    x, y = x - x_mean, y - y_mean
    kept, weights = _eliminate(x.T @ x, x.T @ y, count)
    fitted = x[:, kept] @ weights
    block.keep(kept)
    _set_projection(block.projection, weights.T, x_mean[kept] @ weights, fitted.var(0, correction=0), y_mean)
    variance = float(y.square().sum())
    return float((y - fitted).square().sum()) / variance if variance else 0.0


def _eliminate(covariance: Tensor, with_output: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The channels that are left, (K,), and their least-squares weights, (K, C).

    Args:
        covariance: (H, H) of the channels.
        with_output: (H, C) of channels and outputs.
        count: K.
    """
    ridge = _RIDGE * covariance.diagonal().mean().clamp(min=1e-9)  # all channels may be 0
    inverse = torch.linalg.inv(covariance + ridge * torch.eye(len(covariance), dtype=covariance.dtype))
    weights, kept = inverse @ with_output, torch.arange(len(covariance))
    while len(kept) > count:
        cost = weights.square().sum(1) / inverse.diagonal()
        i = int(cost.argmin())
        column = inverse[:, i : i + 1] / inverse[i, i]
        weights, inverse = weights - column @ weights[i : i + 1], inverse - column @ inverse[i : i + 1]
        others = torch.arange(len(kept)) != i
        kept, weights, inverse = kept[others], weights[others], inverse[others][:, others]
    return kept, weights


def _set_projection(projection: nn.Sequential, weight: Tensor, mean: Tensor, variance: Tensor, bias: Tensor) -> None:
    """Weights (C, K), and a batch-norm with the statistics of what they give, (C,) each, that leaves its scale alone.

    Args:
        projection: with K input channels.
        weight: (C, K)
        mean, variance: (C,) of the convolution's output.
        bias: (C,) mean of the output.
    """
    convolution, norm = projection[0], projection[1]
    assert isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None and norm.running_var is not None
    convolution.weight.copy_(weight[:, :, None, None])
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
    norm.weight.copy_((variance + norm.eps).sqrt())
    norm.bias.copy_(bias)


def _seen(encoder: GridEncoder, block: InvertedResidual, batch: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What a block is given, its hidden channels before the projection, and the projection's output, (B, C, P) each."""
    found: dict[str, Tensor] = {}

    def keep_input(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found["input"] = inputs[0].flatten(2).clone()  # the block before may add to it in place

    def keep_output(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        found["hidden"] = inputs[0].flatten(2)
        found["output"] = output.flatten(2).clone()  # the block adds its input to it in place

    handles = [
        block.expansion.register_forward_pre_hook(keep_input),
        block.projection.register_forward_hook(keep_output),
    ]
    try:
        encoder(batch)
    finally:
        for handle in handles:
            handle.remove()
    return found["input"], found["hidden"], found["output"]


def _at(features: Tensor, places: Tensor) -> Tensor:
    """Features (B, C, P) at places (B, 1, N), on the CPU, which has 64 bits everywhere: (B * N, C)."""
    return features.cpu().gather(2, places.expand(-1, features.shape[1], -1)).permute(0, 2, 1).flatten(0, 1)
