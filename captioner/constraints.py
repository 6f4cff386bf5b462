"""Words that a caption begins with, must hold, and must not hold.

Required and forbidden phrases are one finite-state automaton over the words (Anderson et al. 2017), made as in Aho and
Corasick (1975). A state says which required phrases a hypothesis holds, how much of the next one it has, and how
few words it still needs. So a search never takes a word after which the rest would not fit into the caption. What is
allowed keeps the log-probability that the model gives it: a search weighs a required word by what it costs.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from captioner.backends.arrays import like, namespace
from captioner.errors import OptionError
from captioner.options import Greedy
from captioner.tokenizer.subwords import Subwords
from captioner.tokenizer.vocabulary import END, SPECIAL, UNKNOWN, Vocabulary

_Ints = NDArray[np.int64]
_FAR = 1 << 30  # words, where no continuation holds all that is required
_LONGEST_PHRASE = 10  # words
_MOST_CELLS = 200_000  # of the automaton's table
_FORBIDDEN = -1
_OTHER = 0  # the class of all words that no phrase has
_DEAD = np.float32(-np.inf)


class Constraints:
    """The automaton of required and forbidden phrases, and the words that captions begin with.

    Args:
        required: phrases in ids.
        forbidden: phrases in ids.
        begin: ids.
        max_length: of captions, in words; where the vocabulary is of pieces, in these.
        vocabulary: of the model.

    Attributes:
        begin: ids.
        restricts: whether anything is required or forbidden.
        start: the state after ``begin``.
        words: ids of the words of required phrases, (A,).

    Raises:
        OptionError: no caption can meet them.
    """

    def __init__(
        self,
        *,
        required: Sequence[tuple[int, ...]] = (),
        forbidden: Sequence[tuple[int, ...]] = (),
        begin: tuple[int, ...] = (),
        max_length: int,
        vocabulary: Vocabulary,
    ) -> None:
        self.begin = begin
        self.restricts = bool(required or forbidden)
        self.words: _Ints = np.unique([word for phrase in required for word in phrase]).astype(np.int64)
        self._vocabulary = vocabulary
        self._refuse_contradictions(required, forbidden)
        phrases = [phrase for phrase in (*required, *forbidden) if len(phrase) > 1 or phrase in required]
        letters = sorted({word for phrase in phrases for word in phrase})
        banned = [phrase[0] for phrase in forbidden if len(phrase) == 1]
        self._classes: _Ints = np.full(len(vocabulary), _OTHER, dtype=np.int64)  # of each word
        continues = vocabulary.continues if isinstance(vocabulary, Subwords) else np.zeros(len(vocabulary), np.bool_)
        self._classes[continues] = len(letters) + 2
        self._classes[letters] = np.arange(1, len(letters) + 1)
        self._classes[banned] = len(letters) + 1
        self._classes[END] = len(letters) + 3
        several = [one for one in forbidden if len(one) > 1]
        self._table = _transitions(required, several, letters, banned, [bool(continues[word]) for word in letters])
        full = (1 << len(required)) - 1
        accepting = np.arange(len(self._table)) * (full + 1) // len(self._table) == full
        self.missing = _distances(self._table, accepting)
        self.start = self._read_begin(begin)
        self._refuse_too_long(max_length)

    @classmethod
    def of(cls, options: Greedy, vocabulary: Vocabulary) -> "Constraints | None":
        """The constraints of options; None where they have none.

        Raises:
            OptionError: a word that the model does not know is required or begins the caption; what is asked for
                contradicts itself, or does not fit into ``max_length`` words.
        """
        if not options.constrained:
            return None
        ids = _PieceIds(vocabulary) if isinstance(vocabulary, Subwords) else _Ids(vocabulary)
        begin = ids.begin(options.begin) if options.begin else ()
        if len(begin) > options.max_length:
            raise OptionError(
                f"begin '{options.begin:.60}' has {len(begin)} words, and a caption has at most {options.max_length}",
                remedy="begin with fewer words, or allow more (--max-words)",
            )
        return cls(
            required=[one for text in options.require_words for one in ids.required(text, begin)],
            forbidden=[one for text in options.forbid_words for one in ids.forbidden(text)],
            begin=begin,
            max_length=options.max_length,
            vocabulary=vocabulary,
        )

    def read(self, states: _Ints, words: _Ints) -> _Ints:
        """The states after words that are allowed. After the end, or a forbidden word, the state is any."""
        return self._table[states, self._classes[words]]

    def missing_after(self, states: _Ints, words: _Ints) -> _Ints:
        """How many words are still required at least, after words (arrays of one shape) that are allowed."""
        after = self.read(states, words)
        return np.where((words == END) | (after < 0), 0, self.missing[after])

    def mask(self, log_p: Any, states: _Ints, room: int) -> Any:
        """Log-probabilities (N, V) with -inf for what is forbidden after states (N,).

        Args:
            log_p: of any library of arrays.
            states: of each row.
            room: words that still fit into the caption, the next one included.
        """
        after = self._table[states]  # (N, classes)
        allowed = (after >= 0) & (self.missing[after] <= max(room - 1, 0))
        allowed[:, -1] = self.missing[states] == 0  # the end
        xp = namespace(log_p)
        ours = xp.take(like(allowed, log_p), like(self._classes, log_p), axis=1)  # (N, V)
        masked = xp.where(ours, log_p, like(np.asarray(_DEAD), log_p))
        # Where no word may follow, the end does, if nothing is missing.
        stuck = (xp.max(masked, axis=1) == _DEAD) & like(allowed[:, -1], log_p)
        is_end = like(np.arange(log_p.shape[1]) == END, log_p)
        return xp.where(stuck[:, None] & is_end[None], like(np.asarray(np.float32(0)), log_p), masked)

    def unmet(self, max_length: int) -> OptionError:
        """The error of a search that found no caption: another option, such as ``no_repeat_ngram``, stands against."""
        return OptionError(
            f"no caption of at most {max_length} words begins with, holds and leaves out what is asked for",
            remedy="allow more words (--max-words) or repetitions (--no-repeat-ngram 0), or require fewer",
        )

    def _text(self, phrase: Sequence[int]) -> str:
        return " ".join(self._vocabulary.words[word] for word in phrase)

    def _refuse_contradictions(self, required: Sequence[tuple[int, ...]], forbidden: Sequence[tuple[int, ...]]) -> None:
        for what, phrases in (("required", required), ("begin", [self.begin])):
            for phrase in phrases:
                for other in forbidden:
                    if _contains(phrase, other):
                        raise OptionError(
                            f"{what}: '{self._text(phrase)}' holds '{self._text(other)}', which is forbidden",
                            remedy="leave one of the two out",
                        )

    def _read_begin(self, begin: Sequence[int]) -> int:
        state = 0
        for word in begin:
            state = int(self._table[state, self._classes[word]])
        return state

    def _refuse_too_long(self, max_length: int) -> None:
        missing, room = int(self.missing[self.start]), max_length - len(self.begin)
        if missing > room:
            raise OptionError(
                f"the required words need {missing} words, and at most {room} fit into a caption of {max_length}",
                remedy="allow more words (--max-words), or require fewer",
            )


class _Ids:
    """Texts as ids of a vocabulary."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        from captioner.tokenizer.ptb import tokenize  # its rules take as long to build as a picture to caption

        self._tokenize, self._vocabulary = tokenize, vocabulary

    def forbidden(self, text: str) -> list[tuple[int, ...]]:
        """The ids of a text's words; none where one is unknown."""
        words = self._words("forbid_words", text)
        ids = self._vocabulary.ids
        return [tuple(ids[word] for word in words)] if all(map(self._is_known, words)) else []

    def required(self, text: str, begin: tuple[int, ...]) -> list[tuple[int, ...]]:
        """The ids of a text's words, which are all known, for captions that begin so."""
        return [self._known("require_words", text)]

    def begin(self, text: str) -> tuple[int, ...]:
        """The ids of a text's words, which are all known."""
        return self._known("begin", text)

    def _known(self, option: str, text: str) -> tuple[int, ...]:
        words = self._words(option, text)
        for word in words:
            if not self._is_known(word):
                raise self._unknown(option, word)
        return tuple(self._vocabulary.ids[word] for word in words)

    def _words(self, option: str, text: str) -> list[str]:
        words = self._tokenize(text)
        if not words:
            raise OptionError(f"{option}: '{text}' has no words", remedy="give a word, or leave it out")
        if len(words) > _LONGEST_PHRASE and option != "begin":
            raise OptionError(
                f"{option}: '{text:.60}' has {len(words)} words", remedy=f"name {_LONGEST_PHRASE} at most"
            )
        return words

    def _is_known(self, word: str) -> bool:
        return self._vocabulary.ids.get(word, 0) >= len(SPECIAL)

    def _unknown(self, option: str, word: str) -> OptionError:
        from difflib import get_close_matches

        words = self._vocabulary.words[len(SPECIAL) :]
        close = get_close_matches(word, words, n=3)
        return OptionError(
            f"{option}: '{word}' is not among the {len(words):,} words that the model knows",
            remedy=f"it knows {', '.join(close)}" if close else "take another word",
        )


