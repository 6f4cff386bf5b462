"""The reranker: its vectors of n-grams are CIDEr's, and the graph, the folder and the search agree on its scores."""

import copy
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from captioner import checkpoint
from captioner.backends.base import padded_words
from captioner.backends.graph_files import graph_folder
from captioner.backends.torch import TorchBackend
from captioner.decoding import Beam, Greedy, decode
from captioner.errors import CheckpointError, DataError, OptionError
from captioner.export.folder import export_folder
from captioner.export.graphs import _export_rerank
from captioner.export.precision import halve
from captioner.export.trace import export_mode
from captioner.header import read_header
from captioner.metrics import DocumentFrequencies, cider_of
from captioner.model.reranker import LONGEST_CAPTION, MOST_WORDS, Reranker, RerankerConfig
from captioner.pipeline import load
from captioner.tokenizer.vocabulary import SPECIAL
from captioner.training.growth import add_fine_maps, without_fine_maps
from captioner.training.ngram_regression import RerankingOptions, _centres, check_ngrams, fit
from captioner.training.reranking import BLEU_STRENGTHS, WEIGHTS, Lists, choose_weights
from tests.conftest import give_reranker

Make = Callable[..., checkpoint.Checkpoint]
FIRST = len(SPECIAL)
WORDS = 12


def some_captions(generator: np.random.Generator, count: int) -> list[list[int]]:
    lengths = generator.integers(1, 9, count)
    return [generator.integers(FIRST, FIRST + WORDS, length).tolist() for length in lengths]


@pytest.fixture(scope="module")
def fitted() -> tuple[Reranker, list[list[list[int]]], torch.Tensor]:
    """A reranker of 30 pictures of one data set, all of them centres; their captions and feature vectors."""
    generator = np.random.default_rng(3)
    captions = [some_captions(generator, 1 + i % 5) for i in range(30)]
    features = torch.from_numpy(generator.standard_normal((30, 20)).astype(np.float32))
    options = RerankingOptions(dims=24, centres=30, ridge=1e-4, minimum_count=1)
    found = fit(features, captions, torch.zeros(30, dtype=torch.long), vocabulary_size=FIRST + WORDS, options=options)
    return found, captions, features


def plain_vector(caption: list[int], idf: dict[tuple[int, ...], float], other: float) -> dict[tuple[int, ...], float]:
    """CIDEr's vector of a caption: each order of length 1, divided by the root of the number of orders."""
    found = {}
    for n in range(1, 5):
        counts = Counter(tuple(caption[i : i + n]) for i in range(len(caption) - n + 1))
        values = {ngram: count * idf.get(ngram, other) for ngram, count in counts.items()}
        norm = sum(value**2 for value in values.values()) ** 0.5
        found |= {ngram: value / norm / 2 for ngram, value in values.items() if norm}
    return found


def test_the_vectors_of_captions_are_those_of_cider(
    fitted: tuple[Reranker, list[list[list[int]]], torch.Tensor],
) -> None:
    reranker, captions, _ = fitted
    (regression,) = reranker.regressions()
    ngrams = sorted({g for some in captions for c in some for g in plain_vector(c, {}, 1.0)})
    assert regression.ngrams.tolist() == reranker.keys_of(ngrams)
    idf = dict(zip(ngrams, regression.idf.tolist(), strict=False))
    generator = np.random.default_rng(5)
    new = [*some_captions(generator, 40), [FIRST] * 6, [FIRST, FIRST + 1] * 4, [FIRST]]
    value, places = regression.vectors(reranker.ngrams_of(torch.from_numpy(padded_words(new))))
    for caption, values, rows in zip(new, value, places, strict=True):
        found: Counter[int] = Counter()
        for number, row in zip(values.flatten().tolist(), rows.flatten().tolist(), strict=True):
            found[row] += number
        expected = plain_vector(caption, idf, float(regression.idf[-1]))
        for i, ngram in enumerate(ngrams):
            assert found[i] == pytest.approx(expected.get(ngram, 0.0), abs=1e-6)


