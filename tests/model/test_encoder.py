"""Every backbone becomes a grid; what is frozen stays as it is."""

from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file

from captioner.errors import CheckpointError, OptionError
from captioner.model.backbones import BACKBONES, build_stages
from captioner.model.encoder import EncoderConfig, GridEncoder
from captioner.model.preprocess import normalise
from captioner.model.vision import import_torchvision


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_gives_a_row_major_grid(name: str) -> None:
    side = 65 if name == "efficientnet_lite0" else 64
    encoder = GridEncoder(EncoderConfig(backbone=name, side=side)).eval()
    pixels = torch.randn(2, 3, side, side)
    with torch.no_grad():
        grid = encoder(pixels)
        raw = encoder.stages(pixels)
    assert grid.shape == encoder.grid_shape == tuple(raw.shape[2:])
    assert grid.features.shape == (2, grid.shape[0] * grid.shape[1], encoder.channels)
    row, column = grid.shape[0] - 1, 1
    torch.testing.assert_close(grid.features[:, row * grid.shape[1] + column], raw[:, :, row, column])


def test_lite0_has_no_squeeze_and_no_silu() -> None:
    kinds = {type(module).__name__ for module in build_stages("efficientnet_lite0").modules()}
    assert "SqueezeExcitation" not in kinds
    assert "SiLU" not in kinds
    assert "ReLU6" in kinds


def test_stages_and_blocks_can_be_left_out() -> None:
    whole = build_stages("efficientnet_b4")
    cut = build_stages("efficientnet_b4", stages=8, last_blocks=1)
    assert len(whole) == 9
    assert len(cut) == 8
    assert len(cut[7]) == 1 < len(whole[7])
    for stages, blocks in ((0, None), (10, None), (8, 9)):
        with pytest.raises(OptionError, match="efficientnet_b4 has 1 to"):
            build_stages("efficientnet_b4", stages=stages, last_blocks=blocks)


def test_a_stage_that_is_one_block_stays_whole() -> None:
    torch.manual_seed(0)
    whole = build_stages("mobilenet_v3_large", stages=4).eval()
    torch.manual_seed(0)
    cut = build_stages("mobilenet_v3_large", stages=4, last_blocks=1).eval()
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(cut(pixels), whole(pixels))


def test_a_download_that_fails_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(name: str, *, weights: str) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(import_torchvision().models, "get_model", offline)
    with pytest.raises(CheckpointError, match=r"weights of resnet50 cannot be downloaded .*no route to host"):
        build_stages("resnet50", weights="torchvision")


def test_weights_come_from_a_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    donor = BACKBONES["mobilenet_v3_large"].build(None)
    save_file({k: v.half() if v.dim() > 1 else v for k, v in donor.state_dict().items()}, tmp_path / "w.safetensors")
    stages = build_stages("mobilenet_v3_large", weights=tmp_path / "w.safetensors")
    torch.testing.assert_close(stages[0][0].weight, donor.features[0][0].weight, rtol=1e-3, atol=1e-4)


def test_a_file_that_lacks_weights_serves_for_the_stages_that_it_has(tmp_path: Path) -> None:
    donor = BACKBONES["efficientnet_lite0"].build(None)
    some = {k: v for k, v in donor.state_dict().items() if not k.startswith(("features.8", "classifier"))}
    save_file(some, tmp_path / "w.safetensors")
    assert len(build_stages("efficientnet_lite0", stages=8, weights=tmp_path / "w.safetensors")) == 8
    with pytest.raises(CheckpointError, match=r"'features.8.0.weight' the first of them"):
        build_stages("efficientnet_lite0", weights=tmp_path / "w.safetensors")


