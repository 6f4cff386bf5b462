"""A folded batch-norm computes and learns as the two modules apart."""

import copy

import pytest
import torch
from torch import Tensor, nn

from captioner.model.encoder import EncoderConfig, GridEncoder
from captioner.model.folding import ConvNorm, fold_norms


def apart(*, bias: bool = False, groups: int = 1) -> nn.Sequential:
    net = nn.Sequential(
        nn.Sequential(
            nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=bias, groups=groups), nn.BatchNorm2d(6, eps=1e-2), nn.SiLU()
        )
    )
    norm = net[0][1]
    with torch.no_grad():
        for values in (norm.weight, norm.bias, norm.running_mean):
            values.normal_()
        norm.running_var.uniform_(0.5, 2)
    return net


def gradients(net: nn.Module, pixels: Tensor) -> dict[str, Tensor]:
    net.zero_grad()
    net(pixels).square().sum().backward()
    return {name: p.grad for name, p in net.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("bias", "groups"), [(False, 1), (True, 1), (False, 2)])
@pytest.mark.parametrize("training", [False, True])
def test_folding_changes_neither_output_nor_gradients(bias: bool, groups: int, training: bool) -> None:
    two = apart(bias=bias, groups=groups).train(training)
    one = copy.deepcopy(two)
    fold_norms(one)
    assert isinstance(one[0], ConvNorm)
    pixels = torch.randn(3, 4, 8, 8)
    torch.testing.assert_close(one(pixels), two(pixels))
    expected = gradients(two, pixels)
    assert len(expected) == 3 + bias
    torch.testing.assert_close(gradients(one, pixels), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(one.state_dict(), two.state_dict())  # statistics too, and the same names


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("groups", "inside"), [(1, torch.bfloat16), (2, torch.float32)])
def test_in_16_bits_a_processor_computes_grouped_convolutions_in_32(
    groups: int, inside: torch.dtype, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = apart(groups=groups).train(training)
    fold_norms(net)
    computed: list[torch.dtype] = []
    plain = nn.functional.conv2d

    def listen(*arguments: Tensor) -> Tensor:
        output = plain(*arguments)
        computed.append(output.dtype)
        return output

    monkeypatch.setattr(nn.functional, "conv2d", listen)
    pixels = torch.randn(3, 4, 8, 8).bfloat16()
    exact, expected = net(pixels.float()), gradients(net, pixels.float())
    computed.clear()
    with torch.autocast("cpu", torch.bfloat16):
        rounded, found = net(pixels), gradients(net, pixels)
    assert computed == [inside, inside]
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), exact, rtol=0.03, atol=0.05)
    for name, gradient in expected.items():
        assert (found[name].float() - gradient).norm() < 0.03 * gradient.norm()


def test_what_is_no_convolution_with_its_norm_stays_as_it_is() -> None:
    net = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()),
        nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)),
        nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, affine=False)),
        nn.Sequential(nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2d(3)),
    )
    fold_norms(net)
    assert not any(isinstance(m, ConvNorm) for m in net.modules())


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_b4", "mobilenet_v3_large"])
def test_the_encoders_that_are_chains_of_convolutions_are_folded_throughout(name: str) -> None:
    encoder = GridEncoder(EncoderConfig(backbone=name, side=65))
    norms = sum(isinstance(m, nn.BatchNorm2d) for m in encoder.modules())
    assert norms == sum(isinstance(m, ConvNorm) for m in encoder.modules()) > 10
