"""The vocabulary of a foreign tokeniser: its pieces, and words that are made of several of them.

Models of other libraries emit pieces of words. Decoding works with pieces; everything that a user sees has whole words.
A word is a run of letters and digits, also with hyphens inside; a clitic ("'s") and each punctuation mark are words of
their own. Where a piece crosses that border, the border falls.
"""

import re
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from captioner.tokenizer.vocabulary import END, SPECIAL, START, UNKNOWN, Vocabulary

_WORD = re.compile(r"\d+(?:[.,:]\d+)+|[^\W_]+(?:-[^\W_]+)*|['’][^\W_]+|[^\s]")
_NO_SPACE_BEFORE = re.compile(r"[.,;:!?%)\]}…]|['’][^\W_]+")
_NO_SPACE_AFTER = frozenset("([{$#")
_REMEMBERED = 10_000  # captions

_Key = tuple[tuple[int, ...], str]


class Span(NamedTuple):
    """Some of the pieces of a sentence that make a word: from ``start``, before ``stop``; its id and text."""

    word: int
    text: str
    start: int
    stop: int


@dataclass(frozen=True, eq=False)
class Subwords(Vocabulary):
    """The pieces of a tokeniser by id, after `SPECIAL`, and further ids for words of several pieces.

    The ids of pieces are below ``len()``; those of words of several pieces are given as the words come, and are of this
    object alone. `encode` makes one id for each word, whatever it is made of.

    Attributes:
        words: the pieces as the tokeniser writes them.
        tokenizer: a fast tokeniser of transformers.
        foreign: the tokeniser's id of each of ``words``; those of `SPECIAL` are the model's own padding, start and end,
            and of what the tokeniser does not know, -1 where there is none.
    """

    tokenizer: Any = None
    foreign: tuple[int, ...] = ()
    _of: dict[_Key, int] = field(default_factory=dict, repr=False)
    _keys: list[_Key] = field(default_factory=list, repr=False)
    _made: dict[tuple[str, ...], list[int]] = field(default_factory=dict, repr=False)
    _lock: Any = field(default_factory=threading.Lock, repr=False)

    @classmethod
    def of(
        cls,
        tokenizer: Any,
        *,
        start: int,
        end: int,
        pad: int,
        size: int,
        hidden: Iterable[int] = (),
        start_is_a_piece: bool = False,
    ) -> "Subwords":
        """The pieces of a tokeniser that a model may emit.

        Args:
            tokenizer: a fast tokeniser of transformers.
            start, end, pad: ids of the model.
            size: of the model's output; larger ids cannot be emitted.
            hidden: ids that are never emitted, beside the tokeniser's special ones.
            start_is_a_piece: the start is text, which may come again.
        """
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
        special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        dropped = special.union(tokenizer.all_special_ids, hidden, (end,) if start_is_a_piece else (start, end))
        pieces = sorted((i, piece) for piece, i in tokenizer.get_vocab().items() if i < size and i not in dropped)
        unknown = -1 if tokenizer.unk_token_id is None else tokenizer.unk_token_id
        kept = [(i, piece) for i, piece in pieces if piece not in SPECIAL]
        return cls(
            words=SPECIAL + tuple(piece for _, piece in kept),
            tokenizer=tokenizer,
            foreign=(pad, start, end, unknown, *(i for i, _ in kept)),
        )

    @cached_property
    def _from_foreign(self) -> dict[int, int]:
        return {i: ours for ours, i in enumerate(self.foreign) if ours >= len(SPECIAL)}

    @cached_property
    def continues(self) -> NDArray[np.bool_]:
        """(V,), whether a piece goes on with the word before it, as far as its form tells."""
        words = self.words
        if any(word.startswith("##") for word in words):
            found = [word.startswith("##") for word in words]
        else:
            mark = next((mark for mark in ("Ġ", "▁") if any(word.startswith(mark) for word in words)), "")
            found = [bool(mark) and word[0] != mark and word[0].isalnum() for word in words]
        return np.array([False] * len(SPECIAL) + found[len(SPECIAL) :])

    def pieces(self, word: int) -> tuple[int, ...]:
        """The pieces of a word, by id."""
        return (word,) if word < len(self.words) else self._keys[word - len(self.words)][0]

    def pieces_of(self, text: str, *, inside: bool = False) -> tuple[int, ...]:
        """The pieces of a text; with ``inside`` as they follow another word."""
        if not inside:
            return tuple(piece for piece, _, _ in self._tokenize(text))
        return tuple(piece for piece, _, last in self._tokenize(f"a {text}") if last > 1)

    def split(self, text: str, most: int | None = None) -> list[str]:
        """The words of a sentence, of at most so many pieces; a word without a piece counts as one."""
        spans = [(first, last) for _, first, last in self._tokenize(text)]
        groups = _grouped(text, spans, without_pieces=True)
        counts = np.cumsum([max(1, stop - first) for _, first, stop in groups])
        return [word for (word, _, _), count in zip(groups, counts, strict=True) if most is None or count <= most]

    def encode(self, words: Sequence[str]) -> list[int]:
        """An id for each word, between ``<start>`` and ``<end>``, as the tokeniser splits their sentence.

        A word with a piece or a letter that the tokeniser does not know is ``<unk>``.
        """
        text, borders = _joined(words)
        of_word: list[list[int]] = [[] for _ in words]
        place, read = 0, set[int]()
        for piece, first, last in self._tokenize(text):
            read.update(range(first, last))
            while place + 1 < len(words) and borders[place] < max(last, first + 1):
                place += 1
            of_word[place].append(piece)
        for i, word in enumerate(words):  # some tokenisers pass over letters that they lack
            begin = borders[i] - len(word)
            if any(letter.isalnum() and begin + j not in read for j, letter in enumerate(word)):
                of_word[i] = [UNKNOWN]
        ids = [self._word(tuple(pieces), word) for pieces, word in zip(of_word, words, strict=True)]
        return [START, *ids, END]

    def decode(self, ids: Iterable[int]) -> list[str]:
        """The words of the ids; special ones are left out."""
        return [self._text_of(i) for i in ids if i >= len(SPECIAL)]

    def sentence(self, words: Sequence[str]) -> str:
        """The text of words, with spaces where they are written."""
        return _joined(words)[0]

    def text(self, ids: Sequence[int]) -> str:
        """The text of words, by id, as the tokeniser writes it."""
        return str(self._decoded([piece for word in ids for piece in self.pieces(word)])).strip()

    def whole_words(self, pieces: Sequence[int]) -> list[Span]:
        """The words that pieces of a sentence make, in order."""
        ends = [0]
        for i in range(len(pieces)):
            ends.append(max(ends[-1], len(self._decoded(pieces[: i + 1]))))
        text = self._decoded(pieces)
        groups = _grouped(text, list(pairwise(ends)))
        found = [Span(self._word(tuple(pieces[a:b]), word), word, a, b) for word, a, b in groups]
        with self._lock:
            self._made[tuple(word.text for word in found)] = [word.word for word in found]
            if len(self._made) > _REMEMBERED:
                del self._made[next(iter(self._made))]
        return found

    def encode_made(self, words: Sequence[str]) -> list[int]:
        """As `encode`, without start and end; the pieces of one of the last thousands of captions are those that the
        model chose, also where the tokeniser would split its text otherwise."""
        with self._lock:
            made = self._made.get(tuple(words))
        return self.encode(words)[1:-1] if made is None else list(made)

    def _tokenize(self, text: str) -> list[tuple[int, int, int]]:
        """Pieces of a text by id, and where each begins and ends."""
        found = self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
        ours = self._from_foreign
        return [(ours.get(i, UNKNOWN), *span) for i, span in zip(found.ids, found.offsets, strict=True)]

    def _decoded(self, pieces: Sequence[int]) -> str:
        known = [self.foreign[piece] for piece in pieces if piece > END and self.foreign[piece] >= 0]
        return str(self.tokenizer.decode(known, skip_special_tokens=False)) if known else ""

    def _text_of(self, word: int) -> str:
        return self._decoded([word]).strip() if word < len(self.words) else self._keys[word - len(self.words)][1]

    def _word(self, pieces: tuple[int, ...], text: str) -> int:
        if not pieces or UNKNOWN in pieces:
            return UNKNOWN
        if len(pieces) == 1 and self._text_of(pieces[0]) == text:
            return pieces[0]
        key = pieces, text
        with self._lock:
            if key not in self._of:
                self._keys.append(key)
                self._of[key] = len(self.words) + len(self._keys) - 1
            return self._of[key]


