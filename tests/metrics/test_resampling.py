"""Intervals and p-values on sets whose answer is known, descriptions and baselines."""

import numpy as np
import pytest

from captioner.errors import DataError, OptionError
from captioner.metrics import evaluate
from captioner.metrics.baselines import constant_caption, human_scores
from captioner.metrics.description import describe
from captioner.metrics.evaluate import NAMES
from captioner.metrics.resampling import bootstrap, compare

NOUNS = [f"thing{number}" for number in range(100)]
REFERENCES = {key: [f"a {noun} on the table", f"the {noun} lies there"] for key, noun in enumerate(NOUNS)}


def captions(right: int) -> dict[int, str]:
    """Captions of 100 pictures of which the first so many are right."""
    return {key: f"a {noun} on the table" if key < right else "nothing at all" for key, noun in enumerate(NOUNS)}


def test_interval_holds_the_figure_and_is_that_of_the_mean() -> None:
    scores = evaluate(captions(60), REFERENCES)
    intervals = bootstrap(scores, resamples=2000, seed=1)
    for name, figure in scores.as_dict().items():
        assert intervals[name].low <= figure <= intervals[name].high, name
    # ROUGE-L is 1 for 60 pictures and 0 for 40: the mean's standard error is known.
    error = np.sqrt(0.6 * 0.4 / 100)
    assert intervals["ROUGE-L"].high - intervals["ROUGE-L"].low == pytest.approx(2 * 1.96 * error, rel=0.12)


def test_equal_captions_have_no_interval_to_speak_of() -> None:
    intervals = bootstrap(evaluate(captions(100), REFERENCES), resamples=50)
    assert intervals["BLEU-4"].high - intervals["BLEU-4"].low < 1e-9


def test_the_same_seed_gives_the_same_interval() -> None:
    scores = evaluate(captions(60), REFERENCES)
    assert bootstrap(scores, resamples=30, seed=5) == bootstrap(scores, resamples=30, seed=5)
    assert bootstrap(scores, resamples=30, seed=5) != bootstrap(scores, resamples=30, seed=6)


def test_a_large_difference_is_significant_and_a_small_one_is_not() -> None:
    scores = evaluate(captions(60), REFERENCES)
    much = compare(scores, evaluate(captions(90), REFERENCES), trials=500)
    little = compare(scores, evaluate(captions(61), REFERENCES), trials=500)
    none = compare(scores, scores, trials=100)
    for name in NAMES:
        assert much[name].value > 0
        assert 1 / 501 <= much[name].p_value < 0.01  # chance is never ruled out: the difference itself is one trial
        assert little[name].p_value > 0.5
        assert none[name].p_value == 1.0


def test_comparing_different_pictures_is_refused() -> None:
    with pytest.raises(DataError, match="same pictures"):
        compare(
            evaluate(captions(60), REFERENCES),
            evaluate({key: text for key, text in captions(60).items() if key}, REFERENCES, partial=True),
        )


@pytest.mark.parametrize("options", [{"resamples": 0}, {"confidence": 0.0}, {"confidence": 1.0}])
def test_bootstrap_options_out_of_range(options: dict[str, float]) -> None:
    with pytest.raises(OptionError):
        bootstrap(evaluate(captions(60), REFERENCES), **options)  # type: ignore[arg-type]


def test_description_counts_what_readers_notice() -> None:
    about = describe([text.split() for text in ("a dog runs", "a dog runs", "a cat and a cat with a", "")])
    assert about.captions == 4
    assert about.mean_length == pytest.approx(13 / 4)
    assert (about.shortest, about.longest, about.empty) == (0, 7, 1)
    assert about.vocabulary == len({"a", "dog", "runs", "cat", "and", "with"})
    assert about.distinct == 3 / 4
    assert about.repeats == 1 / 4
    assert about.unfinished == 1 / 4


def test_constant_caption_is_made_of_common_words() -> None:
    references = {1: ["a dog on grass", "zebras graze under acacias"], 2: ["a dog on snow"], 3: ["a dog on grass"]}
    assert constant_caption(references) == "a dog on grass"


@pytest.mark.filterwarnings("ignore::captioner.metrics.FewPicturesWarning")
def test_human_score_needs_five_references() -> None:
    five = {1: ["a dog", "a dog runs", "the dog", "dog", "a big dog"], 2: ["a cat"] * 5}
    scores = human_scores(five)
    assert scores is not None
    assert scores.per_picture()[2]["BLEU-1"] == pytest.approx(1.0)
    assert human_scores({**five, 3: ["a bird"] * 4}) is None
