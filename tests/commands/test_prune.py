"""The command ``captioner prune``, and the pruning of hidden channels."""

import copy
import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
import torch

from captioner import checkpoint
from captioner.cli import main
from captioner.data.readers import read
from captioner.data.records import Record, of_split
from captioner.data.scenes import write_scenes
from captioner.errors import OptionError
from captioner.model.caption_model import CaptionModel, ModelConfig
from captioner.model.encoder import EncoderConfig, GridEncoder
from captioner.model.inverted_residuals import inverted_residuals, set_hidden_channels
from captioner.model.lstm import LSTMConfig
from captioner.model.refiners import RefinerConfig
from captioner.pipeline import load
from captioner.tokenizer.vocabulary import SPECIAL, Vocabulary
from captioner.training.images import ImageDataset, load_pixels
from captioner.training.prune import MULTIPLE, _eliminate, prune
from captioner.training.views import View

WORDS = ("a", "red", "blue", "green", "circle", "square", "on", "of")


def model_with(encoder: EncoderConfig) -> checkpoint.Checkpoint:
    torch.manual_seed(1)
    config = ModelConfig(
        encoder=encoder,
        refiner=RefinerConfig(width=16, heads=2),
        decoder=LSTMConfig(width=16, embedding=8, output_hidden=12, attention_width=8, heads=1),
    )
    vocabulary = Vocabulary((*SPECIAL, *WORDS))
    model = CaptionModel(config, vocabulary_size=len(vocabulary)).eval()
    return checkpoint.Checkpoint(model=model, vocabulary=vocabulary, about={"decoding": {"width": 2, "max_length": 5}})


@pytest.fixture(scope="module")
def lite() -> checkpoint.Checkpoint:
    """Of blocks of three kinds: with a stride, within a stage, and of another kernel."""
    return model_with(EncoderConfig(backbone="efficientnet_lite0", stages=4, side=65))


@pytest.fixture(scope="module")
def lite_file(lite: checkpoint.Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("lite") / "lite.safetensors"
    checkpoint.save(file, lite, half=False)
    return file


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, count=12, dev=2, size=(96, 72))
    return folder


@pytest.fixture
def records(scenes: Path) -> list[Record]:
    return of_split(read(scenes), "train")


def grids(encoder: GridEncoder) -> torch.Tensor:
    with torch.no_grad():
        return encoder(torch.randn(2, 3, 65, 65, generator=torch.Generator().manual_seed(0))).features


