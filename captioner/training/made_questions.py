"""Questions made by rule from captions: "a man riding a wave" becomes "what is the man riding", answered by "wave".

The forms are those of COCO-QA (Ren et al. 2015, "Exploring Models and Data for Image Question Answering", section 3.2):
objects, numbers, colours and locations. There they come from parse trees, here from patterns of words, which are cruder
and need no parser: an asked noun phrase is a determiner, words that often stand before nouns, and a noun.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from captioner.data.records import Record
from captioner.grounding.objects import NAMES, name_objects

KINDS = {"object": 0.7, "color": 0.2, "number": 0.1, "location": 0.12}
"""The kinds of made questions, and how often each is drawn against the others; about as often as in COCO-QA."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_COLOURS = _words("black blue brown gray green orange pink purple red white yellow")
_NUMBERS = _words("two three four five six seven eight nine ten")
_ARTICLES = _words("a an the")
_DETERMINERS = _ARTICLES | _words("some his her their its two three four five several many one another this that")
_PREPOSITIONS = _words("in on at inside near")
_NO_ADJECTIVES = _words("of in on with and is are")
# What has a colour in captions, and is rarely an answer itself.
_COLOURED = _words(
    "shirt dress jacket hat hair wall walls coat shorts suit uniform umbrella train sky water grass field car couch "
    "flowers top pants vest helmet tie"
)
_PLURALS = _words("people men women children")
_COLOUR_FORMS = ("what is the color of the", "what color is the")
_LONGEST_PHRASE = 4  # words of a noun phrase before its noun
_LATEST_VERB = 3  # the place of a participle after which the subject is not taken for the whole phrase before it
_LONGEST = 20  # words of a question
_SEEN = 5  # captions in which a word must stand before a noun to count as an adjective


@dataclass(frozen=True)
class MadeQuestion:
    """A question about a picture, made of a caption.

    Attributes:
        words: of the question, without the question mark.
        answer: a word of the caption.
        kind: one of `KINDS`.
        category: the class of COCO that the answer is or is said of; "" where it is none of these.
        noun: the word of the caption that names what the question is about: the answer, or what it is said of.
    """

    words: tuple[str, ...]
    answer: str
    kind: str
    category: str = ""
    noun: str = ""


class QuestionMaker:
    """Makes questions of tokenised captions.

    Args:
        objects: nouns that are asked for.
        places: those of them that answer "where is ...?" too.
        captions: tokenised, in which the words before nouns are counted.
    """

    def __init__(self, *, objects: Collection[str], places: Collection[str], captions: Iterable[Sequence[str]]) -> None:
        self.objects, self.places = frozenset(objects), frozenset(places)
        before = Counter(
            word
            for words in captions
            for determiner, word, noun in zip(words, words[1:], words[2:], strict=False)
            if determiner in _DETERMINERS and noun in self.objects
        )
        self._within = self.objects | _COLOURS | {
            word
            for word, count in before.items()
            if count >= _SEEN and not word.endswith("ing") and word not in _NO_ADJECTIVES | _DETERMINERS
        }  # fmt: skip

    def make(self, words: Sequence[str]) -> list[MadeQuestion]:
        """All questions of a caption, each form that fits.

        Args:
            words: PTB tokens, as `captioner.tokenizer.ptb.tokenize` returns them.
        """
        found: list[MadeQuestion] = []
        named = {one.position: one.category for one in name_objects(words)}
        for place, word in enumerate(words):
            following = words[place + 1] if place + 1 < len(words) else ""
            if word in self.objects and following not in self.objects:
                found += self._of_object(list(words), place, named.get(place, ""))
            elif word in _COLOURS and (following in self.objects or following in _COLOURED):
                if place == 0 or words[place - 1] != "and":  # "black and white" is no colour of its own
                    for form in _COLOUR_FORMS:
                        found.append(
                            MadeQuestion((*form.split(), following), word, "color", named.get(place + 1, ""), following)
                        )
            elif word in _NUMBERS and following:
                asked = (*words[:place], "how", "many", *words[place + 1 :])
                found.append(MadeQuestion(asked, word, "number", named.get(place + 1, ""), following))
        return [one for one in found if len(one.words) <= _LONGEST]

    def _of_object(self, words: list[str], place: int, category: str) -> Iterator[MadeQuestion]:
        """Questions for a noun: with "what" in its place or at the beginning, and "where" after a preposition."""
        answer, start = words[place], self._start(words, place)
        before, rest = words[:start], words[place + 1 :]
        if not before:
            if rest:
                verb = [_be(answer)] if rest[0].endswith("ing") else []
                yield MadeQuestion(("what", *verb, *rest), answer, "object", category, answer)
            return
        if before[0] == "there":  # "there is a cat on the sofa"
            if len(before) == 2 and rest:
                yield MadeQuestion(("what", before[1], *rest), answer, "object", category, answer)
            return
        plain = before[1:] if before[0] in _DETERMINERS - _NUMBERS else before
        yield MadeQuestion((*plain, "what", *rest), answer, "object", category, answer)
        participle = next((i for i, word in enumerate(before) if word.endswith("ing")), 0)
        if not 0 < participle <= _LATEST_VERB:
            return
        be = "are" if before[0] in _NUMBERS else _be(before[participle - 1])
        clause = ["the" if before[0] in _ARTICLES else before[0], *before[1:]]
        yield MadeQuestion(("what", be, *clause, *rest), answer, "object", category, answer)
        if before[-1] in _PREPOSITIONS and answer in self.places:
            yield MadeQuestion(("where", be, *clause[:-1]), answer, "location", category, answer)

    def _start(self, words: Sequence[str], place: int) -> int:
        """Where the noun phrase begins whose noun is at ``place``."""
        start = place
        while start and place - start < _LONGEST_PHRASE and words[start - 1] in self._within:
            start -= 1
        return start - 1 if start and words[start - 1] in _DETERMINERS else start


def _be(noun: str) -> str:
    return "are" if noun in _PLURALS or (noun.endswith("s") and not noun.endswith("ss")) else "is"


def asked_words(records: Iterable[Record]) -> tuple[frozenset[str], frozenset[str]]:
    """The objects and the places of `QuestionMaker`, from questions whose type is known.

    Objects are the answers, of one word, to questions of the types "object" and "location", as COCO-QA has them; places
    those that at least two questions of the type "location" have. Without such questions the objects are the names of
    COCO's classes, and there are no places.
    """
    objects: set[str] = set()
    places: Counter[str] = Counter()
    for record in records:
        for asked in record.questions:
            if asked.type in ("object", "location"):
                objects |= {answer for answer in asked.answers if " " not in answer}
                places.update(asked.answers if asked.type == "location" else ())
    if not objects:
        names = (name for line in NAMES.values() for name in line.split(", "))
        return frozenset(name for name in names if " " not in name), frozenset()
    return frozenset(objects - _COLOURS), frozenset(word for word, count in places.items() if count > 1)
