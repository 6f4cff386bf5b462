"""The official VQA accuracy, rule by rule; exact accuracy; WUPS."""

import pytest

from captioner.errors import OptionError
from captioner.metrics.vqa import exact_accuracy, has_wordnet, most_frequent_of_type, normalise, vqa_accuracy, wups


@pytest.mark.parametrize(
    ("answer", "plain"),
    [
        ("The Dog", "dog"),  # case and articles
        ("a cat on an apple", "cat on apple"),
        ("Two", "2"),  # number words
        ("none", "0"),
        ("ten dogs", "10 dogs"),
        ("eleven", "eleven"),  # of which there are ten and none
        ("dont know", "don't know"),  # contractions
        ("'ows'at", "'ow's'at"),
        ("couldn'tve", "couldn't've"),
        ("well", "well"),  # a word of its own
        ("black-and-white", "black and white"),  # a sign between letters becomes a space
        ("yes, sir", "yes sir"),  # beside a space it is removed
        ("1,000", "1000"),  # a comma within a number
        ("1,000-2", "10002"),  # and with it every other sign
        ("st. louis", "st louis"),  # a full stop
        ("3.5", "3.5"),  # but not before a digit
        ("what's up?", "what's up"),
        ("it's", "it's"),
    ],
)
def test_each_rule_of_the_normalisation(answer: str, plain: str) -> None:
    assert normalise(answer) == plain


def test_accuracy_is_the_mean_over_each_person_left_out() -> None:
    people = ["red"] * 3 + ["blue"] * 2 + ["green"] * 5
    # Of those who said red, two others remain: 2/3; for the seven others three do: 1.
    assert vqa_accuracy("red", people) == pytest.approx((3 * 2 / 3 + 7) / 10)
    assert vqa_accuracy("blue", people) == pytest.approx((2 * 1 / 3 + 8 * 2 / 3) / 10)
    assert vqa_accuracy("green", people) == 1
    assert vqa_accuracy("pink", people) == 0
    assert vqa_accuracy("The red", people) == vqa_accuracy("red", people)


def test_where_all_agree_nothing_but_the_case_is_normalised() -> None:
    assert vqa_accuracy("2", ["two"] * 10) == 0
    assert vqa_accuracy("Two", ["two"] * 10) == 1
    assert vqa_accuracy("two", ["two"] * 10) == 1
    assert vqa_accuracy("2", ["two"] * 9 + ["2"]) == 1
    with pytest.raises(OptionError, match="none"):
        vqa_accuracy("2", [])


def test_exact_accuracy_and_the_prior() -> None:
    assert [exact_accuracy(" Dog", "dog"), exact_accuracy("cat", "bird")] == [1, 0]
    prior = most_frequent_of_type(["color", "color", "number", "color"], ["red", "blue", "two", "blue"])
    assert prior == {"color": "blue", "number": "two"}


def test_wups_is_exact_for_the_same_word_and_needs_wordnet_for_others() -> None:
    assert wups("dog", "dog", threshold=0.9) == 1
    if not has_wordnet():
        with pytest.raises(OptionError, match="wordnet"):
            wups("dog", "cat", threshold=0.9)
        pytest.skip("needs nltk's WordNet, which is not installed")
    # Wu-Palmer similarity of dog and cat is 12/14, of their nearest common kind "carnivore".
    assert wups("dog", "cat", threshold=0.0) == pytest.approx(0.857, abs=1e-3)
    assert wups("dog", "cat", threshold=0.9) == pytest.approx(0.0857, abs=1e-4)
    assert wups("dog, cat", "cat, dog", threshold=0.9) == 1