def test_of_a_picture_that_it_has_learned_the_score_is_cider(
    fitted: tuple[Reranker, list[list[list[int]]], torch.Tensor],
) -> None:
    """Without clipping, which the score does not have, and with the expected factor of lengths, not each its own."""
    _, captions, features = fitted
    spelled = [[[f"w{word}" for word in caption] for caption in some] for some in captions]
    frequencies = DocumentFrequencies.of(spelled)
    whole = fit(features, captions, torch.zeros(30, dtype=torch.long), vocabulary_size=FIRST + WORDS,
                options=RerankingOptions(dims=29, centres=30, ridge=1e-6, minimum_count=1))  # fmt: skip
    errors = []
    for i, some in enumerate(captions):
        tokens = [caption for j in (0, 1) for caption in captions[(i + j) % 30]]
        (found,) = whole.consensus(torch.from_numpy(padded_words(tokens))[None], whole(features[i : i + 1]))
        texts = [[f"w{word}" for word in caption] for caption in tokens]
        similar = cider_of(texts, [spelled[i]] * len(texts), document_frequencies=frequencies, clipped=False)
        lengths = np.array([len(caption) for caption in some])
        factor = [np.exp(-((len(caption) - lengths) ** 2) / 72).mean() for caption in tokens]
        errors += [abs(a - b * c) for a, b, c in zip(found.tolist(), similar, factor, strict=True)]
    assert np.mean(errors) < 0.15 and max(errors) < 0.8, "of up to 10"


def test_what_is_unlike_the_references_scores_less(
    fitted: tuple[Reranker, list[list[list[int]]], torch.Tensor],
) -> None:
    reranker, captions, features = fitted
    better = 0
    for i in range(30):
        own = padded_words([max(captions[i], key=len), max(captions[(i + 7) % 30], key=len)])
        ((first, second),) = reranker.consensus(torch.from_numpy(own)[None], reranker(features[i : i + 1])).tolist()
        better += first > second
    assert better >= 27, "of 30; of random captions, which the first 24 directions do not hold as a whole"


