"""Words and their ids."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from unicodedata import category

from captioner.errors import DataError
from captioner.tokenizer.detokenize import detokenize

SPECIAL = ("<pad>", "<start>", "<end>", "<unk>")
PAD, START, END, UNKNOWN = range(len(SPECIAL))  # the first ids of every vocabulary
LONGEST_WORD = 200  # characters

_UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")  # Unicode categories: controls, surrogates, line and paragraph separators


def is_word(text: object) -> bool:
    """Whether a vocabulary may hold this: a text of 1 to 200 characters without controls, which terminals obey."""
    if not isinstance(text, str) or not 0 < len(text) <= LONGEST_WORD:
        return False
    return text.isprintable() or not any(category(character) in _UNPRINTABLE for character in text)


@dataclass(frozen=True)
class Vocabulary:
    """The words that a model knows, by id; the first four are `SPECIAL`.

    Raises:
        DataError: the special words are not in place, or a word is there twice.
    """

    words: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.words[: len(SPECIAL)] != SPECIAL:
            raise DataError(f"a vocabulary begins with {' '.join(SPECIAL)}, not {' '.join(self.words[:4])}")
        if len(set(self.words)) != len(self.words):
            twice = next(word for word, count in Counter(self.words).items() if count > 1)
            raise DataError(f"the word '{twice}' is there twice")

    @classmethod
    def build(cls, captions: Iterable[Sequence[str]], *, minimum_count: int = 5) -> "Vocabulary":
        """The words that occur at least ``minimum_count`` times, the most frequent first.

        Args:
            captions: tokenised captions of the training split, and of no other.
            minimum_count: rarer words, and those that `is_word` refuses, become ``<unk>`` in training; models never
                emit them.

        Raises:
            DataError: no word is frequent enough.
        """
        counts = Counter(word for caption in captions for word in caption)
        frequent = [word for word, count in counts.items() if count >= minimum_count]
        kept = [word for word in frequent if word not in SPECIAL and is_word(word)]
        if not kept:
            raise DataError(f"no word occurs {minimum_count} times in the training captions: ask for fewer")
        return cls(SPECIAL + tuple(sorted(kept, key=lambda word: (-counts[word], word))))

    def __len__(self) -> int:
        return len(self.words)

    @cached_property
    def ids(self) -> dict[str, int]:
        return {word: i for i, word in enumerate(self.words)}

    def encode(self, words: Sequence[str]) -> list[int]:
        """Ids between ``<start>`` and ``<end>``; unknown words become ``<unk>``."""
        unknown = SPECIAL.index("<unk>")
        middle = [self.ids.get(word, unknown) for word in words]
        return [SPECIAL.index("<start>"), *middle, SPECIAL.index("<end>")]

    def decode(self, ids: Iterable[int]) -> list[str]:
        """The words of the ids; special ones are left out."""
        return [self.words[i] for i in ids if i >= len(SPECIAL)]

    def encode_made(self, words: Sequence[str]) -> list[int]:
        """The ids of the words of a caption that the model made or read, without start and end."""
        return self.encode(words)[1:-1]

    def split(self, text: str, most: int | None = None) -> list[str]:
        """The words of a sentence, at most so many, as the PTB tokeniser splits it."""
        from captioner.tokenizer.ptb import tokenize  # its rules take as long to build as a picture to caption

        return tokenize(text)[:most]

    def sentence(self, words: Sequence[str]) -> str:
        """The sentence that words make."""
        return detokenize(words)

    def text(self, ids: Sequence[int]) -> str:
        """The sentence that words make, by id."""
        return self.sentence(self.decode(ids))
