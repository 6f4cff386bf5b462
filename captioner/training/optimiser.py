"""One optimiser step: learning-rate schedule, AdamW, and the exponential moving average of the weights."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from captioner.errors import CaptionerError
from captioner.model.caption_model import CaptionModel
from captioner.training.recipe import Recipe


class DivergedError(CaptionerError):
    """Training produced a number that is not finite. The files of the run hold its last good state."""


def learning_rate_ratio(step: int, *, total: int, recipe: Recipe) -> float:
    """The learning rate of a step as a share of its peak: a linear warm-up, then a cosine.

    Args:
        step: from 0.
        total: steps of the run.
        recipe: gives ``warmup_steps`` and ``final_learning_rate_ratio``.
    """
    if step < recipe.warmup_steps:
        return (step + 1) / recipe.warmup_steps
    done = (step - recipe.warmup_steps) / max(1, total - recipe.warmup_steps)
    lowest = recipe.final_learning_rate_ratio
    return lowest + (1 - lowest) * 0.5 * (1 + math.cos(math.pi * done))


class Optimiser:
    """AdamW (Loshchilov and Hutter 2019) with clipped gradients; matrices decay, and the encoder has its own rate.

    It holds all parameters, those of a frozen encoder too, so that its state is the same list in every phase.
    """

    def __init__(self, model: CaptionModel, recipe: Recipe) -> None:
        self.recipe = recipe
        groups: dict[tuple[bool, bool], list[Tensor]] = {}
        for name, tensor in model.named_parameters():
            groups.setdefault((name.startswith("encoder."), tensor.dim() > 1), []).append(tensor)
        self.adamw = torch.optim.AdamW(
            [
                {
                    "params": tensors,
                    "peak": recipe.encoder_learning_rate if of_encoder else recipe.learning_rate,
                    "weight_decay": recipe.weight_decay if decays else 0.0,
                }
                for (of_encoder, decays), tensors in groups.items()
            ],
            betas=(0.9, 0.98),
            fused=True,
        )

    def zero_grad(self) -> None:
        """Forget the gradients of the last step."""
        self.adamw.zero_grad(set_to_none=True)

    def clip(self) -> float:
        """Clip the gradients' norm to ``clip_norm``; the norm before that, which is the same in all processes."""
        learned = [tensor for tensor in self._parameters() if tensor.grad is not None]
        return torch.nn.utils.clip_grad_norm_(learned, self.recipe.clip_norm).item()

    def step(self, ratio: float) -> None:
        """Change the weights, at this share of the peak learning rates."""
        for group in self.adamw.param_groups:
            group["lr"] = group["peak"] * ratio
        self.adamw.step()

    def state(self) -> dict[str, Tensor]:
        """The moments and step counts, by the parameter's number and their name."""
        values = self.adamw.state_dict()["state"]
        return {f"{i}.{name}": value for i, parts in values.items() for name, value in parts.items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Load what `state` gave. Raises IndexError, ValueError, RuntimeError where it does not fit."""
        learned = self._parameters()
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            i, _, part = name.partition(".")
            if part != "step":  # in the memory layout of its weights: the fused step goes through both by address
                tensor = torch.empty_like(learned[int(i)]).copy_(tensor)
            state.setdefault(int(i), {})[part] = tensor
        self.adamw.load_state_dict({"state": state, "param_groups": self.adamw.state_dict()["param_groups"]})

    def _parameters(self) -> list[Tensor]:
        return [tensor for group in self.adamw.param_groups for tensor in group["params"]]


class MovingAverage:
    """The exponential moving average (EMA) of a model's parameters; it averages nothing if ``decay`` is 0."""

    def __init__(self, model: CaptionModel, *, decay: float, vocabulary_size: int) -> None:
        self.model, self.decay, self.vocabulary_size = model, decay, vocabulary_size
        self.weights = {name: tensor.detach().clone() for name, tensor in model.named_parameters()} if decay else {}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Follow the weights of a step (from 0). The decay is lower at first, so that the random start is forgotten."""
        if self.weights:
            decay = min(self.decay, (1 + step) / (10 + step))
            names, tensors = zip(*self.model.named_parameters(), strict=True)
            torch._foreach_lerp_([self.weights[name] for name in names], list(tensors), 1 - decay)

    def averaged_model(self) -> CaptionModel:
        """A copy of the model with the averaged weights, in evaluation mode, on the same device."""
        device = next(self.model.parameters()).device
        copy = self.model.blank_copy().to(device)
        copy.load_state_dict({**self.model.state_dict(), **self.weights})
        return copy.eval()