def _joined(words: Sequence[str]) -> tuple[str, list[int]]:
    """The text of words, and where each ends."""
    text, ends = "", []
    for word in words:
        no_space = not text or _NO_SPACE_BEFORE.fullmatch(word) or text[-1] in _NO_SPACE_AFTER
        text += word if no_space else f" {word}"
        ends.append(len(text))
    return text, ends


def _grouped(
    text: str, spans: Sequence[tuple[int, int]], *, without_pieces: bool = False
) -> list[tuple[str, int, int]]:
    """The words of a text, each with the first of its pieces and the one after its last.

    Args:
        text: of a sentence.
        spans: where each piece begins and ends, in characters; a space before it may count.
        without_pieces: whether words that have none are among them.
    """
    words = [match.span() for match in _WORD.finditer(text)]
    found: list[list[int]] = []  # [first character, last, first piece, after the last piece]
    place = 0
    for i, (first, last) in enumerate(spans):
        while place < len(words) and words[place][1] <= first:
            place += 1
        inside = [word for word in words[place:] if word[0] < last]
        if not inside:  # no more than spaces, or a part of a character
            if found:
                found[-1][3] = i + 1
            continue
        start, stop = inside[0][0], inside[-1][1]
        if found and start < found[-1][1]:
            found[-1][1], found[-1][3] = max(stop, found[-1][1]), i + 1
        else:
            found.append([start, stop, found[-1][3] if found else 0, i + 1])
    if without_pieces:
        inside_one = {start for a, b, _, _ in found for start, _ in words if a <= start < b}
        found = sorted(found + [[*word, 0, 0] for word in words if word[0] not in inside_one])
    return [(text[a:b], first, after) for a, b, first, after in found]
