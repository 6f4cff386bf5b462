"""The mean of models: weights in proportion, and a refusal where a mean would be nonsense."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from captioner import checkpoint
from captioner.checkpoint import Checkpoint
from captioner.cli import main
from captioner.data.readers import read
from captioner.errors import OptionError
from captioner.model.caption_model import CaptionModel, ModelConfig
from captioner.model.encoder import EncoderConfig
from captioner.model.lstm import LSTMConfig
from captioner.model.refiners import RefinerConfig
from captioner.model.transformer import TransformerConfig
from captioner.tokenizer.vocabulary import Vocabulary
from captioner.training.average_checkpoints import average_checkpoints
from captioner.training.growth import grow
from captioner.training.loop import Trainer
from captioner.training.recipe import Recipe
from captioner.training.start import recipes_of

CONFIG = ModelConfig(
    encoder=EncoderConfig(backbone="tiny", side=48),
    refiner=RefinerConfig(width=16),
    decoder=LSTMConfig(width=8, embedding=8, output_hidden=8, attention_width=8, heads=2),
)
WORDS = Vocabulary.build([["a", "dog"]], minimum_count=1)


def made(file: Path, config: ModelConfig = CONFIG, *, seed: int = 0, by: float = 0.0, **about: object) -> Path:
    """A file of a new model, all of its weights and buffers raised."""
    torch.manual_seed(seed)
    model = CaptionModel(config, vocabulary_size=len(WORDS)).eval()
    for tensor in model.state_dict().values():
        tensor += int(100 * by) if tensor.dtype == torch.long else by
    checkpoint.save(file, Checkpoint(model=model, vocabulary=WORDS, about=about), half=False)
    return file


def run(*arguments: object) -> int:
    return main(["average", *map(str, arguments)])


def test_every_weight_is_the_weighted_mean(tmp_path: Path) -> None:
    config = replace(CONFIG, encoder=EncoderConfig(backbone="efficientnet_b0", stages=2, side=32))  # has buffers
    one, two = made(tmp_path / "1.safetensors", config), made(tmp_path / "2.safetensors", config, by=0.04)
    assert run(one, two, "--weights", 3, 1, "--output", tmp_path / "mean.safetensors") == 0
    found, base = checkpoint.load(tmp_path / "mean.safetensors"), checkpoint.load(one)
    before = base.model.state_dict()
    assert any("running_mean" in name for name in before)
    for name, tensor in found.model.state_dict().items():
        expected = before[name] + 0.01 if tensor.is_floating_point() else before[name]
        torch.testing.assert_close(tensor, expected, msg=lambda text, name=name: f"{name}: {text}")  # type: ignore[misc]
    assert found.model.config == base.model.config
    assert found.vocabulary == base.vocabulary


@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [0.3, 0.3, 0.1]])
def test_what_is_the_same_in_all_stays_the_same(tmp_path: Path, weights: list[float]) -> None:
    """To the last bit, so that a model whose encoder was frozen still shares it with others."""
    one = made(tmp_path / "1.safetensors")
    found = average_checkpoints([one, one, one], weights=weights)
    before = checkpoint.load(one).model.state_dict()
    assert all(torch.equal(tensor, before[name]) for name, tensor in found.model.state_dict().items())


def test_the_file_says_what_it_is_the_average_of(tmp_path: Path) -> None:
    first = {"objective": "cross_entropy"}
    rewarded = {"objective": "self_critical"}  # two runs may differ in their data alone, which a recipe does not hold
    map_options = {"explain": "gradient", "gradient": {"sinks": "keep", "delay": 0}}
    one = made(
        tmp_path / "1.safetensors",
        earlier=[first],
        recipe=rewarded,
        maps=map_options,
        decoding={"width": 3},
        dev={"cider": 1},
    )
    two = made(tmp_path / "2.safetensors", earlier=[first], recipe=rewarded, teacher=[first], epoch=2)
    about = average_checkpoints([one, two]).about
    assert about["earlier"] == [first, rewarded, rewarded]
    assert about["teacher"] == [first]
    assert [member["file"] for member in about["recipe"]["average_of"]] == [
        f"{tmp_path.name}/1.safetensors",
        f"{tmp_path.name}/2.safetensors",
    ]
    assert about["recipe"]["average_of"][1] | {"file": ""} == {"file": "", "weight": 1.0, "epoch": 2}
    assert about["decoding"] == {"width": 3}
    assert about["maps"] == map_options
    assert "dev" not in about, "the scores of the first are not the mean's"


@pytest.mark.parametrize("sides", [(48, 64), (64, 48)])
def test_the_first_says_what_is_not_learned(sides: tuple[int, int], tmp_path: Path) -> None:
    files = [
        made(
            tmp_path / f"{side}.safetensors",
            ModelConfig(
                encoder=replace(CONFIG.encoder, side=side),
                refiner=replace(CONFIG.refiner, dropout=side / 100),
                decoder=replace(CONFIG.decoder, dropout=side / 100, map_heads=(side == 64,)),  # type: ignore[call-arg]
            ),
        )
        for side in sides
    ]
    assert average_checkpoints(files).model.config == checkpoint.load(files[0]).model.config


@pytest.mark.parametrize("shares", [[1.0], [1.0, 0.0], [1.0, -1.0], [1.0, float("nan")], [1e308, 1e308]])
def test_shares_are_one_for_each_and_above_zero(tmp_path: Path, shares: list[float]) -> None:
    with pytest.raises(OptionError, match="weights above 0"):
        average_checkpoints([made(tmp_path / "1.safetensors")] * 2, weights=shares)


def test_one_model_has_no_mean(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = made(tmp_path / "1.safetensors")
    assert run(one, "--output", tmp_path / "mean.safetensors") == 2
    assert "two model files or more, not 1" in capsys.readouterr().err
    assert not (tmp_path / "mean.safetensors").exists()


def test_a_model_is_not_overwritten_by_its_mean(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = made(tmp_path / "1.safetensors"), made(tmp_path / "2.safetensors", by=0.04)
    before = one.read_bytes()
    assert run(one, two, "--output", tmp_path / "." / "1.safetensors") == 2
    assert "1.safetensors is an input" in capsys.readouterr().err
    assert one.read_bytes() == before


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = made(tmp_path / "1.safetensors")
    (tmp_path / "folder").mkdir()
    for output in (tmp_path / "folder", one / "below"):
        assert run(one, one, "--output", output) == 2
        line = capsys.readouterr().err
        assert f"--output {output}: " in line and "name a file in" in line
        assert line.count("\n") == 1
    picture = tmp_path / "photo.jpg"
    picture.write_bytes(b"a photograph")
    assert run(one, one, "--output", picture) == 2
    assert "photo.jpg" in (line := capsys.readouterr().err) and ".safetensors" in line
    assert picture.read_bytes() == b"a photograph"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.safetensors", "folder", "photo.jpg"]


@pytest.mark.parametrize("start_at", [0, 1, 2])
def test_the_start_may_be_one_of_them(tmp_path: Path, start_at: int) -> None:
    words, reward = {"objective": "cross_entropy"}, {"objective": "self_critical"}
    files = [made(tmp_path / f"{i}.safetensors", earlier=[words], recipe=reward | {"seed": i}) for i in range(2)]
    files.insert(start_at, made(tmp_path / "start.safetensors", recipe=words))
    assert average_checkpoints(files).about["earlier"] == [words, reward | {"seed": 0}, reward | {"seed": 1}]


def test_models_of_other_words_have_no_mean(tmp_path: Path) -> None:
    one = made(tmp_path / "1.safetensors")
    model = checkpoint.load(one)
    other = replace(model, vocabulary=Vocabulary((*model.vocabulary.words[:-1], "zebra")))
    checkpoint.save(tmp_path / "2.safetensors", other)
    with pytest.raises(OptionError, match=r"vocabular.*2\.safetensors.*1\.safetensors"):
        average_checkpoints([one, tmp_path / "2.safetensors"])


def test_the_start_may_know_fewer_words(tmp_path: Path) -> None:
    start = made(tmp_path / "start.safetensors")
    before = checkpoint.load(start)
    torch.manual_seed(0)
    model, vocabulary = grow(before, ["a zebra"], minimum_count=1)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor += 2 if tensor.dtype == torch.long else 0.02
    grown = tmp_path / "grown.safetensors"
    checkpoint.save(grown, Checkpoint(model=model, vocabulary=vocabulary, about={}), half=False)
    found = average_checkpoints([grown, start])
    assert found.vocabulary == vocabulary
    old, words = before.model.state_dict(), len(WORDS)
    for name, tensor in found.model.state_dict().items():
        ours, theirs = model.state_dict()[name], old[name]
        if tensor.shape == theirs.shape:
            torch.testing.assert_close(tensor, (ours + theirs) / 2, check_dtype=False)
        else:
            torch.testing.assert_close(tensor, torch.cat([(ours[:words] + theirs) / 2, ours[words:]]))
    assert found.model.state_dict()["decoder.embed.weight"].shape[0] == words + 1
    with pytest.raises(OptionError, match=r"vocabular.*grown"):
        average_checkpoints([start, grown])


def test_models_that_began_apart_have_no_mean(tmp_path: Path) -> None:
    one, other = made(tmp_path / "1.safetensors", seed=1), made(tmp_path / "2.safetensors", seed=2)
    with pytest.raises(OptionError, match="come from different starts"):
        average_checkpoints([one, other])
    model = checkpoint.load(one)
    model.model.encoder = checkpoint.load(other).model.encoder
    checkpoint.save(tmp_path / "3.safetensors", model, half=False)
    with pytest.raises(OptionError, match="come from different starts"):
        average_checkpoints([one, tmp_path / "3.safetensors"])


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            lambda: replace(CONFIG, encoder=replace(CONFIG.encoder, pad=True)),
            "the encoder's pad is True in .*2, False in",
        ),
        (
            lambda: replace(CONFIG, decoder=replace(CONFIG.decoder, attend_after_lstm=False)),
            "the decoder's attend_after_lstm is False in .*2, True in",
        ),
        (
            lambda: replace(CONFIG, decoder=TransformerConfig(width=8, layers=1, heads=2, hidden=8)),
            "the decoder's kind is transformer in .*2, lstm in",
        ),
        (lambda: replace(CONFIG, refiner=replace(CONFIG.refiner, width=20)), "the refiner's width is 20 in .*2, 16 in"),
    ],
)
def test_models_that_differ_in_more_than_size_have_no_mean(
    changed: Callable[[], ModelConfig], said: str, tmp_path: Path
) -> None:
    with pytest.raises(OptionError, match=said):
        average_checkpoints([made(tmp_path / "1"), made(tmp_path / "2", changed())])


def test_a_run_goes_on_from_a_mean(scene_run: Path, tmp_path: Path) -> None:
    records = read(scene_run / "scenes")
    files = [str(scene_run / "best.safetensors"), str(scene_run / "last.safetensors")]
    checkpoint.save(tmp_path / "mean.safetensors", average_checkpoints(files), half=False)
    recipe = Recipe(start_from=str(tmp_path / "mean.safetensors"), epochs=1, frozen_epochs=1, horizontal_flip=False)
    best = checkpoint.load(Trainer(recipe, records, tmp_path / "run", device="cpu").run())
    assert [one["objective"] for one in best.about["earlier"]] == ["cross_entropy", "cross_entropy", "average"]
    assert recipes_of(str(scene_run / "best.safetensors"))[-1] == best.about["earlier"][0]
    assert best.about["dev"]["cider"] > 0.3, "what the two knew is not lost"


def test_graphs_of_the_former_file_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = made(tmp_path / "1.safetensors"), made(tmp_path / "2.safetensors", by=0.04)
    (tmp_path / "graphs" / "mean").mkdir(parents=True)
    assert run(one, two, "--output", tmp_path / "mean.safetensors") == 0
    line = capsys.readouterr().err
    assert str(tmp_path / "graphs" / "mean") in line and "captioner export" in line