def test_each_data_set_has_its_own_regression() -> None:
    """Two data sets with other captions of like pictures, which a feature distinguishes."""
    generator = np.random.default_rng(0)
    features = generator.standard_normal((80, 6)).astype(np.float32)
    features[:, 0] = np.where(np.arange(80) % 2, 3, -3)
    captions = [[[FIRST + i % 2, FIRST + 2 + i // 2 % 2]] for i in range(80)]
    sets = torch.arange(80) % 2
    options = RerankingOptions(dims=4, centres=40, ridge=0.3, minimum_count=1)
    reranker = fit(torch.from_numpy(features), captions, sets, vocabulary_size=FIRST + WORDS, options=options)
    assert [sorted(one.ngrams.tolist()) for one in reranker.regressions()] == [
        sorted(reranker.keys_of([(FIRST + i,), (FIRST + i, FIRST + 2), (FIRST + i, FIRST + 3), *others]))
        for i, others in ((0, [(FIRST + 2,), (FIRST + 3,)]), (1, [(FIRST + 2,), (FIRST + 3,)]))
    ]
    new = generator.standard_normal((20, 6)).astype(np.float32)
    new[:, 0] = np.where(np.arange(20) % 2, 3, -3)
    shares = reranker.shares(reranker.standardised(torch.from_numpy(new)))
    assert (shares.argmax(1) == torch.arange(20) % 2).all()
    tokens = torch.from_numpy(padded_words([captions[0][0], captions[1][0]]))
    found = reranker.consensus(tokens.expand(20, -1, -1), reranker(torch.from_numpy(new)))
    assert found.argmax(1).tolist() == [0, 1] * 10
    apart = [
        fit(torch.from_numpy(features[i::2]), captions[i::2], torch.zeros(40, dtype=torch.long),
            vocabulary_size=FIRST + WORDS, options=options)
        for i in (0, 1)
    ]  # fmt: skip
    for own, other in zip(reranker.regressions(), apart, strict=True):
        assert own.ngrams.equal(other.regressions()[0].ngrams)
        assert own.idf.equal(other.regressions()[0].idf), "by the pictures of the data set alone"


def test_the_scores_of_data_sets_are_weighted_with_their_probabilities(
    with_reranker: checkpoint.Checkpoint,
) -> None:
    reranker = with_reranker.model.reranker
    assert reranker is not None
    generator = np.random.default_rng(2)
    features = torch.from_numpy(generator.standard_normal((5, len(reranker.mean))).astype(np.float32))
    reranker.set_weights.mul_(0.1)
    tokens = torch.from_numpy(generator.integers(4, 16, (5, 3, 6)))
    whole = reranker.consensus(tokens, reranker(features))
    shares = reranker.shares(reranker.standardised(features))
    assert float(shares.min()) > 0.02 and shares.sum(1).allclose(torch.ones(5))
    alone = []
    for number in (0, 1):
        reranker.set_weights.zero_()
        reranker.set_bias.copy_(torch.tensor([60.0, -60.0] if number == 0 else [-60.0, 60.0]))
        alone.append(reranker.consensus(tokens, reranker(features)))
    torch.testing.assert_close(whole, alone[0] * shares[:, :1] + alone[1] * shares[:, 1:], rtol=1e-4, atol=1e-4)


def test_matches_are_how_often_references_have_the_n_grams(
    fitted: tuple[Reranker, list[list[list[int]]], torch.Tensor],
) -> None:
    """Up to the lengths of references' vectors, which differ little where references are alike."""
    generator = np.random.default_rng(1)
    order = [generator.permutation(WORDS).tolist() for _ in range(24)]
    captions = [[[FIRST + word for word in words[:6]]] for words in order]
    features = torch.from_numpy(generator.standard_normal((24, 30)).astype(np.float32))
    options = RerankingOptions(dims=23, centres=24, ridge=1e-7, minimum_count=1)
    reranker = fit(
        features, captions, torch.zeros(24, dtype=torch.long), vocabulary_size=FIRST + WORDS, options=options
    )
    tokens = torch.from_numpy(padded_words([some[0] for some in captions]))[None].expand(24, -1, -1)
    _, matches = reranker.estimates(tokens, reranker(features))
    for n in range(2):
        own = [{tuple(some[0][i : i + n + 1]) for i in range(6 - n)} for some in captions]
        shared = np.array([[len(one & other) for other in own] for one in own])
        assert np.corrcoef(shared.ravel(), matches[..., n].numpy().ravel())[0, 1] > 0.95


def test_the_weights_are_those_that_are_best_on_dev(
    fitted: tuple[Reranker, list[list[list[int]]], torch.Tensor],
) -> None:
    """And the consensus score has them in it."""
    whole, captions, features = fitted
    texts = [[[f"w{word}" for word in caption] for caption in some] for some in captions]
    frequencies = DocumentFrequencies.of(texts)
    generator = np.random.default_rng(8)
    lists = [Lists.of(20, 4), Lists.of(10, 4)]  # of two data sets
    places = [(lists[0], i) for i in range(20)] + [(lists[1], i) for i in range(10)]
    tokens = [[max(some, key=len), *some_captions(generator, 3)] for some in captions]
    for picture, (own, (kept, i)) in enumerate(zip(tokens, places, strict=True)):
        count = 4 if picture % 7 else 2  # of the others the search has not ended
        spelled = [[f"w{word}" for word in caption] for caption in own[:count]]
        scores = generator.standard_normal(count).tolist()
        predicted = whole(features[picture : picture + 1])[0]
        kept.fill(i, own[:count], spelled, scores, texts[picture], whole, predicted, frequencies)

    def consensus(reranker: Reranker) -> list[np.ndarray]:
        found = [
            reranker.consensus(torch.from_numpy(padded_words(own))[None], reranker(features[i : i + 1]))[0].numpy()
            for i, own in enumerate(tokens)
        ]
        return [np.stack(found[:20]), np.stack(found[20:])]

    def value(chosen: list[np.ndarray], bleu_weight: float) -> float:
        scores = [one.scores_of(each) for one, each in zip(lists, chosen, strict=True)]
        return sum(one.cider + bleu_weight * one.bleu for one in scores) / 2

    for bleu_weight in (0.0, 1.0, 30.0):
        tried = {}
        for weight in WEIGHTS:
            for strength in BLEU_STRENGTHS if bleu_weight else (0.0,):
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr("captioner.training.reranking.WEIGHTS", (weight,))
                    patch.setattr("captioner.training.reranking.BLEU_STRENGTHS", (strength,))
                    reranker = copy.deepcopy(whole)
                    choose_weights(reranker, lists, bleu_weight)
                totals = [one.score + own for one, own in zip(lists, consensus(reranker), strict=True)]
                tried[weight, strength] = value([one.argmax(1) for one in totals], bleu_weight)
        reranker = copy.deepcopy(whole)
        weight, strength, before, after = choose_weights(reranker, lists, bleu_weight)
        assert tried[weight, strength] == pytest.approx(max(tried.values()))
        assert after.cider + bleu_weight * after.bleu == pytest.approx(tried[weight, strength])
        expected = value([one.score.argmax(1) for one in lists], bleu_weight)
        assert before.cider + bleu_weight * before.bleu == pytest.approx(expected)


def test_what_bleu_counts_beside_cider_decides_between_them(
    fitted: tuple[Reranker, list[list[list[int]]], torch.Tensor],
) -> None:
    """Of two captions one has the better CIDEr-D and estimate of it, the other more n-grams of the references."""
    whole = fitted[0]
    lists = Lists.of(4, 2)
    lists.score[:] = 0.0
    lists.estimate[:] = lists.cider[:] = [0.9, 0.8]
    lists.matches[:] = np.array([1.0, 1.4])[:, None]
    lists.ngrams[:] = [5, 4, 3, 2]
    lists.bleu[:] = [[3, 2, 1, 1, 5, 4, 3, 2, 5, 5], [5, 4, 3, 2, 5, 4, 3, 2, 5, 5]]
    for bleu_weight, cider, bleu in ((0.0, 90.0, 47.2871), (0.1, 90.0, 47.2871), (2.0, 80.0, 100.0)):
        reranker = Reranker(whole.config, channels=20, vocabulary_size=FIRST + WORDS)
        reranker.load_state_dict(whole.state_dict())
        _, strength, _, after = choose_weights(reranker, [lists], bleu_weight)
        assert (after.cider, after.bleu) == pytest.approx((cider, bleu), abs=1e-3)
        assert (strength > 0) == (bleu == 100.0)
        assert bool(reranker.match_gains.any()) == bool(reranker.ngram_costs.any()) == (strength > 0)


def pixels_for(backend: TorchBackend, count: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, backend.side, backend.side, 3), dtype=np.uint8)


def test_the_beam_is_ordered_by_both_scores(with_reranker: checkpoint.Checkpoint) -> None:
    backend = TorchBackend(with_reranker)
    encoded = backend.encode(pixels_for(backend, 3), [])
    options = Beam(width=6, n_best=6, max_length=5, rerank=0.0)
    plain = decode(backend, encoded, options)
    consensus = backend.consensus(encoded, [[one.tokens for one in some] for some in plain])
    changed = 0
    for weight in (0.1, 1.0):
        for n_best in (1, 6):
            found = decode(backend, encoded, replace(options, rerank=weight, n_best=n_best))
            for some, before, scores in zip(found, plain, consensus, strict=True):
                ranked = sorted(
                    range(6), key=lambda i: (not before[i].finished, -(before[i].score + weight * scores[i]))
                )
                assert [one.tokens for one in some] == [before[i].tokens for i in ranked[:n_best]]
                assert [one.score for one in some] == [before[i].score for i in ranked[:n_best]]
                changed += some[0].tokens != before[0].tokens
    assert changed


def test_no_order_changes_without_a_reranker_or_with_diverse_groups(
    with_reranker: checkpoint.Checkpoint, make_checkpoint: Make
) -> None:
    ours, other = TorchBackend(with_reranker), TorchBackend(make_checkpoint("lstm"))
    assert ours.reranks and not other.reranks
    pixels = pixels_for(ours, 2)
    for options in (
        Beam(width=6, n_best=6, max_length=5),
        Beam(width=6, n_best=6, max_length=5, diverse_groups=3),
        Beam(width=1, max_length=5),
        Greedy(max_length=5),
    ):
        found = [
            [[one.tokens for one in some] for some in decode(backend, backend.encode(pixels, []), options)]
            for backend in (ours, other)
        ]
        assert (found[0] == found[1]) == (options != Beam(width=6, n_best=6, max_length=5))


def test_graphs_and_folders_give_the_same_scores_and_captions(exported: Callable[[str], Path], tmp_path: Path) -> None:
    file = exported("lstm-reranker")
    for precision in ("fp32", "fp16", "int8"):
        export_folder(file, tmp_path / precision, precision=precision)
    stored = checkpoint.load(file)
    torch_backend = TorchBackend(stored)
    pixels = pixels_for(torch_backend, 3)
    generator = np.random.default_rng(0)
    captions = [[generator.integers(4, 16, n).tolist() for n in (1, 5, 3)], [], [[7] * (LONGEST_CAPTION + 3)]]
    expected = torch_backend.consensus(torch_backend.encode(pixels, []), captions)
    assert [len(one) for one in expected] == [3, 0, 1]
    texts = {}
    for place in (file, tmp_path / "fp32", tmp_path / "fp16", tmp_path / "int8"):
        backend = load(place, backend="onnx").backend
        assert backend.reranks  # type: ignore[attr-defined]
        found = backend.consensus(backend.encode(pixels, []), captions)  # type: ignore[attr-defined]
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-4 if place.suffix or place.name == "fp32" else 0.05)
        texts[place.name] = [some[0].tokens for some in decode(backend, backend.encode(pixels, []))]
    assert texts[file.name] == texts["fp32"]
    assert texts["fp32"] == [some[0].tokens for some in decode(torch_backend, torch_backend.encode(pixels, []))]


def test_captions_of_many_pictures_are_scored_some_at_a_time(
    with_reranker: checkpoint.Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = TorchBackend(with_reranker)
    encoded = backend.encode(pixels_for(backend, 5), [])
    captions = [[[7] * n for n in range(1, 1 + count)] for count in (3, 0, 1, 2, 3)]
    together = backend.consensus(encoded, captions)
    monkeypatch.setattr("captioner.backends.base._WORDS", 2 * 3 * 3)
    apart = backend.consensus(encoded, captions)
    assert [len(one) for one in together] == [len(one) for one in apart] == [3, 0, 1, 2, 3]
    np.testing.assert_allclose(np.concatenate(together), np.concatenate(apart), rtol=1e-5, atol=1e-6)


def test_n_grams_of_large_ids_are_the_same_in_graphs_of_half_precision(make_checkpoint: Make) -> None:
    """Ids above 2048 are no numbers of 16 bits."""
    reranker = Reranker(RerankerConfig(ngrams=(3000,), dims=2, centres=(20,)), channels=3, vocabulary_size=9000)
    (regression,) = reranker.regressions()
    generator = np.random.default_rng(0)
    known = sorted({tuple(row) for row in generator.integers(4, 9000, (3000, 2)).tolist()})[:3000]
    regression.ngrams.copy_(torch.tensor([*reranker.keys_of(known), *range(9000**4, 9000**4 + 3000)][:3000]))
    regression.idf.fill_(1.0)
    regression.common[: len(known)] = torch.arange(len(known), dtype=torch.float32) / 100
    model = make_checkpoint("lstm")
    with export_mode():
        graph = _export_rerank(model.model, reranker)
    for half in (False, True):
        if half:
            halve(graph, {})
        session = onnxruntime.InferenceSession(graph.SerializeToString())
        for ngram in known[::300]:
            tokens, pooled = np.array([[ngram, ngram[::-1]]]), np.ones((1, 3), dtype=np.float32)
            (found,) = session.run(None, {"tokens": tokens, "pooled": pooled})
            expected = reranker.consensus(torch.from_numpy(tokens), reranker(torch.from_numpy(pooled)))
            np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_a_lost_graph_is_named(exported: Callable[[str], Path], tmp_path: Path) -> None:
    made = exported("lstm-reranker")
    file = tmp_path / made.name
    shutil.copy(made, file)
    shutil.copytree(graph_folder(made), graph_folder(file))
    (graph_folder(file) / "rerank.onnx").unlink()
    model = load(file)
    picture = np.zeros((32, 32, 3), dtype=np.uint8)
    assert model.caption(picture, options=Beam(rerank=0, max_length=5)).text
    with pytest.raises(CheckpointError, match=r"rerank\.onnx: no such graph"):
        model.caption(picture)


def test_graphs_that_predict_in_the_encoder_are_of_an_earlier_version(
    exported: Callable[[str], Path], tmp_path: Path
) -> None:
    made = exported("lstm-reranker")
    file = tmp_path / made.name
    shutil.copy(made, file)
    shutil.copytree(graph_folder(made), graph_folder(file))
    path = graph_folder(file) / "encode.onnx"
    graph = onnx.load(path, load_external_data=False)
    (output,) = [one for one in graph.graph.output if one.name == "pooled"]
    graph.graph.node.add(op_type="Identity", input=["pooled"], output=["predicted"])
    output.name = "predicted"
    path.write_bytes(graph.SerializeToString())
    with pytest.raises(CheckpointError, match=r"earlier version; .*--graphs"):
        load(file, backend="onnx")


def test_a_model_file_keeps_the_reranker(with_reranker: checkpoint.Checkpoint, tmp_path: Path) -> None:
    file = tmp_path / "m.safetensors"
    checkpoint.save(file, with_reranker)
    found = checkpoint.load(file).model.reranker
    assert found is not None and with_reranker.model.reranker is not None
    assert found.config == with_reranker.model.reranker.config
    for name, tensor in with_reranker.model.reranker.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], tensor, rtol=1e-3, atol=1e-3)
    assert read_header(file)["config"]["reranker"] == {"ngrams": [20, 20], "dims": 3, "centres": [12, 12]}


