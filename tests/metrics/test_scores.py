"""BLEU, ROUGE-L and CIDEr on captions whose figures can be worked out by hand, and what must hold for all."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.translate.bleu_score import SmoothingFunction, corpus_bleu, sentence_bleu

from captioner.errors import DataError, OptionError
from captioner.metrics import DocumentFrequencies, FewPicturesWarning, References, cider_of, evaluate
from captioner.metrics.bleu import smoothed_bleu_of
from captioner.metrics.rouge import rouge_l

pytestmark = pytest.mark.filterwarnings("ignore::captioner.metrics.FewPicturesWarning")

words = st.lists(st.sampled_from(["a", "dog", "cat", "runs", "sits", "on", "the", "mat"]), max_size=9)
sentences = words.map(" ".join)
sets = st.lists(st.tuples(sentences, st.lists(sentences, min_size=1, max_size=3)), min_size=1, max_size=6)


def test_bleu_pools_counts_and_clips_them() -> None:
    scores = evaluate({1: "the the the cat", 2: "a dog"}, {1: ["the cat sat here", "the the mat"], 2: ["a dog"]})
    # 1: the twice (clipped) and cat, of 4; 2: both of 2. Lengths 4 + 2 equal those of the closest references.
    assert scores.bleu[0] == pytest.approx(5 / 6, abs=1e-8)
    # Pairs: the-the and the-cat of 3 (the-the is clipped at 1); a-dog of 1.
    assert scores.bleu[1] == pytest.approx(math.sqrt(5 / 6 * 3 / 4), abs=1e-8)


def test_bleu_punishes_captions_shorter_than_the_closest_reference() -> None:
    scores = evaluate({1: "a dog"}, {1: ["a dog runs fast", "a dog and a cat run"]})
    assert scores.bleu[0] == pytest.approx(math.exp(1 - 4 / 2), abs=1e-8)


def test_of_two_equally_close_references_the_shorter_counts() -> None:
    scores = evaluate({1: "a dog runs"}, {1: ["a dog runs here", "a dog"]})
    assert scores.bleu[0] == pytest.approx(1.0, abs=1e-8)


@given(sets)
def test_bleu_is_that_of_nltk_where_every_order_matches(pairs: list[tuple[str, list[str]]]) -> None:
    full = "the dog runs on the mat"
    pairs = [(f"{caption} {full}", [f"{reference} {full}" for reference in group]) for caption, group in pairs]
    scores = evaluate(
        {key: caption for key, (caption, _) in enumerate(pairs)}, {key: group for key, (_, group) in enumerate(pairs)}
    )
    expected = corpus_bleu([[ref.split() for ref in group] for _, group in pairs], [text.split() for text, _ in pairs])
    assert scores.bleu[3] == pytest.approx(expected, abs=1e-8)


@given(sets)
def test_smoothed_bleu_is_that_of_nltk(pairs: list[tuple[str, list[str]]]) -> None:
    hypotheses = [["a", *caption.split()] for caption, _ in pairs]
    references = [[["a", *reference.split()] for reference in group] for _, group in pairs]
    shares = [[1 / order] * order for order in (1, 2, 3, 4)]
    expected = [
        [sentence_bleu(group, words, weights, SmoothingFunction().method2) for weights in shares]
        for words, group in zip(hypotheses, references, strict=True)
    ]
    assert smoothed_bleu_of(hypotheses, references) == pytest.approx(np.array(expected), abs=1e-8)


def test_rouge_takes_precision_and_recall_from_the_best_reference_each() -> None:
    found = rouge_l(["a", "dog", "runs", "home"], [["a", "dog"], ["the", "big", "dog", "runs", "home", "now"]])
    precision, recall = 3 / 4, 1.0
    assert found == pytest.approx((1 + 1.44) * precision * recall / (recall + 1.44 * precision))


def common_by_table(one: list[str], other: list[str]) -> int:
    table = np.zeros((len(one) + 1, len(other) + 1), dtype=int)
    for i, ours in enumerate(one):
        for j, theirs in enumerate(other):
            table[i + 1, j + 1] = table[i, j] + 1 if ours == theirs else max(table[i, j + 1], table[i + 1, j])
    return int(table[-1, -1])


@given(words.filter(bool), words.filter(bool))
def test_rouge_finds_the_longest_common_subsequence(one: list[str], other: list[str]) -> None:
    common = common_by_table(one, other)
    precision, recall = common / len(one), common / len(other)
    expected = (1 + 1.44) * precision * recall / (recall + 1.44 * precision) if common else 0.0
    assert rouge_l(one, [other]) == pytest.approx(expected)


def plain_cider(hypotheses: list[list[str]], references: list[list[list[str]]], clipped: bool) -> list[float]:
    """CIDEr as its paper and the rules write it, with dictionaries."""

    def counts(caption: list[str], n: int) -> dict[tuple[str, ...], int]:
        found: dict[tuple[str, ...], int] = {}
        for start in range(len(caption) - n + 1):
            gram = tuple(caption[start : start + n])
            found[gram] = found.get(gram, 0) + 1
        return found

    scores = []
    for caption, group in zip(hypotheses, references, strict=True):
        total = 0.0
        for reference in group:
            for n in range(1, 5):
                ours, theirs = counts(caption, n), counts(reference, n)
                documents = {
                    gram: sum(any(gram in counts(other, n) for other in others) for others in references)
                    for gram in {*ours, *theirs}
                }
                weight = {gram: math.log(len(references)) - math.log(max(1, d)) for gram, d in documents.items()}
                a = {gram: count * weight[gram] for gram, count in ours.items()}
                b = {gram: count * weight[gram] for gram, count in theirs.items()}
                norm = math.sqrt(sum(v * v for v in a.values())) * math.sqrt(sum(v * v for v in b.values()))
                dot = sum((min(a[gram], b[gram]) if clipped else a[gram]) * b[gram] for gram in a if gram in b)
                gap = max(0, len(caption) - 1) - max(0, len(reference) - 1)
                penalty = math.exp(-(gap**2) / 72) if clipped else 1.0
                total += dot / norm * penalty if norm else 0.0
        scores.append(10 * total / 4 / len(group))
    return scores


@settings(deadline=None)
@given(sets, st.booleans())
def test_cider_is_the_formula(pairs: list[tuple[str, list[str]]], clipped: bool) -> None:
    hypotheses = [caption.split() for caption, _ in pairs]
    references = [[reference.split() for reference in group] for _, group in pairs]
    found = cider_of(hypotheses, references, clipped=clipped)
    assert found.tolist() == pytest.approx(plain_cider(hypotheses, references, clipped), abs=1e-9)


def test_cider_of_one_picture_is_0_and_warned_of() -> None:
    with pytest.warns(FewPicturesWarning, match="1 pictures"):
        assert evaluate({1: "a dog"}, {1: ["a dog"]}).cider == 0.0


def test_document_frequencies_of_the_scored_set_change_nothing(tmp_path: Path) -> None:
    hypotheses = [["a", "dog", "runs", "<end>"], ["the", "cat", "<end>"], ["a", "<end>"]]
    references = [[["a", "dog", "<end>"], ["dog", "runs", "<end>"]], [["the", "cat", "sits", "<end>"]], [["<end>"]]]
    table = DocumentFrequencies.of(references)
    assert table.pictures == 3
    assert (table.counts["<end>"], table.counts["dog"], table.counts["dog runs"]) == (3, 1, 1)
    table.save(tmp_path / "table.json")
    loaded = DocumentFrequencies.load(tmp_path / "table.json")
    own = cider_of(hypotheses, references)
    assert cider_of(hypotheses, references, document_frequencies=loaded).tolist() == pytest.approx(own.tolist())


def test_document_frequencies_of_a_larger_set_change_the_figure_and_its_signature() -> None:
    table = DocumentFrequencies(1000, {"a": 1000, "dog": 10, "a dog": 10})
    captions, references = {1: "a dog", 2: "a cat"}, {1: ["a dog"], 2: ["a dog"]}
    own, other = evaluate(captions, references), evaluate(captions, references, document_frequencies=table)
    assert own.cider == 0.0  # everything in the references is in all of them
    assert other.cider_per_picture[0] == pytest.approx(5.0)  # two orders of four, both perfect
    assert "scored set" in own.signature
    assert f"table of 1000 {table.checksum:08x}" in other.signature
    assert table.checksum == DocumentFrequencies(1000, dict(reversed(table.counts.items()))).checksum
    assert table.checksum != DocumentFrequencies(1000, {**table.counts, "dog": 11}).checksum


def test_a_table_of_few_pictures_is_warned_of() -> None:
    captions = dict.fromkeys(range(60), "a dog")
    with pytest.warns(FewPicturesWarning, match="come from 49 pictures"):
        evaluate(
            captions, {key: ["a dog"] for key in captions}, document_frequencies=DocumentFrequencies(49, {"a": 49})
        )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2", "line 1 column "),
        ("[" * 100_000, "nested too deeply"),
        ("[]", "no document frequencies"),
        ('{"format": "captioner document frequencies 1", "pictures": 0, "counts": {}}', "positive"),
        ('{"format": "captioner document frequencies 1", "pictures": 2, "counts": {"a": "x"}}', "'a' is 'x'"),
        ('{"format": "captioner document frequencies 1", "pictures": true, "counts": {}}', "positive"),
        ('{"format": "captioner document frequencies 1", "pictures": 1%s, "counts": {}}' % ("0" * 30), "positive"),
        ('{"format": "captioner document frequencies 1", "pictures": 2, "counts": {"a": 3}}', "'a' is 3"),
    ],
)
def test_damaged_document_frequencies(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "table.json").write_text(content)
    with pytest.raises(DataError, match=message):
        DocumentFrequencies.load(tmp_path / "table.json")


def test_rewards_need_as_many_reference_sets_as_hypotheses() -> None:
    with pytest.raises(OptionError, match="2 hypotheses"):
        cider_of([["a"], ["b"]], [[["a"]]])
    with pytest.raises(DataError, match="hypothesis 1"):
        cider_of([["a"], ["b"]], [[["a"]], []])


@given(sets)
def test_figures_lie_in_their_ranges_and_agree_with_their_pictures(pairs: list[tuple[str, list[str]]]) -> None:
    scores = evaluate(dict(enumerate(pair[0] for pair in pairs)), dict(enumerate(pair[1] for pair in pairs)))
    table = scores.table()
    assert table.shape == (len(pairs), 7)
    assert (table >= 0).all()
    assert (table[:, :5] <= 1 + 1e-9).all()
    assert (table[:, 5:] <= 10 + 1e-9).all()
    assert scores.rouge_l == pytest.approx(table[:, 4].mean())
    assert scores.cider == pytest.approx(table[:, 5].mean())


@given(sets)
def test_the_order_of_pictures_changes_nothing(pairs: list[tuple[str, list[str]]]) -> None:
    captions = dict(enumerate(pair[0] for pair in pairs))
    references = dict(enumerate(pair[1] for pair in pairs))
    backwards = evaluate(dict(reversed(captions.items())), dict(reversed(references.items())))
    assert list(evaluate(captions, references).as_dict().values()) == pytest.approx(list(backwards.as_dict().values()))


def test_tokenised_references_serve_again() -> None:
    raw = {"x.jpg": ["A dog runs.", "The dog is running!"], "y.jpg": ["A cat."]}
    ready = References(raw)
    for captions in ({"x.jpg": "a dog", "y.jpg": "a cat"}, {"x.jpg": "the dog runs", "y.jpg": ""}):
        assert evaluate(captions, ready).as_dict() == evaluate(captions, raw).as_dict()
    assert ready["x.jpg"][0] == ["a", "dog", "runs"]
    assert len(ready) == 2


def test_a_fraction_is_one_word_for_rouge_and_two_for_the_others() -> None:
    scores = evaluate({1: "22 3/4 st"}, {1: ["22 1/2 st"]})
    assert scores.bleu[0] == pytest.approx(2 / 3, abs=1e-8)
    assert scores.rouge_l == pytest.approx(1 / 2)


def test_result_names_its_pictures() -> None:
    scores = evaluate({"b": "a cat", "a": "a dog"}, {"a": ["a dog"], "b": ["a dog"]})
    assert scores.ids == ("a", "b")
    assert scores.per_picture()["a"]["BLEU-1"] == pytest.approx(1.0)
    assert scores.per_picture()["b"]["BLEU-1"] == pytest.approx(0.5)
    assert "pictures 2 | references 1 " in scores.signature


def test_signatures_tell_sets_apart_and_not_orders() -> None:
    captions = {1: "a dog", 2: "a cat"}
    references = {1: ["a dog"], 2: ["the cat"]}
    same = evaluate(captions, dict(reversed(references.items()))).signature
    assert evaluate(captions, references).signature == same
    assert evaluate(captions, {1: ["a dog"], 2: ["the cat sits"]}).signature != same
    assert evaluate(captions, {1: ["the cat"], 2: ["a dog"]}).signature != same


def test_document_frequencies_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot write document frequencies"):
        DocumentFrequencies(1, {}).save(tmp_path / "nowhere" / "table.json")


def test_a_table_that_was_there_stays_whole_where_the_new_one_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "table.json"
    DocumentFrequencies(2, {"a": 2}).save(table)

    def full(self: Path, *_: object, **__: object) -> int:
        self.write_bytes(b"{")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(DataError, match="No space left"):
        DocumentFrequencies(3, {"a": 3}).save(table)
    assert DocumentFrequencies.load(table).pictures == 2
    assert [path.name for path in tmp_path.iterdir()] == ["table.json"]