class _PieceIds:
    """Texts as the pieces of a foreign tokeniser.

    A required text stands after another word, and no piece follows that would make its last word longer. A forbidden
    one is found at a caption's beginning and after another word, in its own form and with a capital letter. It is found
    by its pieces: longer words that begin with all of them are forbidden as well.
    """

    def __init__(self, vocabulary: Subwords) -> None:
        self._vocabulary = vocabulary

    def forbidden(self, text: str) -> list[tuple[int, ...]]:
        forms = self._forms("forbid_words", text)
        capital = text[:1].upper() + text[1:]  # the tokeniser may know no capitals
        forms += [self._vocabulary.pieces_of(capital, inside=inside) for inside in (False, True)]
        return list(dict.fromkeys(form for form in forms if form and UNKNOWN not in form))

    def required(self, text: str, begin: tuple[int, ...]) -> list[tuple[int, ...]]:
        first, inside = (self._known("require_words", text, form) for form in self._forms("require_words", text))
        return [] if begin[: len(first)] == first else [inside]

    def begin(self, text: str) -> tuple[int, ...]:
        return self._known("begin", text, self._vocabulary.pieces_of(text))

    def _forms(self, option: str, text: str) -> list[tuple[int, ...]]:
        found = [self._vocabulary.pieces_of(text, inside=inside) for inside in (False, True)]
        if not all(found):
            raise OptionError(f"{option}: '{text}' has no words", remedy="give a word, or leave it out")
        if any(len(form) > _LONGEST_PHRASE for form in found):
            raise OptionError(f"{option}: '{text:.60}' has more than {_LONGEST_PHRASE} pieces", remedy="name less")
        return found

    def _known(self, option: str, text: str, pieces: tuple[int, ...]) -> tuple[int, ...]:
        if UNKNOWN in pieces or not pieces:
            raise OptionError(
                f"{option}: '{text:.60}' has what the model's tokeniser does not know", remedy="take another word"
            )
        return pieces


