"""Scores of answers to questions: the official VQA accuracy, exact accuracy, and WUPS.

The VQA accuracy and its normalisation are those of the official evaluation of VQA v1 and v2 (Antol et al. 2015; Goyal
et al. 2017), rule by rule; WUPS is that of Malinowski and Fritz 2014, which COCO-QA (Ren et al. 2015) is scored by.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import product

from captioner.errors import OptionError

_PUNCTUATION = tuple(';/[]"{}()=+\\_-><@`,?!')
_NUMBERS = {
    "none": "0",
    **{
        word: str(value)
        for value, word in enumerate(
            ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
        )
    },
}
_ARTICLES = frozenset(("a", "an", "the"))
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_PERIOD = re.compile(r"(?!<=\d)\.(?!\d)")  # the official pattern, whose "not after a digit" is a slip and never applies
_MOST_PERIODS = 32  # the official code passes a flag where the count goes

_CONTRACTED = tuple(
    word
    for line in (
        "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't",
        "he'd he'd've he's how'd how'll how's I'd've I'm I've isn't it'd it'd've it'll ma'am mightn't mightn't've",
        "might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't",
        "shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll someone's",
        "something'd something'd've something'll that's there'd there'd've there're there's they'd they'd've",
        "they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's where'd",
        "where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't",
        "wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've",
    )
    for word in line.split()
)


def _contractions() -> dict[str, str]:
    """Spellings that lack one apostrophe to the contraction; of those with several, each that lacks a single one."""
    table = {}
    for word in _CONTRACTED:
        for place in (i for i, sign in enumerate(word) if sign == "'"):
            table[word[:place] + word[place + 1 :]] = word
    # The official table lacks what is a word of its own, and has a slip.
    return {**table, "somebody'd": "somebodyd"}


_CONTRACTIONS = _contractions()


def strip_punctuation(answer: str) -> str:
    """An answer without punctuation.

    A sign beside a space, or in an answer with a number such as 1,000, is removed, and any other becomes a space; a
    full stop is removed where no digit follows.
    """
    has_number = _COMMA_IN_NUMBER.search(answer) is not None
    text = answer
    for sign in _PUNCTUATION:
        beside_space = f"{sign} " in answer or f" {sign}" in answer
        text = text.replace(sign, "" if beside_space or has_number else " ")
    return _PERIOD.sub("", text, count=_MOST_PERIODS)


def plain_words(answer: str) -> str:
    """An answer in lower case, number words as digits, without articles, contractions with their apostrophes."""
    words = [_NUMBERS.get(word, word) for word in answer.lower().split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


@lru_cache(maxsize=1 << 16)
def normalise(answer: str) -> str:
    """An answer as the official evaluation compares it."""
    return plain_words(strip_punctuation(answer))


def vqa_accuracy(answer: str, people: Sequence[str]) -> float:
    """The official accuracy of an answer, from 0 to 1.

    For each person's answer the others are compared: ``min(1, agreeing / 3)``, and the mean over all is taken. Where
    all people gave the same answer, nothing but the case is normalised.

    Args:
        answer: to be scored.
        people: the answers of people, ten in the official sets; at least one.

    Raises:
        OptionError: there are no people's answers.
    """
    if not people:
        raise OptionError("an answer is compared with people's answers, and there are none")
    given = [_one_line(one) for one in people]
    found = _one_line(answer)
    if len(set(given)) > 1:
        given, found = [normalise(one) for one in given], normalise(found)
    given, found = [one.lower() for one in given], found.lower()
    agreeing = sum(one == found for one in given)
    return sum(min(1.0, (agreeing - (one == found)) / 3) for one in given) / len(given)


def _one_line(answer: str) -> str:
    return answer.replace("\n", " ").replace("\t", " ").strip()


def exact_accuracy(answer: str, truth: str) -> float:
    """1 for the right answer, else 0; in lower case and without spaces around. Its mean is COCO-QA's accuracy."""
    return float(answer.strip().lower() == truth.strip().lower())


def wups(answer: str, truth: str, *, threshold: float) -> float:
    """The WUPS of an answer, from 0 to 1, at a threshold: 0.9 is strict and 0.0 lenient.

    The Wu-Palmer similarity of two words is the largest over their nouns in WordNet; below the threshold it counts a
    tenth. Answers of several, separated by commas, are compared as sets: the product over each side's best matches, and
    the smaller of both (Malinowski and Fritz 2014, eq. 4).

    Raises:
        OptionError: nltk or its WordNet is not installed, or the threshold is not from 0 to 1.
    """
    if not 0 <= threshold <= 1:
        raise OptionError(f"the threshold of WUPS must be from 0 to 1, not {threshold}")
    ours, theirs = _items(answer), _items(truth)
    if not ours or not theirs:
        return float(ours == theirs)
    return min(_product_of_best(ours, theirs, threshold), _product_of_best(theirs, ours, threshold))


def _items(answer: str) -> list[str]:
    return [item.strip().lower() for item in answer.split(",") if item.strip()]


def _product_of_best(ours: Iterable[str], theirs: Sequence[str], threshold: float) -> float:
    total = 1.0
    for one in ours:
        best = max(_similarity(one, other) for other in theirs)
        total *= best if best >= threshold else 0.1 * best
    return total


@lru_cache(maxsize=1 << 16)
def _similarity(one: str, other: str) -> float:
    if one == other:
        return 1.0
    wordnet = _wordnet()
    pairs = product(wordnet.synsets(one.replace(" ", "_"), pos="n"), wordnet.synsets(other.replace(" ", "_"), pos="n"))
    return max((a.wup_similarity(b) or 0.0 for a, b in pairs), default=0.0)


def has_wordnet() -> bool:
    """Whether nltk and its WordNet are installed."""
    try:
        _wordnet()
    except OptionError:
        return False
    return True


@lru_cache(maxsize=1)
def _wordnet():  # type: ignore[no-untyped-def]  # nltk's own type
    try:
        from nltk.corpus import wordnet

        wordnet.ensure_loaded()
    except (ImportError, LookupError):
        raise OptionError(
            "WUPS needs nltk with its WordNet, which is not installed",
            remedy="pip install nltk && python -m nltk.downloader wordnet",
        ) from None
    return wordnet


def most_frequent_of_type(types: Sequence[str], answers: Sequence[str]) -> Mapping[str, str]:
    """The most frequent answer of each type of question; of equally frequent ones the first."""
    counts: dict[str, Counter[str]] = {}
    for kind, answer in zip(types, answers, strict=True):
        counts.setdefault(kind, Counter())[answer] += 1
    return {kind: found.most_common(1)[0][0] for kind, found in counts.items()}