@pytest.mark.parametrize(
    ("stored", "value", "said"),
    [
        *((b'\\"dims\\": 3', b'\\"dims\\": ' + value, "") for value in (b"0", b"-1", b"1.5", b'\\"2\\"', b"100001")),
        *(
            (b'\\"ngrams\\": [20, 20]', b'\\"ngrams\\": ' + value, "")
            for value in (b"20", b"[]", b"{}", b"[0, 20]", b"[20]", b"[60000, 60000]", b"[[20], 20]")
        ),
        (b'\\"dims\\": 3', b'\\"dims\\": 3, \\"sets\\": 2', "its reranker is of an earlier version"),
    ],
)
def test_a_strangers_sizes_are_refused(
    with_reranker: checkpoint.Checkpoint, tmp_path: Path, stored: bytes, value: bytes, said: str
) -> None:
    file = tmp_path / "m.safetensors"
    checkpoint.save(file, with_reranker)
    content = file.read_bytes()
    assert content.count(stored) == 1
    changed = content.replace(stored, value)
    length = int.from_bytes(content[:8], "little") + len(changed) - len(content)
    file.write_bytes(length.to_bytes(8, "little") + changed[8:])
    with pytest.raises(CheckpointError, match=r"m\.safetensors") as found:
        checkpoint.load(file)
    assert said in str(found.value)


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(OptionError, match="dims"):
        RerankerConfig(ngrams=(1,), dims=0, centres=(1,))
    for ngrams in ((100_001,), (60_000, 60_000), (), (1,) * 101, 1, (True,)):
        with pytest.raises(OptionError, match="ngrams"):
            RerankerConfig(ngrams=ngrams, dims=1, centres=(1,))  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="2 data sets and centres of 1"):
        RerankerConfig(ngrams=(1, 1), dims=1, centres=(1,))
    with pytest.raises(OptionError, match="words"):
        Reranker(RerankerConfig(ngrams=(1,), dims=1, centres=(1,)), channels=2, vocabulary_size=MOST_WORDS + 1)
    for value in (-1, 101, float("nan"), "1", True):
        with pytest.raises(OptionError, match="rerank"):
            Beam(rerank=value)  # type: ignore[arg-type]
    largest = Reranker(RerankerConfig(ngrams=(2,), dims=1, centres=(1,)), channels=2, vocabulary_size=MOST_WORDS)
    last = MOST_WORDS - 1
    (regression,) = largest.regressions()
    regression.ngrams.copy_(torch.tensor(largest.keys_of([[4], [last] * 4])))
    _, places = regression.vectors(largest.ngrams_of(torch.tensor([[last] * 4 + [4]])))
    assert places[0, 3, 0] == 1 and places[0, 0].tolist() == [2, 2, 2, 2, 0]


