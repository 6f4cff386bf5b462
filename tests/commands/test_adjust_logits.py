"""The command ``captioner adjust-logits``."""

import json
import math
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from captioner import checkpoint
from captioner.cli import main
from captioner.data.readers import read
from captioner.data.records import of_split
from captioner.data.scenes import write_scenes
from captioner.errors import DataError, OptionError
from captioner.metrics import tokenize
from captioner.pipeline import load
from captioner.tokenizer.vocabulary import SPECIAL
from captioner.training.logit_adjustment import MOST, SMOOTHING, adjustment, output_bias

Make = Callable[..., checkpoint.Checkpoint]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, count=12, dev=2, size=(96, 72))
    return folder


def test_what_changes_is_the_bias_of_words_of_the_references(
    tiny_model: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.safetensors"
    assert main(["adjust-logits", str(tiny_model), "--data", str(scenes), "--output", str(output)]) == 0
    printed = json.loads(capsys.readouterr().out)
    before, after = checkpoint.load(tiny_model), checkpoint.load(output)
    assert printed["pictures"] == 12
    assert after.about["recipe"]["objective"] == "adjust_logits"
    assert after.about["recipe"]["adjust_logits_of"][0]["strength"] == 0.3
    own, new = before.model.state_dict(), after.model.state_dict()
    assert {name for name in own if not own[name].equal(new[name])} == {"decoder.bias"}
    train = of_split(read(scenes), "train")
    people = {word for record in train for caption in record.captions for word in tokenize(caption)}
    known = people & set(before.vocabulary.words)
    assert printed["references"] == len(known) > 0
    changed = (new["decoder.bias"] - own["decoder.bias"]).tolist()
    assert all(value == 0 for word, value in zip(before.vocabulary.words, changed, strict=True) if word not in known)
    assert any(changed) and max(map(abs, changed)) <= 0.3 * 1.5 + 1e-6


def test_all_members_of_an_ensemble_are_adjusted_alike(make_checkpoint: Make, scenes: Path, tmp_path: Path) -> None:
    one, other = make_checkpoint("lstm"), make_checkpoint("transformer")
    other.model.encoder.load_state_dict(one.model.encoder.state_dict())
    files = [tmp_path / "lstm.safetensors", tmp_path / "transformer.safetensors"]
    for file, member in zip(files, (one, other), strict=True):
        checkpoint.save(file, member, half=False)
    both, output = tmp_path / "both.safetensors", tmp_path / "out.safetensors"
    assert main(["ensemble", *map(str, files), "--output", str(both)]) == 0
    assert main(["adjust-logits", str(both), "--data", str(scenes), "--output", str(output), "--pictures", "5"]) == 0
    own, new = (checkpoint.load(file).model.state_dict() for file in (both, output))
    changes = [new[name] - own[name] for name in own if not own[name].equal(new[name])]
    assert len(changes) == 2
    assert changes[0].abs().max() > 0.01
    torch.testing.assert_close(changes[0], changes[1])
    assert checkpoint.load(output).about["recipe"]["adjust_logits_of"][0]["pictures"] == 5


def test_a_word_that_is_said_too_often_becomes_less_likely(tiny_model: Path, scenes: Path, tmp_path: Path) -> None:
    records = of_split(read(scenes), "train")
    said = [one.text.split() for one in load(tiny_model, backend="torch").caption_all([r.image for r in records])]
    assert sum(words.count("a") for words in said) > len(records), "the untrained model says it all the time"

    def log_p(file: Path, word: str) -> float:
        """Of a word after "a"."""
        return math.log(load(file, backend="torch").read(records[0].image, [f"a {word}"])[0].words[1].probability)

    output = tmp_path / "out.safetensors"
    command = ["adjust-logits", str(tiny_model), "--data", str(scenes), "--output", str(output), "--strength", "1"]
    assert main(command) == 0
    before, after = (checkpoint.load(file) for file in (tiny_model, output))
    changed = after.model.decoder.state_dict()["bias"] - before.model.decoder.state_dict()["bias"]
    words = dict(zip(before.vocabulary.words, changed.tolist(), strict=True))
    assert words["a"] < -0.5 and words["cat"] == 0  # which is in no caption of these scenes
    changes = [log_p(output, word) - log_p(tiny_model, word) for word in ("a", "cat")]
    assert changes[0] - changes[1] == pytest.approx(words["a"], abs=1e-3)


def test_pictures_of_several_data_sets_count_though_their_ids_are_the_same(
    tiny_model: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_scenes(tmp_path / "more", count=12, dev=1, first_seed=50, size=(96, 72))
    one, both = tmp_path / "one.safetensors", tmp_path / "both.safetensors"
    command = ["adjust-logits", str(tiny_model), "--data", str(scenes)]
    assert main([*command, "--output", str(one)]) == 0
    assert main([*command, str(tmp_path / "more"), "--pictures", "20", "--output", str(both)]) == 0
    counts = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [found["pictures"] for found in counts] == [12, 20]
    own, new = (checkpoint.load(file).model.decoder.state_dict()["bias"] for file in (one, both))
    assert not own.equal(new)


def test_a_second_adjustment_stands_in_the_record(tiny_model: Path, scenes: Path, tmp_path: Path) -> None:
    files = [tiny_model, tmp_path / "m.safetensors", tmp_path / "n.safetensors"]
    for file, output in pairwise(files):
        assert main(["adjust-logits", str(file), "--data", str(scenes), "--output", str(output)]) == 0
    about = checkpoint.load(files[-1]).about
    assert [one["objective"] for one in (*about["earlier"], about["recipe"])] == ["adjust_logits"] * 2


def test_the_adjustment() -> None:
    words = (*SPECIAL, "dog", "cat", "often", "never", "unknown")
    generated, people = Counter(dog=50, often=50), Counter(dog=200, cat=1, often=9, never=90, more=700)
    found = adjustment(generated, people, words).tolist()
    assert found[:4] == [0, 0, 0, 0] and found[-1] == 0  # special words, and one that no reference has
    expected = [math.log((200 / 1000 + SMOOTHING) / (0.5 + SMOOTHING)), MOST, -MOST, MOST]
    assert found[4:-1] == pytest.approx(expected, abs=1e-6)
    with pytest.raises(DataError, match="references"):
        adjustment(generated, Counter(), words)
    with pytest.raises(DataError, match="generated"):
        adjustment(Counter(), people, words)


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--strength", "0"], "--strength"),
        (["--strength", "nan"], "--strength"),
        (["--strength", "inf"], "--strength"),
        (["--pictures", "0"], "--pictures"),
        (["--output", "model.txt"], "model.txt"),
        (["--data", "nowhere"], "nowhere"),
        (["--images", "here", "--data", "a", "b"], "--images"),
        (["--device", "cpu:7"], "cpu:7"),
    ],
)
def test_bad_input_is_one_line(
    more: list[str], named: str, tiny_model: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.safetensors"
    command = ["adjust-logits", str(tiny_model), "--data", str(scenes), "--output", str(output), *more]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert named in error and error.count("\n") == 1
    assert not output.exists()


def test_the_model_is_not_overwritten_and_a_bad_picture_is_named(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_scenes(tmp_path, count=4, dev=1, size=(96, 72))
    assert main(["adjust-logits", str(tiny_model), "--data", str(tmp_path), "--output", str(tiny_model)]) == 2
    assert "--output" in capsys.readouterr().err
    records = of_split(read(tmp_path), "train")
    Path(records[0].image).write_text("no picture")
    output = tmp_path / "out.safetensors"
    assert main(["adjust-logits", str(tiny_model), "--data", str(tmp_path), "--output", str(output)]) == 1
    captured = capsys.readouterr()
    assert captured.err.count(Path(records[0].image).name) == 1
    assert json.loads(captured.out)["pictures"] == 3
    for record in records:
        Path(record.image).write_text("no picture")
    output.unlink()
    assert main(["adjust-logits", str(tiny_model), "--data", str(tmp_path), "--output", str(output)]) == 2
    assert not output.exists()


def test_unsuitable_models_and_data_are_refused(
    tiny_model: Path, scenes: Path, tiny_answers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_scenes(tmp_path, count=0, dev=3, size=(96, 72))
    output = tmp_path / "out.safetensors"
    for model, data, named in (
        (tiny_model, [tmp_path], "'train'"),
        (tiny_model, [scenes, tmp_path], "'train'"),
        (tiny_answers, [scenes], "answers questions"),
    ):
        command = ["adjust-logits", str(model), "--data", *map(str, data), "--output", str(output)]
        assert main(command) == 2
        error = capsys.readouterr().err
        assert named in error and error.count("\n") == 1
        assert not output.exists()


def test_a_decoder_without_an_output_bias_is_refused(make_checkpoint: Make) -> None:
    decoder = make_checkpoint("lstm").model.decoder
    assert output_bias(decoder, 16) is decoder.bias
    for words in (15, 17):
        with pytest.raises(OptionError, match="bias"):
            output_bias(decoder, words)
    del decoder.bias
    with pytest.raises(OptionError, match="LSTM"):
        output_bias(decoder, 16)
