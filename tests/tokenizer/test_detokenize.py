"""Sentences from tokens: the usual English form, and the same tokens when they are tokenised again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captioner.tokenizer.detokenize import detokenize
from captioner.tokenizer.ptb import tokenize


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], ""),
        (["a", "dog", "runs"], "a dog runs"),
        (["the", "dog", "'s", "ball"], "the dog's ball"),
        (["it", "does", "n't", "run"], "it doesn't run"),
        (["they", "'ve", "said", "we", "'ll", "see", "i", "'m", "he", "'d", "you", "'re"],
         "they've said we'll see i'm he'd you're"),
        (["'s"], "'s"),
        (["a", "t-shirt"], "a t-shirt"),
        (["of", "the", "'70s"], "of the '70s"),
        (["get", "'em"], "get 'em"),
        (["-lrb-", "a", "dog", "-rrb-", "-lsb-", "b", "-rsb-", "-lcb-", "c", "-rcb-"], "(a dog) [b] {c}"),
        (["-lrb-", "'s", "-rrb-"], "('s)"),
        (["the", "man", "-rrb-", "'s"], "the man)'s"),
        ([":-rrb-"], ":)"),
        (["50", "%", "off"], "50% off"),
        (["a", "%", "sign"], "a % sign"),
        (["$", "1,000.50"], "$1,000.50"),
        (["a", "$", "sign"], "a $ sign"),
        (["#", "1", "and", "#", "one"], "#1 and # one"),
        (["20", "\u00b0", "c"], "20\u00b0c"),
        (["a", "2\u00a01/2"], "a 2 1/2"),
        (["she", "can", "not"], "she cannot"),
        (["black", "&", "white"], "black & white"),
    ],
)  # fmt: skip
def test_the_usual_form(words: list[str], sentence: str) -> None:
    assert detokenize(words) == sentence


SENTENCES = [
    "a sign (in red) on a wall", "cars of the '70s on a street", "rock 'n' roll band", "a 50% off sign for $5",
    "a man [left] and a dog", "the dog's ball isn't red", "call (555) 123-4567", "'tis fine y'all", "wow!! a cat",
    "it's 20\u00b0 {in the shade}", "they're gonna win",
    "5 o'clock on a two-story house", "a (small (red) box) here", "[a (b)] c", "a black/white dog", "me @ home",
    "the 1970's", "her mother-in-law's t-shirt", "dr. smith of st. john's", "rock & roll", "$5.00", "#1 fan",
]  # fmt: skip


@pytest.mark.parametrize("sentence", SENTENCES)
def test_sentences_come_back(sentence: str) -> None:
    assert detokenize(tokenize(sentence)) == sentence


@given(st.lists(st.sampled_from(["a", "dog", "'s", "n't", "-lrb-", "-rrb-", "%", "50", "'70s", "can", "not", "'n'"])))
def test_only_spaces_are_taken_and_brackets_put(words: list[str]) -> None:
    written = [{"-lrb-": "(", "-rrb-": ")"}.get(word, word) for word in words]
    assert detokenize(words).replace(" ", "") == "".join(written)