def test_a_model_with_fine_maps_loses_them_and_the_reranker(make_checkpoint: Make) -> None:
    fine = add_fine_maps(make_checkpoint("lstm"), {"fine_stage": 1}, {"fine_width": 8})
    with_both = give_reranker(fine)
    assert with_both.model.encoder.vector_width > with_both.model.encoder.channels
    backend = TorchBackend(replace(with_both, model=with_both.model.eval()))
    assert decode(backend, backend.encode(pixels_for(backend, 1), []), Beam(width=3, max_length=4))
    plain = without_fine_maps(with_both.model)
    assert plain.reranker is None and plain.config.reranker is None and with_both.model.reranker is not None


def test_pictures_of_another_size_have_no_reranker(with_reranker: checkpoint.Checkpoint) -> None:
    with_reranker.model.set_side(64)
    assert with_reranker.model.reranker is not None
    with_reranker.model.set_side(96)
    assert with_reranker.model.reranker is None and with_reranker.model.config.reranker is None


def test_captions_of_a_clip_are_ordered_too(with_reranker: checkpoint.Checkpoint) -> None:
    backend = TorchBackend(with_reranker)
    frames = backend.encode(pixels_for(backend, 3), [])
    clip = backend.join(frames)
    assert frames.pooled is not None and clip.pooled is not None
    torch.testing.assert_close(clip.pooled[0], frames.pooled.mean(0))
    (found,) = decode(backend, clip, Beam(width=6, n_best=6, max_length=5))
    (scores,) = backend.consensus(clip, [[one.tokens for one in found]])
    totals = [one.score + more for one, more in zip(found, scores.tolist(), strict=True)]
    assert totals == sorted(totals, reverse=True)