def check_options(options: object, vocabulary: Vocabulary, *, max_length: int, model: str) -> None:
    """Check options of decoding for a model that reads ``max_length`` words at most; ``model`` is its name.

    Raises:
        OptionError: no such options, more words than it can read, or words that it cannot say.
    """
    if not isinstance(options, Greedy):
        raise OptionError(f"options are Greedy, Beam or Sampling, not {type(options).__name__}")
    if options.max_length > max_length:
        raise OptionError(
            f"max_length {options.max_length} is beyond the {max_length} words that the model '{model}' can read",
            remedy="ask for fewer",
        )
    Constraints.of(options, vocabulary)


def forbid(log_p: Any, banned: tuple[_Ints, _Ints]) -> Any:
    """Log-probabilities (N, V) with pairs (row, word) at -inf and the rest of their rows summing to 1 again."""
    rows, words = banned
    if not len(rows):
        return log_p
    touched, place = np.unique(rows, return_inverse=True)
    xp = namespace(log_p)
    forbidden = np.zeros((len(touched), log_p.shape[1]), dtype=np.bool_)
    forbidden[place, words] = True
    own = xp.take(log_p, like(touched, log_p), axis=0)
    allowed = xp.where(like(forbidden, log_p), like(np.asarray(_DEAD), log_p), own)
    highest = xp.max(allowed, axis=-1, keepdims=True)
    stuck = highest == _DEAD
    shifted = allowed - xp.where(stuck, xp.zeros_like(highest), highest)
    total = xp.sum(xp.exp(shifted), axis=-1, keepdims=True)
    total = xp.log(xp.where(stuck, xp.ones_like(total), total))
    # Where nothing may follow, the end does.
    end = np.full(log_p.shape[1], _DEAD)
    end[END] = 0.0
    mended = xp.where(stuck, like(end, log_p)[None], shifted - total)
    if isinstance(log_p, np.ndarray):
        whole: Any = log_p.copy()
        whole[touched] = mended
        return whole
    source = np.arange(log_p.shape[0])
    source[touched] = len(source) + np.arange(len(touched))
    return xp.take(xp.concat((log_p, mended)), like(source, log_p), axis=0)


