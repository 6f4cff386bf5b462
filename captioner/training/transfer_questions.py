"""Questions about other pictures, for a teacher to answer: the transfer set of knowledge distillation.

Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", section 2: it needs no labels. A teacher has
overfitted to its training questions; its answers to a question about another picture say more of what it has learned.
"""

from collections.abc import Sequence

import numpy as np

from captioner.data.records import Record
from captioner.tokenizer.function_words import is_function_word
from captioner.tokenizer.ptb import tokenize
from captioner.tokenizer.questions import question_words


class TransferQuestions:
    """Draws questions of other pictures that fit a picture: they share a word with its captions or answers.

    Args:
        records: training pictures with questions.
    """

    def __init__(self, records: Sequence[Record]) -> None:
        self._asked: dict[str, list[tuple[int, int]]] = {}  # by a word, the questions: picture and number
        for picture, record in enumerate(records):
            for number, asked in enumerate(record.questions):
                for word in dict.fromkeys(question_words(asked.text)):
                    if not is_function_word(word):
                        self._asked.setdefault(word, []).append((picture, number))
        self._words = [self._words_of(record) for record in records]

    def draw(self, picture: int, random: np.random.Generator, count: int) -> list[tuple[int, int]]:
        """At most ``count`` questions to ask of a picture: the picture that each is of, and its number there.

        Each is drawn by a word of the picture, all words alike; one of its own, and one that was drawn before, is
        dropped without another try.
        """
        words = self._words[picture]
        found: dict[tuple[int, int], None] = {}
        for _ in range(count if words else 0):
            some = self._asked[words[random.integers(len(words))]]
            one = some[random.integers(len(some))]
            if one[0] != picture:
                found[one] = None
        return list(found)

    def _words_of(self, record: Record) -> list[str]:
        texts = [*record.captions, *(asked.right for asked in record.questions)]
        words = dict.fromkeys(word for text in texts for word in tokenize(text))
        return [word for word in words if word in self._asked]