def test_required_and_given_words_are_in_what_is_ordered(with_reranker: checkpoint.Checkpoint) -> None:
    backend = TorchBackend(with_reranker)
    encoded = backend.encode(pixels_for(backend, 2), [])
    cat = with_reranker.vocabulary.ids["cat"]
    for found in decode(backend, encoded, Beam(width=8, n_best=4, max_length=6, require_words=("cat",), begin="the")):
        assert all(cat in one.tokens for one in found)
        scores = backend.consensus(encoded, [[one.tokens for one in found]] * 2)
        assert len(scores[0]) == len(found)
        ended = [one.finished for one in found]
        assert ended == sorted(ended, reverse=True)


def test_numbers_that_are_not_finite_are_no_order(with_reranker: checkpoint.Checkpoint) -> None:
    assert with_reranker.model.reranker is not None
    with_reranker.model.reranker.regressions()[0].common.fill_(float("inf"))
    backend = TorchBackend(with_reranker)
    with pytest.raises(CheckpointError, match="not finite"):
        decode(backend, backend.encode(pixels_for(backend, 1), []), Beam(width=4, max_length=4))


@pytest.mark.parametrize("count", [1, 8])
def test_pictures_that_are_all_alike(count: int) -> None:
    captions = [[[FIRST + i % 3, FIRST + 4]] for i in range(count)]
    options = RerankingOptions(dims=4, centres=8, minimum_count=1)
    features = torch.ones(count, 5)
    sets = torch.zeros(count, dtype=torch.long)
    reranker = fit(features, captions, sets, vocabulary_size=FIRST + WORDS, options=options)
    (predicted,) = reranker(torch.ones(1, 5))
    assert predicted.isfinite().all()