def test_wrong_weights_are_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "noise.safetensors").write_bytes(b"\x93 not weights at all")
    with pytest.raises(CheckpointError, match=r"noise.safetensors: not a readable safetensors file"):
        build_stages("tiny", weights=tmp_path / "noise.safetensors")
    with pytest.raises(CheckpointError, match=r"absent.safetensors"):
        build_stages("tiny", weights=tmp_path / "absent.safetensors")
    save_file({"features.0.0.weight": torch.zeros(2, 2)}, tmp_path / "shape.safetensors")
    with pytest.raises(CheckpointError, match="do not fit the network"):
        build_stages("tiny", weights=tmp_path / "shape.safetensors")
    with pytest.raises(OptionError, match="torchvision has no weights for efficientnet_lite0"):
        build_stages("efficientnet_lite0", weights="torchvision")
    with pytest.raises(OptionError, match="no backbone is called 'vgg16'"):
        build_stages("vgg16")


def learning(encoder: GridEncoder) -> list[bool]:
    return [all(p.requires_grad for p in stage.parameters()) for stage in encoder.stages]


def test_learning_starts_at_the_chosen_stage() -> None:
    encoder = GridEncoder(EncoderConfig(backbone="resnet50", side=64))
    assert learning(encoder) == [False] * 5
    encoder.train_from(3)
    assert learning(encoder) == [False, False, False, True, True]
    encoder.train_from(0)
    assert learning(encoder) == [True] * 5
    encoder.train_from(None)
    assert learning(encoder) == [False] * 5
    with pytest.raises(OptionError, match="has stages 0 to 4 here; 5 is none of them"):
        encoder.train_from(5)


@pytest.mark.parametrize("update", [False, True])
def test_batch_norm_statistics_stay_put_unless_asked(update: bool) -> None:
    encoder = GridEncoder(EncoderConfig(backbone="resnet50", side=64))
    encoder.train_from(4, update_statistics=update)
    encoder.train()
    before = {name: b.clone() for name, b in encoder.named_buffers() if "running" in name}
    encoder(torch.randn(4, 3, 64, 64) * 3 + 1)
    moved = {name for name, b in encoder.named_buffers() if "running" in name and not torch.equal(b, before[name])}
    assert bool(moved) == update
    assert all(name.startswith("stages.4") for name in moved), "a frozen stage has drifted"


def test_batch_norms_eps_is_part_of_the_configuration() -> None:
    config = EncoderConfig(backbone="efficientnet_b4", side=64, norm_eps=1e-3)
    norms = [m for m in GridEncoder(config).modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms and {norm.eps for norm in norms} == {1e-3}
    usual = GridEncoder(EncoderConfig(backbone="efficientnet_b4", side=64))
    assert {m.eps for m in usual.modules() if isinstance(m, torch.nn.BatchNorm2d)} == {1e-5}
    with pytest.raises(OptionError, match="norm_eps must be above 0, not 0"):
        EncoderConfig(norm_eps=0)


def test_frozen_stages_are_the_same_in_training_and_evaluation() -> None:
    encoder = GridEncoder(EncoderConfig(backbone="efficientnet_b0", side=64))  # has stochastic depth
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(encoder.train()(pixels).features, encoder.eval()(pixels).features)


def test_the_configuration_fills_in_what_the_backbone_likes() -> None:
    config = EncoderConfig(backbone="efficientnet_lite0")
    assert config.side == 225
    assert config.mean == pytest.approx((127 / 255,) * 3)
    assert EncoderConfig(backbone="resnet50").side == 224
    for wrong in ({"side": 8}, {"std": (0.0, 1.0, 1.0)}, {"mean": (0.5,)}):
        with pytest.raises(OptionError):
            EncoderConfig(backbone="resnet50", **wrong)


def test_pixels_are_normalised_as_the_configuration_says() -> None:
    config = EncoderConfig(backbone="efficientnet_lite0")
    pixels = torch.tensor([0, 127, 255], dtype=torch.uint8).repeat(2, 5, 5, 1)  # R, G, B of every pixel
    x = normalise(pixels, config)
    assert x.shape == (2, 3, 5, 5)
    expected = torch.tensor([-127 / 128, 0.0, 1.0])
    torch.testing.assert_close(x[1, :, 2, 3], expected, rtol=0, atol=1e-6)
