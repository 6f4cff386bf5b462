"""The command ``captioner train-reranker``."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from captioner import checkpoint
from captioner.cli import main
from captioner.data.readers import read
from captioner.data.records import of_split
from captioner.data.scenes import write_scenes
from captioner.header import read_header
from captioner.metrics import evaluate
from captioner.pipeline import load
from captioner.tokenizer.vocabulary import SPECIAL

Make = Callable[..., checkpoint.Checkpoint]
SIZES = ["--dims", "8", "--centres", "10", "--minimum-count", "2"]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, count=12, dev=4, size=(96, 72))
    return folder


@pytest.fixture(scope="module")
def reranked(tiny_model: Path, scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("reranked") / "out.safetensors"
    command = ["train-reranker", str(tiny_model), "--data", str(scenes), "--output", str(output), *SIZES]
    assert main([*command, "--beam", "4"]) == 0
    return output


def test_the_model_gets_a_reranker_and_stays_as_it_was(tiny_model: Path, reranked: Path) -> None:
    before, after = checkpoint.load(tiny_model), checkpoint.load(reranked)
    new = after.model.state_dict()
    assert all(tensor.equal(new[name]) for name, tensor in before.model.state_dict().items())
    assert {name.partition(".")[0] for name in new.keys() - before.model.state_dict().keys()} == {"reranker"}
    assert after.about["decoding"] == {**before.about["decoding"], "width": 4}
    made = after.about["recipe"]
    assert made["objective"] == "train_reranker"
    assert made["train_reranker_of"][0]["pictures"] == 12
    assert after.model.reranker is not None
    size = len(after.vocabulary)
    keys = after.model.reranker.regressions()[0].ngrams.tolist()
    words = {key // size**n % size for key in keys for n in range(4)}
    assert words - {0} and min(words - {0}) >= len(SPECIAL), "no start, no end and no unknown word"
    config = read_header(reranked)["config"]["reranker"]
    assert (config["dims"], config["centres"]) == (8, [10])


@pytest.mark.parametrize(("bleu_weight", "strengths"), [("0", (0.0,)), ("1", (1.5,))])
def test_what_it_prints_are_the_scores_of_its_captions(
    bleu_weight: str,
    strengths: tuple[float],
    tiny_model: Path,
    scenes: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("captioner.training.reranking.BLEU_STRENGTHS", strengths)
    write_scenes(tmp_path / "more", count=8, dev=3, first_seed=50, size=(96, 72))
    output = tmp_path / "out.safetensors"
    data = ["--data", str(scenes), "--data", str(tmp_path / "more")]
    options = ["--output", str(output), "--beam", "6", *SIZES, "--bleu-weight", bleu_weight]
    assert main(["train-reranker", str(tiny_model), *data, *options]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["bleu_strength"] == strengths[0]
    assert printed["pictures"] == 20 and min(printed["ngrams"]) > 3
    assert read_header(output)["config"]["reranker"]["ngrams"] == printed["ngrams"] and len(printed["ngrams"]) == 2
    model = load(output, backend="torch")
    scores: dict[str, list[tuple[float, float]]] = {"before": [], "after": []}
    for folder in (scenes, tmp_path / "more"):
        dev = of_split(read(folder), "dev")
        references = {one.id: list(one.captions) for one in dev}
        for name, weight in (("before", 0.0), ("after", 1.0)):
            captions = model.caption_all([one.image for one in dev], options=model.options(rerank=weight))
            texts = {one.id: str(found) for one, found in zip(dev, captions, strict=True)}
            found = evaluate(texts, references)
            scores[name].append((100 * found.cider, 100 * found.bleu[3]))
    for name, values in scores.items():
        for i, measure in enumerate(("dev_cider", "dev_bleu")):
            assert printed[measure][name] == pytest.approx(sum(one[i] for one in values) / 2, abs=0.2)


def test_no_weight_leaves_the_captions_of_the_beam(tiny_model: Path, reranked: Path, scenes: Path) -> None:
    pictures: list[str | Path] = sorted(map(str, (scenes / "images").glob("*")))[:6]  # type: ignore[assignment]
    plain, ours = (load(file, backend="torch") for file in (tiny_model, reranked))
    before = plain.caption_all(pictures, options=plain.options(width=4, n_best=4))
    for one, other in zip(before, ours.caption_all(pictures, options=ours.options(rerank=0, n_best=4)), strict=True):
        assert [each.text for each in (one, *one.alternatives)] == [each.text for each in (other, *other.alternatives)]
    order = ours.caption_all(pictures, options=ours.options(n_best=4))
    for one, other in zip(plain.caption_all(pictures, options=plain.options(width=4, n_best=4)), order, strict=True):
        texts = [{each.text for each in (some, *some.alternatives)} for some in (one, other)]
        assert texts[0] == texts[1]


def test_a_weight_in_the_file_is_of_the_reranker_before(make_checkpoint: Make, scenes: Path, tmp_path: Path) -> None:
    model = make_checkpoint("lstm")
    model.about["decoding"]["rerank"] = 0.0
    checkpoint.save(tmp_path / "m.safetensors", model)
    output = tmp_path / "out.safetensors"
    command = ["train-reranker", str(tmp_path / "m.safetensors"), "--data", str(scenes), "--output", str(output)]
    assert main([*command, *SIZES]) == 0
    assert "rerank" not in checkpoint.load(output).about["decoding"]


def test_other_commands_keep_it_or_leave_it_behind(
    reranked: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adjusted, average, ensemble = (tmp_path / f"{name}.safetensors" for name in ("adjusted", "average", "ensemble"))
    assert main(["adjust-logits", str(reranked), "--data", str(scenes), "--output", str(adjusted)]) == 0
    assert main(["average", str(reranked), str(adjusted), "--output", str(average)]) == 0
    assert main(["ensemble", str(reranked), str(adjusted), "--output", str(ensemble)]) == 0
    member = tmp_path / "member.safetensors"
    assert main(["ensemble", str(ensemble), "--member", "2", "--output", str(member)]) == 0
    command = ["train", "--data", str(scenes), "--start-from", str(reranked), "--epochs", "1", "--batch-pictures", "6"]
    assert main([*command, "--output", str(tmp_path / "run"), "--max-length", "5"]) == 0
    capsys.readouterr()
    assert "reranker" in read_header(adjusted)["config"]
    for file in (average, ensemble, member, tmp_path / "run/last.safetensors"):
        assert "reranker" not in read_header(file)["config"], file
        assert checkpoint.load(file).model.reranker is None


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--dims", "0"], "--dims"),
        (["--dims", "5000"], "--dims"),
        (["--centres", "0"], "--centres"),
        (["--ridge", "0"], "--ridge"),
        (["--ridge", "nan"], "--ridge"),
        (["--bleu-weight", "-1"], "--bleu-weight"),
        (["--bleu-weight", "nan"], "--bleu-weight"),
        (["--beam", "0"], "--beam"),
        (["--beam", "1"], "--beam"),
        (["--beam", "1000"], "1000"),
        (["--minimum-count", "99"], "--minimum-count"),
        (["--output", "model.txt"], "model.txt"),
        (["--data", "nowhere"], "nowhere"),
        (["--device", "cpu:7"], "cpu:7"),
    ],
)
def test_bad_input_is_one_line(
    more: list[str], named: str, tiny_model: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.safetensors"
    command = ["train-reranker", str(tiny_model), "--data", str(scenes), "--output", str(output), *more]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert named in error and error.count("\n") == 1
    assert not output.exists()


def test_data_without_dev_or_with_a_bad_picture(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_scenes(tmp_path / "a", count=4, dev=0, size=(96, 72))
    output = tmp_path / "out.safetensors"
    command = ["train-reranker", str(tiny_model), "--output", str(output), "--minimum-count", "1", "--data"]
    assert main([*command, str(tmp_path / "a")]) == 2
    assert "'dev'" in capsys.readouterr().err
    write_scenes(tmp_path / "b", count=5, dev=2, size=(96, 72))
    (sorted((tmp_path / "b/images").glob("*"))[0]).write_text("no picture")
    assert main([*command, str(tmp_path / "b"), str(tmp_path / "a"), "--dims", "4"]) == 1  # train of both, dev of one
    assert main([*command, str(tmp_path / "b"), "--dims", "4"]) == 1
    assert checkpoint.load(output).model.reranker is not None
