"""Matrix products in integers of 8 bits (Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", https://arxiv.org/abs/1712.05877).

Weights are stored in 8 bits with a scale for each output; what they are multiplied with is rounded to as many steps on
either side of 0 as `ACTIVATION_STEPS`, with a scale for each row that is found while computing (dynamic quantisation).
So a row does not depend on the others of its batch. Products of integers are exact in 32-bit floats too (for certain up
to 2,096 inputs): torch computes what the exported graphs do with integer instructions, up to the rounding of what comes
before.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captioner.model.refiners import Refiner

WEIGHT_STEPS = 127
ACTIVATION_STEPS = 63
"""Not 127: processors without instructions for neural networks add two products of 8 bits in 16, which then hold
them."""
LEAST = 1e-12
"""The smallest scale: a row of zeros has one too."""
_WHOLE = (Refiner, nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)
_SMALLEST = 1 << 12  # numbers of a matrix; with less, nothing is gained


class UnquantisedLinear(nn.Linear):
    """A linear layer that `quantise` leaves in floats.

    For what is computed once for each picture: it takes little of the time, and of so many numbers the runtimes would
    round a few differently. And for weights that something else than the layer reads.
    """


class TiedEmbedding(nn.Embedding):
    """An embedding that is the last matrix of the output too (Press and Wolf 2017, https://arxiv.org/abs/1608.05859)."""

    def logits(self, x: Tensor, bias: Tensor) -> Tensor:
        """(..., E) -> (..., V)."""
        return F.linear(x, self.weight, bias)


class QuantisedMatrix(nn.Module):
    """A matrix of weights in integers of 8 bits.

    Args:
        weight: (out, in).
    """

    integers: Tensor
    scales: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        weight = weight.detach().float()
        scales = (weight.abs().amax(1) / WEIGHT_STEPS).clamp(min=LEAST)
        # As a product takes it, (in, out): no runtime keeps a copy.
        self.register_buffer("integers", (weight / scales[:, None]).round().to(torch.int8).T.contiguous())
        self.register_buffer("scales", scales)
        self._floats: tuple[Tensor, Tensor] | None = None  # the integers, and the same as floats

    @property
    def weight(self) -> Tensor:
        """(out, in), in floats."""
        return (self.integers.float() * self.scales).T

    def product(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out), W x."""
        integers = self._as_floats()
        if torch.is_grad_enabled() and x.requires_grad:
            found: Tensor = _Product.apply(x.float(), integers, self.scales)  # type: ignore[no-untyped-call]
            return found
        return _product(x.float(), integers, self.scales)

    def _load_from_state_dict(self, *args: Any) -> None:
        self._floats = None
        super()._load_from_state_dict(*args)

    def _as_floats(self) -> Tensor:
        if self._floats is None or self._floats[0] is not self.integers:
            with torch.inference_mode(False):  # a gradient may need it later
                self._floats = self.integers, self.integers.float()
        return self._floats[1]


def _product(x: Tensor, integers: Tensor, scales: Tensor) -> Tensor:
    scale = (x.abs().amax(-1, keepdim=True) / ACTIVATION_STEPS).clamp(min=LEAST)  # of each row
    with torch.autocast(x.device.type, enabled=False):
        return (x / scale).round() @ integers * scales * scale


class _Product(torch.autograd.Function):
    """`_product`, with the gradient of the product without rounding (the straight-through estimator, Bengio et al.
    2013, https://arxiv.org/abs/1308.3432)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, integers: Tensor, scales: Tensor) -> Tensor:
        ctx.save_for_backward(integers, scales)
        return _product(x, integers, scales)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        integers, scales = ctx.saved_tensors
        return (gradient * scales) @ integers.T, None, None


class QuantisedLinear(QuantisedMatrix):
    """`nn.Linear` with its weight in integers."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__(weight)
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        found = self.product(x)
        return found if self.bias is None else found + self.bias


def set_to_zero(layer: nn.Linear | QuantisedLinear) -> None:
    """Set the weight and the bias of a linear layer to 0, in floats or in integers."""
    with torch.no_grad():
        if isinstance(layer, QuantisedLinear):
            layer.integers = torch.zeros_like(layer.integers)
        else:
            layer.weight.zero_()
        if layer.bias is not None:
            layer.bias.zero_()


class QuantisedEmbedding(QuantisedMatrix):
    """A `TiedEmbedding` with its weight in integers."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Ids (...) -> (..., E)."""
        return self.integers.T[tokens].float() * self.scales[tokens][..., None]

    def logits(self, x: Tensor, bias: Tensor) -> Tensor:
        """(..., E) -> (..., V)."""
        return self.product(x) + bias


class QuantisedLSTMCell(nn.Module):
    """`nn.LSTMCell` with its weights in integers."""

    def __init__(self, cell: nn.LSTMCell) -> None:
        super().__init__()
        self.input = QuantisedLinear(cell.weight_ih, cell.bias_ih)
        self.hidden = QuantisedLinear(cell.weight_hh, cell.bias_hh)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """(N, in), and hidden state and cell (N, width), -> the next."""
        hidden, cell = state
        i, f, g, o = (self.input(x) + self.hidden(hidden)).chunk(4, 1)
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        return o.sigmoid() * cell.tanh(), cell


def quantise(module: nn.Module) -> None:
    """Put the matrices of a module's linear layers, LSTM cells and tied embeddings into integers, in place.

    Not those of an `UnquantisedLinear`, of refiners, and of torch's own attention and Transformer layers, whose fused
    kernels read the weights themselves.
    """
    for parent, name, child in _children(module):
        new: nn.Module | None = None
        if type(child) is nn.Linear and child.weight.numel() >= _SMALLEST:
            new = QuantisedLinear(child.weight, child.bias)
        elif type(child) is TiedEmbedding:
            new = QuantisedEmbedding(child.weight)
        elif type(child) is nn.LSTMCell and child.bias:
            new = QuantisedLSTMCell(child)
        if new is not None:
            setattr(parent, name, new.train(child.training))


def dequantise(module: nn.Module) -> None:
    """The inverse of `quantise`: the same weights in 32-bit floats, which can be trained."""
    for parent, name, child in _children(module):
        new: nn.Module | None = None
        if isinstance(child, QuantisedLinear):
            new = _linear(child)
        elif isinstance(child, QuantisedEmbedding):
            new = _embedding(child)
        elif isinstance(child, QuantisedLSTMCell):
            new = _lstm_cell(child)
        if new is not None:
            setattr(parent, name, new.train(child.training))


def quantised_matrices(module: nn.Module) -> dict[str, QuantisedMatrix]:
    """The matrices of a module that are in integers, by name."""
    return {name: part for name, part in module.named_modules() if isinstance(part, QuantisedMatrix)}


def _children(module: nn.Module) -> list[tuple[nn.Module, str, nn.Module]]:
    found = []
    for name, child in module.named_children():
        found.append((module, name, child))
        if not isinstance(child, _WHOLE):
            found += _children(child)
    return found


def _embedding(quantised: QuantisedEmbedding) -> TiedEmbedding:
    weight = quantised.weight.contiguous()
    words, width = weight.shape
    embedding = TiedEmbedding(words, width, device="meta")
    embedding.weight = nn.Parameter(weight)
    return embedding


def _linear(quantised: QuantisedLinear) -> nn.Linear:
    weight = quantised.weight.contiguous()
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=quantised.bias is not None, device="meta")
    linear.weight = nn.Parameter(weight)
    if quantised.bias is not None:
        linear.bias = nn.Parameter(quantised.bias.detach().clone())
    return linear


def _lstm_cell(quantised: QuantisedLSTMCell) -> nn.LSTMCell:
    ih, hh = quantised.input, quantised.hidden
    cell = nn.LSTMCell(ih.integers.shape[0], hh.integers.shape[0], device="meta")
    assert ih.bias is not None and hh.bias is not None
    cell.weight_ih, cell.weight_hh = nn.Parameter(ih.weight.contiguous()), nn.Parameter(hh.weight.contiguous())
    cell.bias_ih, cell.bias_hh = nn.Parameter(ih.bias.detach().clone()), nn.Parameter(hh.bias.detach().clone())
    return cell