def test_what_is_left_of_the_encoder(
    lite: checkpoint.Checkpoint, lite_file: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.safetensors"
    assert main(["prune", str(lite_file), "--data", str(scenes), "--keep", "0.7", "--output", str(output)]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["before"] == [96, 144, 144, 240]
    assert printed["after"] == [64, 96, 96, 176]
    assert all(0 < error < 1 for error in printed["errors"])
    found = checkpoint.load(output)
    assert found.model.config.encoder.hidden_channels == (64, 96, 96, 176)
    assert [one.hidden_channels for one in inverted_residuals(found.model.encoder.stages)] == printed["after"]
    assert found.about["decoding"] == lite.about["decoding"]
    assert found.about["recipe"]["prune_of"][0]["keep"] == [0.7] and found.about["recipe"]["objective"] == "prune"
    assert output.stat().st_size < lite_file.stat().st_size
    own, new = lite.model.state_dict(), found.model.state_dict()
    assert all(own[name].equal(new[name]) for name in own if not name.startswith("encoder."))
    assert main(["export", str(output), "--graphs", "--threads", "1"]) == 0
    differences = json.loads(capsys.readouterr().out)
    assert differences["log_p_difference"] < 1e-3
    picture = of_split(read(scenes), "train")[0].image
    texts = [load(output, backend=backend).caption(picture).text for backend in ("onnx", "torch")]
    assert texts[0] == texts[1]


def test_a_share_for_each_block_and_one_that_keeps_all(
    lite: checkpoint.Checkpoint, lite_file: Path, records: list[Record]
) -> None:
    same = prune(lite, records, keep=[1.0], file=lite_file)
    assert same.before == same.after and same.errors == (0.0,) * 4
    torch.testing.assert_close(grids(same.model.model.encoder), grids(lite.model.encoder))
    some = prune(lite, records, keep=[1.0, 0.5, 1.0, 0.01], file=lite_file)
    assert some.after == (96, 80, 144, MULTIPLE)  # a few channels always stay
    assert some.errors[0] == some.errors[2] == 0 and min(some.errors[1], some.errors[3]) > 0


def test_channels_that_others_repeat_cost_nothing(lite_file: Path, records: list[Record]) -> None:
    model = model_with(EncoderConfig(backbone="efficientnet_lite0", stages=4, side=65))
    for block in inverted_residuals(model.model.encoder.stages):
        half = block.hidden_channels // 2
        for part in (block.expansion, block.depthwise):
            for tensor in part.state_dict().values():
                if tensor.dim():
                    tensor[half:] = tensor[:half]
    found = prune(model, records, keep=[0.5], file=lite_file)
    assert found.after == (48, 80, 80, 128)  # the half of 144 lies between two multiples of 16
    assert max(found.errors) < 1e-4
    torch.testing.assert_close(grids(found.model.model.encoder), grids(model.model.encoder), rtol=0.02, atol=0.02)


def test_the_fit_makes_good_what_went(lite: checkpoint.Checkpoint, lite_file: Path, records: list[Record]) -> None:
    """The grids are nearer to those before than with the same channels and the weights that they had."""
    found = prune(lite, records, keep=[0.6], file=lite_file)
    plain = copy.deepcopy(lite.model.encoder)
    set_hidden_channels(plain.stages, found.after)
    whole = grids(lite.model.encoder)
    fitted, cut = ((grids(one) - whole).square().mean() for one in (found.model.model.encoder, plain))
    assert fitted < 0.5 * cut


def test_those_channels_go_that_cost_least() -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(200, 8, generator=generator).double() @ torch.randn(8, 8, generator=generator).double()
    y = x @ torch.randn(8, 3, generator=generator).double() + torch.randn(200, 3, generator=generator)

    def error(kept: tuple[int, ...]) -> float:
        weights = torch.linalg.lstsq(x[:, list(kept)], y).solution
        return float((y - x[:, list(kept)] @ weights).square().sum())

    left = tuple(range(8))
    for count in (7, 6, 5, 4):
        left = min(combinations(left, count), key=error)  # all are fitted again after each that goes
        kept, weights = _eliminate(x.T @ x, x.T @ y, count)
        assert tuple(kept.tolist()) == left
        torch.testing.assert_close(weights, torch.linalg.lstsq(x[:, kept], y).solution, rtol=1e-3, atol=1e-4)


def test_channels_that_are_all_zero_go_first() -> None:
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(1)).double()
    x[:, [0, 2]] = 0
    kept, _ = _eliminate(x.T @ x, x.T @ x[:, [1, 3]], 2)
    assert kept.tolist() == [1, 3]
    kept, weights = _eliminate(torch.zeros(3, 3).double(), torch.zeros(3, 2).double(), 1)
    assert len(kept) == 1 and not weights.any()


def test_a_block_corrects_what_its_skip_connection_passes_on(
    lite: checkpoint.Checkpoint, lite_file: Path, records: list[Record]
) -> None:
    """After the second block, which has one, the features are nearer to those before than after the first alone."""
    shares = ([0.5, 1.0, 1.0, 1.0], [0.5, 0.9, 1.0, 1.0])
    one, both = (prune(lite, records, keep=keep, file=lite_file).model.model.encoder for keep in shares)
    assert [block.has_skip for block in inverted_residuals(lite.model.encoder.stages)] == [False, True, False, True]

    def features(encoder: GridEncoder) -> torch.Tensor:
        with torch.no_grad():
            return encoder.stages[:3](normalised)

    images = ImageDataset([record.image for record in records], lite.model.encoder)
    keys = [[(i, View()) for i in range(len(records))]]
    normalised = next(load_pixels(lite.model.encoder, images, keys, device=torch.device("cpu"))).values
    whole = features(lite.model.encoder)
    before, after = ((features(encoder) - whole).square().mean() for encoder in (one, both))
    assert after < 0.9 * before


def test_it_trains_further(lite_file: Path, scenes: Path, tmp_path: Path) -> None:
    pruned, run = tmp_path / "pruned.safetensors", tmp_path / "run"
    assert main(["prune", str(lite_file), "--data", str(scenes), "--keep", "0.6", "--output", str(pruned)]) == 0
    options = ["--epochs", "1", "--frozen-epochs", "0", "--batch-pictures", "4", "--learning-rate", "1e-3"]
    command = ["train", "--data", str(scenes), "--output", str(run), "--start-from", str(pruned), *options]
    assert main(command) == 0
    trained = checkpoint.load(run / "last.safetensors")
    assert trained.model.config.encoder.hidden_channels == (64, 80, 80, 144)
    own, new = (one.model.encoder.state_dict() for one in (checkpoint.load(pruned), trained))
    assert any(not own[name].equal(new[name]) for name in own if name.startswith("stages.3"))


def test_a_picture_that_does_not_open_is_left_out(
    lite_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_scenes(tmp_path, count=4, dev=1, size=(96, 72))
    bad = Path(of_split(read(tmp_path), "train")[0].image)
    bad.write_text("no picture")
    output = tmp_path / "out.safetensors"
    assert main(["prune", str(lite_file), "--data", str(tmp_path), "--keep", "0.8", "--output", str(output)]) == 1
    assert capsys.readouterr().err.count(bad.name) == 1
    assert output.exists()


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--keep", "0"], "--keep"),
        (["--keep", "1.5"], "--keep"),
        (["--keep", "nan"], "--keep"),
        (["--keep", "0.5", "0.5"], "4 blocks"),
        (["--pictures", "0"], "--pictures"),
        (["--output", "model.txt"], "model.txt"),
        (["--data", "nowhere"], "nowhere"),
    ],
)
def test_bad_input_is_one_line(
    more: list[str], named: str, lite_file: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.safetensors"
    command = ["prune", str(lite_file), "--data", str(scenes), "--keep", "0.8", "--output", str(output), *more]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert named in error and error.count("\n") == 1
    assert not output.exists()


@pytest.fixture(params=[("tiny", 3), ("efficientnet_b0", 2), ("efficientnet_b0", 3), ("efficientnet_lite0", 2)])
def other(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    file = tmp_path / "other.safetensors"
    backbone, stages = request.param
    checkpoint.save(file, model_with(EncoderConfig(backbone=backbone, stages=stages, side=64)))
    return file


def test_other_encoders_are_refused(
    other: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.safetensors"
    assert main(["prune", str(other), "--data", str(scenes), "--keep", "0.8", "--output", str(output)]) == 2
    error = capsys.readouterr().err
    assert "efficientnet_lite0" in error and error.count("\n") == 1


def test_hidden_channels_that_do_not_fit_are_refused(lite: checkpoint.Checkpoint) -> None:
    config = lite.model.config.encoder
    for widths in ((96,), (97, 144, 144, 240)):
        with pytest.raises(OptionError):
            GridEncoder(replace(config, hidden_channels=widths))
    for widths in ((0,), (1.5,), ("a",)):
        with pytest.raises(OptionError, match="hidden_channels"):
            EncoderConfig(hidden_channels=widths)
