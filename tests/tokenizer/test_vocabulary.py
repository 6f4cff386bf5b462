"""Words and their ids."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captioner.errors import DataError
from captioner.tokenizer.vocabulary import END, PAD, SPECIAL, START, UNKNOWN, Vocabulary

CAPTIONS = [["a", "dog"], ["a", "cat"], ["the", "dog", "runs"], ["a", "zebra"], ["cat", "<unk>", "<unk>", "<unk>"]]


def test_special_words_have_the_ids_that_decoders_know() -> None:
    assert [SPECIAL.index(word) for word in ("<pad>", "<start>", "<end>", "<unk>")] == [PAD, START, END, UNKNOWN]


def test_frequent_words_first_and_ties_by_the_alphabet() -> None:
    assert Vocabulary.build(CAPTIONS, minimum_count=2).words == (*SPECIAL, "a", "cat", "dog")
    assert Vocabulary.build(CAPTIONS, minimum_count=1).words[4:] == ("a", "cat", "dog", "runs", "the", "zebra")


def test_the_order_of_captions_does_not_matter() -> None:
    assert Vocabulary.build(CAPTIONS, minimum_count=1) == Vocabulary.build(CAPTIONS[::-1], minimum_count=1)


def test_rare_words_are_unknown() -> None:
    vocabulary = Vocabulary.build(CAPTIONS, minimum_count=2)
    assert len(vocabulary) == 7
    assert vocabulary.encode(["a", "zebra", "dog"]) == [START, 4, UNKNOWN, 6, END]
    assert vocabulary.encode([]) == [START, END]


@given(st.lists(st.sampled_from(["a", "cat", "dog", "the"]), max_size=8))
def test_known_words_come_back(words: list[str]) -> None:
    vocabulary = Vocabulary.build(CAPTIONS, minimum_count=1)
    assert vocabulary.decode(vocabulary.encode(words)) == words


def test_no_frequent_word_no_vocabulary() -> None:
    with pytest.raises(DataError, match="no word occurs 9 times"):
        Vocabulary.build(CAPTIONS, minimum_count=9)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("a", "dog"), "begins with <pad> <start> <end> <unk>, not a dog"),
        ((), "begins with"),
        ((*SPECIAL, "a", "dog", "a"), "'a' is there twice"),
    ],
)
def test_words_that_are_no_vocabulary(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Vocabulary(words)
