"""``captioner ensemble``: one model of several whose words' probabilities are averaged."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from captioner import checkpoint
from captioner.checkpoint import Checkpoint
from captioner.cli import main
from captioner.data.scenes import write_scenes
from captioner.errors import OptionError
from captioner.model.caption_model import CaptionModel
from captioner.model.ensemble import EnsembleConfig
from captioner.model.refiners import REFINERS
from captioner.pipeline import load
from captioner.tokenizer.vocabulary import SPECIAL, Vocabulary
from captioner.training.ensembles import make_ensemble, take_member
from captioner.training.growth import add_fine_maps, without_fine_maps

Make = Callable[..., Checkpoint]


@pytest.fixture
def members(make_checkpoint: Make, tmp_path: Path) -> list[Path]:
    """An LSTM with fine maps, and a Transformer on its encoder with a refiner and an order of words of its own."""
    lstm = add_fine_maps(make_checkpoint("lstm"), {"fine_stage": 1}, {"fine_width": 8})
    torch.manual_seed(6)
    torch.nn.init.normal_(lstm.model.decoder.fine.query.weight)
    other = add_fine_maps(make_checkpoint("transformer"), {"fine_stage": 1}, {"fine_width": 8})
    config = replace(other.model.config, refiner=replace(other.model.config.refiner, width=24))
    torch.manual_seed(7)
    model = CaptionModel(config, vocabulary_size=len(other.vocabulary)).eval()
    model.encoder.load_state_dict(lstm.model.encoder.state_dict())
    words = tuple(reversed(other.vocabulary.words[len(SPECIAL) :]))
    other = replace(other, model=model, vocabulary=Vocabulary(SPECIAL + words))
    files = [tmp_path / "lstm.safetensors", tmp_path / "transformer.safetensors"]
    options = ({"explain": "attention"}, {"explain": "attention", "attention": {"delay": 1}})
    for file, one, maps, name in zip(files, (lstm, other), options, ("a", "b"), strict=True):
        about = {**one.about, "maps": maps, "recipe": {"objective": name}, "dev": {"scores": {}}}
        checkpoint.save(file, replace(one, about=about), half=False)
    return files


def ensemble(members: list[Path], folder: Path) -> Path:
    file = folder / "ensemble.safetensors"
    assert main(["ensemble", *map(str, members), "--output", str(file)]) == 0
    return file


def distribution(file: Path, photo: Path) -> dict[str, float]:
    """Of the second word, after "a"."""
    model = load(file, backend="torch")
    words = [word for word in model.vocabulary.words if word not in SPECIAL]
    found = model.read(photo, [f"a {word}" for word in words])
    return {word: one.words[1].probability for word, one in zip(words, found, strict=True)}


def test_probabilities_are_averaged_word_by_word(
    members: list[Path], make_picture: Callable[..., Path], tmp_path: Path
) -> None:
    photo = make_picture()
    mixed = distribution(ensemble(members, tmp_path), photo)
    first, second = (distribution(file, photo) for file in members)
    assert set(mixed) == set(first) == set(second)
    for word, probability in mixed.items():
        assert probability == pytest.approx((first[word] + second[word]) / 2, rel=1e-3)
    assert max(abs(first[word] - second[word]) for word in first) > 0.01


def test_a_model_without_its_fine_maps_has_the_same_words(members: list[Path], tmp_path: Path) -> None:
    """As a teacher is, a single model or an ensemble."""
    for file in (*members, ensemble(members, tmp_path)):
        whole = checkpoint.load(file).model.eval()
        plain = without_fine_maps(whole)
        assert whole.fine_maps is not None
        assert plain.fine_maps is None
        assert plain.encoder.vector_width == plain.encoder.channels < whole.encoder.vector_width
        assert without_fine_maps(plain) is plain
        pixels, reads = torch.rand(2, 3, *[whole.config.encoder.side] * 2), torch.randint(4, 7, (2, 5))
        with torch.no_grad():
            torch.testing.assert_close(plain(pixels, reads).logits, whole(pixels, reads).logits)


def test_it_looks_where_its_first_member_looks(
    members: list[Path], make_picture: Callable[..., Path], tmp_path: Path
) -> None:
    photo, file = make_picture(size=(50, 20)), ensemble(members, tmp_path)
    (ours,), (theirs,) = (load(one, backend="torch").read(photo, ["a dog"]) for one in (file, members[0]))
    for word, other in zip(ours.words, theirs.words, strict=True):
        assert word.map.shape == (16, 16)
        np.testing.assert_allclose(word.map, other.map, atol=1e-6)
    config = checkpoint.load(file).model.config.decoder
    assert isinstance(config, EnsembleConfig)
    assert config.members[1]["fine_width"] == 0 and config.members[1]["refiner"]["width"] == 24


def test_a_member_is_taken_out_as_it_went_in(
    members: list[Path], make_picture: Callable[..., Path], tmp_path: Path
) -> None:
    whole, photo = ensemble(members, tmp_path), make_picture()
    for number, file in enumerate(members, 1):
        taken = tmp_path / f"member-{number}.safetensors"
        assert main(["ensemble", str(whole), "--member", str(number), "--output", str(taken)]) == 0
        assert distribution(taken, photo) == pytest.approx(distribution(file, photo), rel=1e-6)
    first, second = (checkpoint.load(tmp_path / f"member-{number}.safetensors") for number in (1, 2))
    (ours,), (theirs,) = (
        load(one, backend="torch").read(photo, ["a dog"]) for one in (tmp_path / "member-1.safetensors", members[0])
    )
    for word, other in zip(ours.words, theirs.words, strict=True):
        np.testing.assert_array_equal(word.map, other.map)
    assert first.model.fine_maps is not None and first.about["maps"] == checkpoint.load(whole).about["maps"]
    assert second.model.fine_maps is None and second.about["maps"] == {
        "explain": "attention",
        "attention": {"delay": 1},
    }
    plain = tmp_path / "plain.safetensors"
    source = checkpoint.load(members[1])
    checkpoint.save(plain, replace(source, model=without_fine_maps(source.model)), half=False)
    (ours,), (theirs,) = (
        load(one, backend="torch").read(photo, ["a dog"]) for one in (tmp_path / "member-2.safetensors", plain)
    )
    for word, other in zip(ours.words, theirs.words, strict=True):
        np.testing.assert_array_equal(word.map, other.map)
    for one in (first, second):
        recipes = [*one.about["earlier"], one.about["recipe"]]
        assert [recipe["objective"] for recipe in recipes] == ["a", "b", "ensemble", "member"]
    # What came out makes the same ensemble again.
    again = tmp_path / "again.safetensors"
    assert main(["ensemble", *(str(tmp_path / f"member-{n}.safetensors") for n in (1, 2)), "--output", str(again)]) == 0
    assert distribution(again, photo) == pytest.approx(distribution(whole, photo), rel=1e-6)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["ensemble", "--member", "3"], "the members of {ensemble} are 1 to 2, not 3"),
        (["ensemble", "--member", "0"], "the members of {ensemble} are 1 to 2, not 0"),
        (["lstm", "--member", "1"], "{lstm} is no ensemble"),
        (["lstm", "transformer", "--member", "1"], "--member takes one out of one ensemble, and 2 models are given"),
        (["bests", "--member", "1"], "no model is called 'bests'"),
    ],
)
def test_members_that_are_not_there_are_one_line(
    given: list[str], message: str, members: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ensemble(members, tmp_path)
    files = {name: str(tmp_path / f"{name}.safetensors") for name in ("lstm", "transformer", "ensemble")}
    output = tmp_path / "one.safetensors"
    assert main(["ensemble", *(files.get(one, one) for one in given), "--output", str(output)]) == 2
    error = capsys.readouterr().err
    assert message.format_map(files) in error
    assert error.count("\n") == 1
    assert not output.exists()


def test_both_runtimes_agree(members: list[Path], make_picture: Callable[..., Path], tmp_path: Path) -> None:
    file, photo = ensemble(members, tmp_path), make_picture()
    assert main(["export", str(file), "--graphs"]) == 0
    ours, theirs = (load(file, backend=name) for name in ("onnx", "torch"))
    one, other = ours.caption(photo), theirs.caption(photo)
    assert one.text == other.text
    for word, again in zip(one.words, other.words, strict=True):
        np.testing.assert_allclose(word.map, again.map, atol=1e-5)
        assert word.probability == pytest.approx(again.probability, rel=1e-3)
    (read,), (again_read,) = (model.read(photo, ["a red dog"]) for model in (ours, theirs))
    for word, again in zip(read.words, again_read.words, strict=True):
        assert word.probability == pytest.approx(again.probability, rel=1e-3)
    weights = sum(one.stat().st_size for one in (tmp_path / "graphs" / "ensemble").iterdir())
    assert weights < file.stat().st_size, "the graphs hold no weights, and no positions of either refiner"


def test_other_commands_take_it(members: list[Path], make_picture: Callable[..., Path], tmp_path: Path) -> None:
    file, photo = str(ensemble(members, tmp_path)), str(make_picture(size=(50, 20)))
    caption = ["caption", "--model", file, "--backend", "torch", photo]
    for explain in ("attention", "gradient", "occlusion"):
        assert main([*caption, "--explain", explain]) == 0
    word = load(file, backend="torch").caption(photo).words[0].text
    assert main([*caption, "--heads", word, "--figure", str(tmp_path / "heads.png")]) == 0
    clip = load(file, backend="torch").caption_clip([make_picture(f"{i}.png", seed=i) for i in range(2)])
    assert clip.words[0].map.shape == clip.geometry.grid
    assert main(["models", file, "--diagram", str(tmp_path / "flow.gv")]) == 0
    source = (tmp_path / "flow.gv").read_text()
    assert "mean of the probabilities" in source and "Transformer" in source and "LSTM" in source


def test_it_can_be_trained_further(members: list[Path], tmp_path: Path) -> None:
    write_scenes(tmp_path / "scenes", count=4, dev=2, size=(64, 48))
    data = str(tmp_path / "scenes" / "captions.jsonl")
    file = ensemble(members, tmp_path)
    run = ["train", "--data", data, "--start-from", str(file), "--output", str(tmp_path / "run"), "--epochs", "1"]
    assert main([*run, "--frozen-epochs", "1", "--dev-pictures", "2", "--captions-per-picture", "1"]) == 0
    before, after = (checkpoint.load(one).model.state_dict() for one in (file, tmp_path / "run" / "last.safetensors"))
    for part in ("decoder.members.0.", "decoder.members.1.", "decoder.refiners.1."):
        assert any(not torch.equal(after[name], before[name]) for name in before if name.startswith(part)), part


@pytest.mark.parametrize("kind", ["transformer_encoder", "latent_queries", "coarse_cells"])
def test_gradients_go_through_members_with_other_refiners(
    kind: str, make_checkpoint: Make, make_picture: Callable[..., Path], tmp_path: Path
) -> None:
    """Of padded pictures, whose grids have masks."""
    files = [tmp_path / "1.safetensors", tmp_path / "2.safetensors"]
    first = make_checkpoint("lstm", pad=True)
    options = {"latent_queries": {"queries": 3, "pooling_heads": 2}, "coarse_cells": {"regions": 2}}.get(kind, {})
    refiner = REFINERS[kind].config(width=12, heads=2, **options)
    config = replace(make_checkpoint("transformer", pad=True).model.config, refiner=refiner)
    other = CaptionModel(config, vocabulary_size=len(first.vocabulary)).eval()
    other.encoder.load_state_dict(first.model.encoder.state_dict())
    for file, one in zip(files, (first, replace(first, model=other)), strict=True):
        checkpoint.save(file, one, half=False)
    model = load(ensemble(files, tmp_path), backend="torch")
    photo = make_picture(size=(50, 20))
    caption = model.caption(photo, explain="gradient")
    assert caption.words and all(np.isfinite(word.map).all() for word in caption.words)
    assert np.isfinite(model.contrast(caption, 0, model.vocabulary.words[6]).map).all()


def test_a_refiner_that_is_kept_is_kept_in_every_member(members: list[Path], tmp_path: Path) -> None:
    write_scenes(tmp_path / "scenes", count=4, dev=2, size=(64, 48))
    data = str(tmp_path / "scenes" / "captions.jsonl")
    file, run = ensemble(members, tmp_path), tmp_path / "run"
    options = ["--no-train-refiner", "--epochs", "1", "--frozen-epochs", "1", "--dev-pictures", "2"]
    assert main(["train", "--data", data, "--start-from", str(file), "--output", str(run), *options]) == 0
    before, after = (checkpoint.load(one).model.state_dict() for one in (file, run / "last.safetensors"))
    kept = [name for name in before if "refiner" in name]
    assert any(name.startswith("decoder.refiners.1.") for name in kept)
    for name in kept:
        assert torch.equal(after[name].half(), before[name].half()), name


def test_text_teaches_the_decoders_alone(members: list[Path], tmp_path: Path) -> None:
    write_scenes(tmp_path / "scenes", count=4, dev=2, size=(64, 48))
    data, text = str(tmp_path / "scenes" / "captions.jsonl"), tmp_path / "text.txt"
    text.write_text("a dog in the park\na red cat\n" * 4)
    file, run = ensemble(members, tmp_path), tmp_path / "run"
    options = ["--objective", "language_model", "--text", str(text), "--epochs", "1", "--frozen-epochs", "1"]
    assert main(["train", "--data", data, "--start-from", str(file), "--output", str(run), *options]) == 0
    before, after = (checkpoint.load(one).model.state_dict() for one in (file, run / "last.safetensors"))
    for name in before:
        if "refiner" in name or name.startswith("encoder."):
            assert torch.equal(after[name].half(), before[name].half()), name
    name = "decoder.members.1.embed.weight"
    assert not torch.equal(after[name].half(), before[name].half())


def test_the_file_says_what_it_is_made_of(members: list[Path], tmp_path: Path) -> None:
    about = checkpoint.load(ensemble(members, tmp_path)).about
    assert about["recipe"]["objective"] == "ensemble"
    assert [one["file"].rpartition("/")[2] for one in about["recipe"]["ensemble_of"]] == [one.name for one in members]
    assert [one["objective"] for one in about["earlier"]] == ["a", "b"]
    assert about["decoding"] == {"width": 2, "max_length": 6, "min_length": 3}
    assert "dev" not in about, "the scores of the first are not the ensemble's"


def test_a_shared_refiner_is_stored_once(make_checkpoint: Make, tmp_path: Path) -> None:
    files = [tmp_path / "1.safetensors", tmp_path / "2.safetensors"]
    for file in files:
        checkpoint.save(file, make_checkpoint("lstm"), half=False)
    found = make_ensemble(files)
    assert not found.model.decoder.config.has_refiners
    assert not any("refiners" in name for name in found.model.state_dict())
    checkpoint.save(tmp_path / "whole.safetensors", found, half=False)
    for number, file in enumerate(files, 1):
        taken, given = take_member(tmp_path / "whole.safetensors", number).model, checkpoint.load(file).model
        for name, weight in given.state_dict().items():
            torch.testing.assert_close(taken.state_dict()[name], weight, rtol=0, atol=0)


@pytest.mark.parametrize("command", ["average", "ensemble"])
def test_models_are_found_by_name(
    command: str,
    members: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("captioner.shipped._checkpoints", lambda: str(tmp_path))
    output = tmp_path / "out" / "new.safetensors"
    assert main([command, "lstm", "lstm", "--output", str(output)]) == 0
    assert output.is_file()
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "config.json").write_text('{"model_type": "blip", "architectures": ["BlipForConditionalGeneration"]}')
    capsys.readouterr()
    for given, message in (
        (str(foreign), "one in the form of transformers"),
        ("bests", "no model is called 'bests'"),
        (str(tmp_path / "none.safetensors"), "no such model file"),
    ):
        assert main([command, "lstm", given, "--output", str(tmp_path / "no.safetensors")]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1, error
    assert not (tmp_path / "no.safetensors").exists()


def test_models_that_do_not_fit_are_refused(
    members: list[Path], make_checkpoint: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = make_checkpoint("lstm")
    other = replace(one, vocabulary=Vocabulary((*one.vocabulary.words[:-1], "zebra")))
    checkpoint.save(tmp_path / "words.safetensors", other, half=False)
    with torch.no_grad():
        next(one.model.encoder.parameters()).add_(1)
    checkpoint.save(tmp_path / "encoder.safetensors", one, half=False)
    whole, output = ensemble(members, tmp_path), tmp_path / "out.safetensors"
    capsys.readouterr()
    cases = {
        "two model files or more": [members[0]],
        "the encoder of": [members[0], tmp_path / "encoder.safetensors"],
        "the words of": [members[0], tmp_path / "words.safetensors"],
        "is an ensemble itself": [members[0], whole],
        "16 at most": [members[0]] * 17,
        "no such": [members[0], tmp_path / "none.safetensors"],
    }
    for said, files in cases.items():
        assert main(["ensemble", *map(str, files), "--output", str(output)]) == 2
        assert said in capsys.readouterr().err
    assert not output.exists()
    assert main(["ensemble", *map(str, members), "--output", str(members[1])]) == 2
    with pytest.raises(OptionError, match="ensemble"):
        make_ensemble([whole, members[1]])
    capsys.readouterr()
    assert main(["average", str(whole), str(whole), "--output", str(output)]) == 2
    assert "is an ensemble" in capsys.readouterr().err


def test_its_decoder_is_no_member_of_another_model(
    members: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_scenes(tmp_path / "scenes", count=4, dev=2, size=(64, 48))
    data = str(tmp_path / "scenes" / "captions.jsonl")
    taken = ["--decoder-from", str(ensemble(members, tmp_path)), "--output", str(tmp_path / "run")]
    assert main(["train", "--data", data, *taken]) == 2
    assert "ensemble" in capsys.readouterr().err


def test_a_decoder_is_trained_on_the_refiner_of_another_model(
    members: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Then the ensemble of both has one refiner."""
    write_scenes(tmp_path / "scenes", count=8, dev=2, size=(64, 48))
    data, run = str(tmp_path / "scenes" / "captions.jsonl"), tmp_path / "run"
    taken = ["--encoder-from", str(members[0]), "--no-train-refiner", "--decoder", "transformer"]
    options = ["--decoder-options", '{"width": 16, "layers": 1, "heads": 2, "hidden": 16}', "--minimum-count", "1"]
    short = ["--epochs", "1", "--frozen-epochs", "1", "--dev-pictures", "2", "--output", str(run)]
    assert main(["train", "--data", data, *taken, *options, *short]) == 0
    again = ["--output", str(tmp_path / "other"), "--refiner-options", '{"width": 32}']
    assert main(["train", "--data", data, *taken, *again]) == 2
    assert "--refiner-options: width" in capsys.readouterr().err
    ours, theirs = (checkpoint.load(one).model for one in (run / "last.safetensors", members[0]))
    assert ours.config.refiner == theirs.config.refiner
    for name, tensor in theirs.refiner.state_dict().items():
        assert torch.equal(ours.refiner.state_dict()[name].half(), tensor.half())