def _transitions(
    required: Sequence[tuple[int, ...]],
    forbidden: Sequence[tuple[int, ...]],
    letters: Sequence[int],
    banned: Sequence[int],
    continuing: Sequence[bool],
) -> _Ints:
    """The state after a word of each class, (S, classes): -1 where the word is forbidden, and after the end.

    The classes are all other words, the letters, forbidden words, pieces that go on with a word, and the end. Right
    after a required phrase no piece goes on with its last word; ``continuing`` has the letters that would.

    A state is a set of required phrases that are met, as bits, and the longest suffix that begins a phrase. State s is
    of the set s // B and of the suffix s % B, for B beginnings of phrases; 0 is the state before all words.
    """
    beginnings = sorted({phrase[:n] for phrase in (*required, *forbidden) for n in range(len(phrase) + 1)} | {()})
    number = {beginning: i for i, beginning in enumerate(beginnings)}
    classes = len(letters) + 4
    if len(beginnings) * classes << len(required) > _MOST_CELLS:
        raise OptionError(
            f"{len(required)} required and {len(forbidden)} forbidden phrases are too many together",
            remedy="name fewer phrases of several words",
        )
    suffix = np.full((len(beginnings), classes), _FORBIDDEN, dtype=np.int64)  # after a word
    suffix[:, [_OTHER, -2]] = 0
    met = np.zeros_like(suffix)  # the phrases that a word meets
    bits: Counter[tuple[int, ...]] = Counter()
    for i, phrase in enumerate(required):
        bits[phrase] |= 1 << i
    never = set(forbidden)
    for i, beginning in enumerate(beginnings):
        is_whole = any(beginning[first:] in bits for first in range(len(beginning)))
        if is_whole:
            suffix[i, -2] = _FORBIDDEN
        for column, word in enumerate(letters, 1):
            if is_whole and continuing[column - 1]:
                continue
            words = (*beginning, word)
            ends = [words[first:] for first in range(len(words) + 1)]
            if word not in banned and never.isdisjoint(ends):
                suffix[i, column] = next(number[end] for end in ends if end in number)
                met[i, column] = sum(bits[end] for end in ends)
    sets = np.arange(1 << len(required))[:, None, None]
    table = np.where(suffix < 0, _FORBIDDEN, (sets | met) * len(beginnings) + suffix)
    return np.asarray(table.reshape(-1, classes), dtype=np.int64)


def _distances(table: _Ints, accepting: NDArray[np.bool_]) -> _Ints:
    """The fewest words from each state to one that accepts."""
    distance = np.where(accepting, 0, _FAR)
    while True:
        reached = np.where(table >= 0, distance[table], _FAR).min(1) + 1
        nearer = np.minimum(distance, reached)
        if (nearer == distance).all():
            return distance
        distance = nearer


def _contains(words: tuple[int, ...], phrase: tuple[int, ...]) -> bool:
    return any(words[i : i + len(phrase)] == phrase for i in range(len(words) - len(phrase) + 1))
