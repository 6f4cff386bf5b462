"""Questions of the form "is there a dog in the image?", balanced so that the class alone does not answer them.

What is in a picture comes from its captions and the annotated objects. What is not comes from the annotated classes,
and from captions where there are several; people are left out of many captions that show them, so their absence
counts where it is annotated alone.

Half of the pictures without a class are drawn by how often it stands beside what they show, as the adversarial split of
POPE does (Li et al. 2023, "Evaluating Object Hallucination in Large Vision-Language Models", section 5.1).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from captioner.data.records import Boxes, Record
from captioner.grounding.objects import NAMES, name_objects
from captioner.tokenizer.ptb import tokenize
from captioner.training.word_boxes import NamedBoxes

CLASSES = tuple(NAMES)
FEWEST_CAPTIONS = 2
"""Of a picture, from which what is not there is concluded: one caption says little of it."""
ENDS = (("in", "the", "image"), ("in", "the", "image"), ("in", "the", "picture"), ())


@dataclass(frozen=True)
class PresenceQuestion:
    """Whether a class is in a picture.

    Attributes:
        words: of the question.
        present: whether it is.
        boxes: of the class in the picture, where they are known.
    """

    words: tuple[str, ...]
    present: bool
    boxes: Boxes = ()


class PresenceQuestions:
    """Draws the presence questions of an epoch.

    Args:
        records: pictures with captions or objects; others are asked nothing.

    Attributes:
        shows, lacks: (N, C), the classes, in the order of `CLASSES`, that are known to be, and not to be, in each
            picture.
    """

    def __init__(self, records: Sequence[Record]) -> None:
        self.shows = np.zeros((len(records), len(CLASSES)), np.bool_)
        annotated = np.zeros_like(self.shows)
        person = CLASSES.index("person")
        for i, record in enumerate(records):
            objects = record.objects or {}
            named = {one.category for caption in record.captions for one in name_objects(tokenize(caption))}
            for c, name in enumerate(CLASSES):
                self.shows[i, c] = name in named or bool(objects.get(name))
                captioned = len(record.captions) >= FEWEST_CAPTIONS and c != person
                annotated[i, c] = name in objects or captioned
        self.lacks = annotated & ~self.shows
        self._boxes = [NamedBoxes.of(record).classes for record in records]
        together = self.shows.T.astype(np.float64) @ self.shows
        self._beside = together / np.maximum(1, together.diagonal())  # (C, D): P(c | d)

    def epoch(self, random: np.random.Generator, *, per_picture: float) -> dict[int, list[PresenceQuestion]]:
        """The questions of an epoch by picture: of each class as many "yes" as "no".

        Args:
            random: decides all of them.
            per_picture: the mean number of questions of a picture that has captions or objects. There are fewer where
                the rarer answer of each class runs out.
        """
        most = np.minimum(self.shows.sum(0), self.lacks.sum(0))
        known = int((self.shows | self.lacks).any(1).sum())
        pairs = np.minimum(most, np.ceil(per_picture * known / 2 * most / max(1, most.sum()))).astype(int)
        found: dict[int, list[PresenceQuestion]] = {}
        for c in np.flatnonzero(pairs).tolist():
            yes = random.choice(np.flatnonzero(self.shows[:, c]), pairs[c], replace=False)
            no = random.choice(np.flatnonzero(self.lacks[:, c]), pairs[c], replace=False, p=self._weights(c))
            for picture in (*yes.tolist(), *no.tolist()):
                words = presence_words(CLASSES[c], end=ENDS[random.integers(len(ENDS))])
                question = PresenceQuestion(
                    words, bool(self.shows[picture, c]), self._boxes[picture].get(CLASSES[c], ())
                )
                found.setdefault(picture, []).append(question)
        return found

    def _weights(self, c: int) -> NDArray[np.float64]:
        """How likely each picture without a class is drawn; they sum to 1."""
        likely = self.shows[self.lacks[:, c]] @ self._beside[c]
        even = np.full(len(likely), 1 / len(likely))
        return even if not likely.sum() else (even + likely / likely.sum()) / 2


def presence_words(name: str, *, end: Sequence[str] = ENDS[0]) -> tuple[str, ...]:
    """The words of the question whether a class is there."""
    return ("is", "there", "an" if name[0] in "aeiou" else "a", *name.split(), *end)