def test_of_too_many_n_grams_the_most_frequent_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("captioner.training.ngram_regression.MOST", 3)
    captions = [[[FIRST, FIRST + 1], [FIRST + i % 5]] for i in range(20)]
    options = RerankingOptions(dims=2, centres=9, minimum_count=1)
    features = torch.from_numpy(np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32))
    sets = torch.zeros(20, dtype=torch.long)
    reranker = fit(features, captions, sets, vocabulary_size=FIRST + WORDS, options=options)
    assert reranker.regressions()[0].ngrams.tolist() == reranker.keys_of([[FIRST], [FIRST, FIRST + 1], [FIRST + 1]])


def test_data_sets_share_what_a_reranker_may_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("captioner.training.ngram_regression.MOST", 7)
    captions = [[[FIRST, FIRST + 1], [FIRST + i % 5]] for i in range(20)]
    features = torch.from_numpy(np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32))
    options = RerankingOptions(dims=2, centres=9, minimum_count=1)
    reranker = fit(features, captions, torch.arange(20) % 2, vocabulary_size=FIRST + WORDS, options=options)
    assert reranker.config.ngrams == reranker.config.centres == (3, 3)


def test_centres_are_evenly_spread() -> None:
    assert _centres(7, 3).tolist() == [0, 2, 4]
    assert _centres(5, 5).tolist() == [0, 1, 2, 3, 4]


def test_a_data_set_without_frequent_n_grams_is_named() -> None:
    captions = [[[FIRST + i % 3, FIRST + 4]] for i in range(12)]
    with pytest.raises(DataError, match="2 training pictures of data set 2, which has 1"):
        check_ngrams(captions, torch.tensor([0] * 11 + [1]), 2)


def test_a_data_set_of_few_pictures_has_as_many_centres() -> None:
    captions = [[[FIRST + i % 3, FIRST + 4]] for i in range(12)]
    options = RerankingOptions(dims=2, centres=6, minimum_count=1)
    features = torch.from_numpy(np.random.default_rng(0).standard_normal((12, 4)).astype(np.float32))
    sets = torch.tensor([0] * 9 + [1] * 3)
    reranker = fit(features, captions, sets, vocabulary_size=FIRST + WORDS, options=options)
    assert reranker.config.centres == (6, 3)
