"""Batch-norm whose statistics stand still is part of the convolution before it."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class ConvNorm(nn.Sequential):
    """A convolution, its batch-norm and what follows them, under the names of the `nn.Sequential` it stands for.

    While the statistics are fixed the normalisation is folded into the convolution's weights: one pass over the
    features less, forward and backward. Where no gradients are asked for, the folded weights are kept until a weight
    changes. Weights, gradients and files are those of the two modules apart.
    """

    _folded: tuple[tuple[object, ...], Tensor, Tensor] | None = None

    def forward(self, features: Tensor) -> Tensor:
        """As of `nn.Sequential`: (B, D, h, w) to (B, D', h', w')."""
        convolution, norm, *rest = self
        assert isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
        if convolution.groups > 1 and features.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            # In 16 bits a CPU trains the others twice as fast, and these (3 x 3, 5 x 5) at a third of the speed.
            with torch.autocast("cpu", enabled=False):
                features = self._normalised(convolution, norm, features.float()).to(features.dtype)
        else:
            features = self._normalised(convolution, norm, features)
        for module in rest:
            features = module(features)
        return features

    def _normalised(self, convolution: nn.Conv2d, norm: nn.BatchNorm2d, features: Tensor) -> Tensor:
        if norm.training:
            normalised: Tensor = norm(convolution(features))
            return normalised
        weight, shift = fold(convolution, norm) if torch.is_grad_enabled() else self._kept(convolution, norm)
        return functional.conv2d(
            features,
            weight,
            shift,
            convolution.stride,
            convolution.padding,
            convolution.dilation,
            convolution.groups,
        )

    def _kept(self, convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
        """The folded weights, computed again where a weight has changed since."""
        tensors = (convolution.weight, convolution.bias, norm.weight, norm.bias, norm.running_mean, norm.running_var)
        state = tuple(_version(tensor) for tensor in tensors if tensor is not None)
        folded = self._folded
        if folded is None or folded[0] != state:
            with torch.inference_mode(False), torch.no_grad():
                folded = (state, *fold(convolution, norm))
            self._folded = folded  # one assignment: another thread sees the old or the new
        return folded[1:]

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "_folded"}


def _version(tensor: Tensor) -> object:
    """Changes with the tensor's values; of a tensor without a version counter, never the same."""
    return object() if tensor.is_inference() else (tensor.data_ptr(), tensor._version, tensor.dtype, tensor.device)


def fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight and bias of the convolution that equals a convolution and its batch-norm with fixed statistics."""
    assert norm.running_mean is not None
    scale = scale_of(norm)
    shift = norm.bias - norm.running_mean * scale
    if convolution.bias is not None:
        shift = shift + convolution.bias * scale
    return convolution.weight * scale[:, None, None, None], shift


def scale_of(norm: nn.BatchNorm2d) -> Tensor:
    """What batch-norm with fixed statistics multiplies each channel by, (D',)."""
    assert norm.running_var is not None
    return norm.weight * torch.rsqrt(norm.running_var + norm.eps)


def fold_norms(module: nn.Module) -> None:
    """Make every sequence that begins with a convolution and its batch-norm a `ConvNorm`, in place."""
    for name, child in module.named_children():
        if isinstance(child, nn.Sequential) and _foldable(list(child)):
            setattr(module, name, ConvNorm(*child))
        else:
            fold_norms(child)


def _foldable(parts: list[nn.Module]) -> bool:
    if len(parts) < 2:
        return False
    convolution, norm = parts[:2]
    return (
        isinstance(convolution, nn.Conv2d)
        and convolution.padding_mode == "zeros"
        and isinstance(norm, nn.BatchNorm2d)
        and norm.affine
        and norm.track_running_stats
    )
