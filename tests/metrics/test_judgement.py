"""Scores of single pairs and their correlation with ratings, on made judgements with known answers."""

import importlib.util
import random
import sys
from pathlib import Path

import pytest
from scipy.stats import kendalltau

from captioner.data.readers.judgements import read_captions, read_judgements
from captioner.errors import DataError
from captioner.metrics import evaluate
from captioner.metrics.judgement import correlations, score_pairs
from captioner.metrics.rouge import rouge_l

pytestmark = pytest.mark.filterwarnings("ignore::captioner.metrics.FewPicturesWarning")

ANIMALS = ["dog", "cat", "horse", "bird"]
CAPTIONS = {
    f"{animal}.jpg#{number}": text
    for animal in ANIMALS
    for number, text in enumerate([f"a {animal} runs on grass", f"the {animal} is outside", f"one {animal}"])
}


def judgements_that_agree() -> str:
    """The dog's picture beside captions that share more and more words with its own."""
    lines = ["dog.jpg dog.jpg#0 4 4 4"]  # its own: left out
    lines += ["dog.jpg cat.jpg#2 1 1 1", "dog.jpg cat.jpg#1 2 2 2", "dog.jpg cat.jpg#0 3 3 3"]
    return "\n".join(line.replace(" ", "\t") for line in lines) + "\n"


def token_file() -> str:
    return "".join(f"{name}\t{caption}\n" for name, caption in CAPTIONS.items())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "ExpertAnnotations.txt").write_text(judgements_that_agree())
    (tmp_path / "Flickr8k.token.txt").write_text(token_file())
    return tmp_path


def test_own_captions_are_left_out_and_ratings_are_items(folder: Path) -> None:
    judgements = read_judgements(folder / "ExpertAnnotations.txt")
    assert [judgement.own for judgement in judgements] == [True, False, False, False]
    found = correlations(judgements, read_captions(folder / "Flickr8k.token.txt"))
    assert found["BLEU-1"] == pytest.approx(1.0)
    assert found["ROUGE-L"] == pytest.approx(1.0)


def test_each_rating_is_an_item_of_the_tau(tmp_path: Path) -> None:
    """The standard setting worked out by hand: own captions left out, three items a pair, tau-c."""
    draw = random.Random(3)
    rows = [
        (f"{animal}.jpg", name, [str(draw.randint(1, 4)) for _ in range(3)]) for animal in ANIMALS for name in CAPTIONS
    ]
    (tmp_path / "j.txt").write_text("".join("\t".join([picture, name, *given]) + "\n" for picture, name, given in rows))
    scores, ratings = [], []
    for picture, name, given in rows:
        if name.startswith(picture):
            continue
        own = [text.split() for other, text in CAPTIONS.items() if other.startswith(picture)]
        scores += [rouge_l(CAPTIONS[name].split(), own)] * 3
        ratings += [int(rating) for rating in given]
    assert len(ratings) == 3 * (len(rows) - len(CAPTIONS))
    found = correlations(read_judgements(tmp_path / "j.txt"), CAPTIONS)
    assert found["ROUGE-L"] == pytest.approx(kendalltau(scores, ratings, variant="c").statistic)


def test_pairs_may_repeat_a_picture() -> None:
    references = {animal: [text for name, text in CAPTIONS.items() if name.startswith(animal)] for animal in ANIMALS}
    pairs = [("dog", "a dog"), ("dog", "a cat runs"), ("bird", "one bird")]
    scores = score_pairs(pairs, references)
    assert scores.ids == (0, 1, 2)
    for row, (picture, caption) in enumerate(pairs):
        alone = evaluate({picture: caption}, {picture: references[picture]})
        assert scores.bleu_per_picture[row].tolist() == pytest.approx(alone.bleu_per_picture[0].tolist())
        assert scores.rouge_l_per_picture[row] == pytest.approx(alone.rouge_l)
    assert scores.cider_per_picture[2] > scores.cider_per_picture[1]
    with pytest.raises(DataError, match="picture 'fox' is judged"):
        score_pairs([("fox", "a fox")], references)


@pytest.mark.parametrize(
    ("text", "message"),
    [("dog.jpg\tcat.jpg#0\n", "line 1:"), ("a.jpg b.jpg#0 1 2 3\na.jpg b.jpg#1 x\n", "line 2:"), (" \n", "is empty")],
)
def test_judgements_that_cannot_be_read(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "j.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        read_judgements(tmp_path / "j.txt")


def test_a_judged_caption_that_is_not_there(folder: Path) -> None:
    judgements = read_judgements(folder / "ExpertAnnotations.txt")
    with pytest.raises(DataError, match=r"caption 'cat.jpg#2' is judged"):
        correlations(judgements, {name: text for name, text in CAPTIONS.items() if name != "cat.jpg#2"})


def test_the_benchmark_prints_a_table(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "human_judgement.py"
    specification = importlib.util.spec_from_file_location("human_judgement", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    monkeypatch.setattr(sys, "argv", ["human_judgement.py", str(folder)])
    assert module.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "3 pairs without the pictures' own captions; the literature has 5,664"
    assert lines[2].split() == ["BLEU-1", "100.0", "32.3"]
    monkeypatch.setattr(sys, "argv", ["human_judgement.py", str(folder / "nowhere")])
    assert module.main() == 2
    assert "cannot read" in capsys.readouterr().err
