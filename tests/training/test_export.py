"""A model that ships has its decoding from dev and its scores from test, in its file."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from captioner import checkpoint
from captioner.cli import main
from captioner.data.readers import read
from captioner.data.records import Record, of_split
from captioner.data.scenes import write_scenes
from captioner.decoding import Beam
from captioner.errors import CheckpointError, OptionError
from captioner.metrics import Scores, tokenize
from captioner.metrics.description import Description, describe
from captioner.pipeline import load
from captioner.training import export as ship
from captioner.training.dev import encode_records, generate_captions, score_captions


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes with a test split."""
    folder = tmp_path_factory.mktemp("scenes")
    file = write_scenes(folder, count=1, dev=110, size=(96, 72))
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for row in rows[-55:]:
        row["split"] = "test"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def repeats(captions: list[str]) -> float:
    return describe([tokenize(caption) for caption in captions]).repeats


def captions_of(model: checkpoint.Checkpoint, records: list[Record]) -> dict[str, str]:
    grids = encode_records(model.model, records, device=torch.device("cpu"))
    options = Beam(**model.about["decoding"])
    return generate_captions(model.model, model.vocabulary, records, grids, options=options)


def test_the_file_holds_what_was_measured(
    scene_run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shipped = tmp_path / "model.safetensors"
    arguments = [str(scene_run / "best.safetensors"), "--data", str(data), "--name", "scenes", "--output", str(shipped)]
    assert main(["export", *arguments, "--threads", "1", "--side", "64"]) == 0
    tried = [line for line in capsys.readouterr().err.splitlines() if "beam" in line]
    assert len(tried) == len(ship.WIDTHS) * len(ship.LENGTH_PENALTIES) * len(ship.NO_REPEATS)
    model = checkpoint.load(shipped)
    assert model.model.config.encoder.side == 64
    records = read(data)
    for split in ("dev", "test"):
        some = of_split(records, split)
        captions = captions_of(model, some)
        stored = model.about[split]
        assert stored["on"] == f"scenes {split}"
        found = score_captions(captions, some)
        for ours, theirs in {"bleu_1": "BLEU-1", "bleu_4": "BLEU-4", "rouge_l": "ROUGE-L", "cider": "CIDEr"}.items():
            assert stored["scores"][theirs] == pytest.approx(100 * found[ours], abs=0.006)
    assert model.about["test"]["pictures"] == 55


def test_what_is_measured_has_the_weights_of_the_file(
    scene_run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped, run = tmp_path / "model.safetensors", tmp_path / "mean.safetensors"
    trained = checkpoint.load(scene_run / "best.safetensors")
    for weight in trained.model.parameters():
        weight.data *= 1.0001  # no longer what fits into 16 bits, as in a mean
    checkpoint.save(run, trained, half=False)
    measured: list[dict[str, torch.Tensor]] = []

    def scored(model: checkpoint.Checkpoint, *_: object) -> tuple[Scores, Description]:
        measured.append(model.model.state_dict())
        raise OptionError("seen")

    monkeypatch.setattr(ship, "score", scored)
    arguments = [str(run), "--data", str(data), "--output", str(shipped), "--threads", "1"]
    assert main(["export", *arguments]) == 2
    checkpoint.save(shipped, trained)
    stored = checkpoint.load(shipped).model.state_dict()
    assert all(torch.equal(measured[0][name], tensor) for name, tensor in stored.items())
    assert not all(torch.equal(stored[name], tensor) for name, tensor in trained.model.state_dict().items())


def test_weights_too_large_to_be_stored_are_refused(scene_run: Path) -> None:
    model = checkpoint.load(scene_run / "best.safetensors")
    model.model.decoder.embed.weight.data[4] = 1e6
    with pytest.raises(CheckpointError, match="16 bits"):
        ship.as_stored(model)


def test_a_decoding_that_repeats_itself_more_than_people_do_is_not_chosen(
    scene_run: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = checkpoint.load(scene_run / "best.safetensors")
    dev = of_split(read(data), "dev")
    assert repeats([caption for record in dev for caption in record.captions]) < 0.2
    honest = ship.generate_captions

    def babbling(*arguments: object, options: Beam) -> dict[str, str]:
        captions = honest(*arguments, options=options)  # type: ignore[arg-type]
        if options.no_repeat_ngram:  # the worse captions by far, but none of them repeats
            return dict.fromkeys(captions, "a dog")
        return {name: text + " and a dog and a" * (i % 3 == 0) for i, (name, text) in enumerate(captions.items())}

    monkeypatch.setattr(ship, "generate_captions", babbling)
    chosen, _ = ship.choose_decoding(model, dev)
    assert chosen.no_repeat_ngram == 2


def test_the_decoding_of_the_best_scores_together_is_chosen(
    scene_run: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = checkpoint.load(scene_run / "best.safetensors")
    dev = of_split(read(data), "dev")
    scores, looks = ship.score(model, dev, encode_records(model.model, dev, device=torch.device("cpu")), Beam())
    given = {(3, 1.0): (0.60, 0.20, 0.500), (5, 0.8): (0.62, 0.21, 0.495), (5, 1.0): (0.59, 0.20, 0.505)}

    def scored(*arguments: object) -> tuple[Scores, Description]:
        options = arguments[-1]
        assert isinstance(options, Beam)
        first, fourth, cider = given.get((options.width, options.length_penalty), (0.1, 0.1, 0.1))
        return replace(scores, bleu=(first, 0.4, 0.3, fourth), cider=cider), replace(looks, repeats=0.0)

    monkeypatch.setattr(ship, "score", scored)
    chosen, found = ship.choose_decoding(model, dev)
    assert (chosen.width, chosen.length_penalty) == (5, 0.8)
    assert found["CIDEr"] == pytest.approx(49.5)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"--data": "none.jsonl"}, "none.jsonl"),
        ({"--output": "exported/"}, "--data is for a release"),
        ({"--precision": "fp16"}, "a release has 16 bits"),
        ({"--decoding": "[1]"}, "[1]"),
        ({"--decoding": '{"widht": 3}'}, "length_penalty"),
        ({"--decoding": '{"width": 500}'}, "at most 100"),  # the file would not load
        ({"--decoding": '{"max_length": 150}'}, "at most 100 words"),
        ({"--decoding": '{"require_words": ["zxqv"]}'}, "zxqv"),
        ({"--threads": "0"}, "--threads must be at least 1, not 0"),
        ({"--side": "7"}, "not 7"),
        ({"--device": "tpu9"}, "'tpu9'"),
        ({"--output": f"{__file__}/x/y.safetensors"}, "is no folder"),
    ],
)
def test_bad_input_is_one_line(
    changes: dict[str, str], said: str, scene_run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"--data": str(data), "--output": str(tmp_path / "x.safetensors")} | changes
    model = scene_run / "best.safetensors"
    assert main(["export", str(model), *(word for pair in given.items() for word in pair)]) == 2
    line = capsys.readouterr().err
    assert said in line
    assert line.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_model_is_not_overwritten_by_its_release(
    scene_run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, link = tmp_path / "model.safetensors", tmp_path / "link.safetensors"
    model.write_bytes((scene_run / "best.safetensors").read_bytes())
    link.symlink_to(model)
    before = model.read_bytes()
    assert main(["export", str(model), "--data", str(data), "--output", str(link)]) == 2
    assert "link.safetensors" in capsys.readouterr().err
    assert model.read_bytes() == before


def test_a_decoding_that_is_given_is_not_chosen(scene_run: Path, data: Path, tmp_path: Path) -> None:
    output = tmp_path / "model.safetensors"
    command = ["export", str(scene_run / "best.safetensors"), "--data", str(data), "--output", str(output)]
    assert main([*command, "--decoding", '{"width": 2, "length_penalty": 0.4}']) == 0
    assert checkpoint.load(output).about["decoding"] == {"width": 2, "length_penalty": 0.4, "no_repeat_ngram": 0}
    assert main([*command, "--decoding", '{"width": 2, "max_length": 5, "forbid_words": ["red"]}']) == 0
    # The scores are measured with all of them, so the file holds all of them.
    stored = checkpoint.load(output).about["decoding"]
    assert stored == {
        "width": 2, "length_penalty": 0.7, "no_repeat_ngram": 0, "max_length": 5, "forbid_words": ["red"]
    }  # fmt: skip
    assert load(output).default_options == Beam(**stored)
