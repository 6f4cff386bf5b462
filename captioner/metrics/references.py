"""Captions that are ready for scoring: checked, tokenised once, and kept for the next set of hypotheses."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

from captioner.errors import DataError
from captioner.tokenizer.ptb import tokenize_all

Key = Hashable

# Beyond this nothing is a caption; ROUGE-L's cost grows with the square of the length.
LONGEST = 1_000_000


def checked_caption(caption: Any, *, of: Key, what: str) -> str:
    """The caption, if it is text that can be scored. Raises DataError that names the picture."""
    if not isinstance(caption, str):
        raise DataError(f"the {what} of picture {of!r} is {_shown(caption)}, not text; give a string")
    if len(caption) > LONGEST:
        raise DataError(
            f"the {what} of picture {of!r} has {len(caption):,} characters; at most {LONGEST:,} can be scored"
        )
    return caption


def _shown(value: Any) -> str:
    if value is None:
        return "None (null)"
    text = repr(value)
    return f"{text[:40]}{'...' if len(text) > 40 else ''} ({type(value).__name__})"


def one_type_of_ids(keys: Sequence[Key], *, where: str) -> None:
    """Raise DataError where one collection names pictures both by numbers and by strings."""
    first: dict[type, Key] = {}
    for key in keys:
        first.setdefault(type(key), key)
    if len(first) > 1:
        one, other = list(first.values())[:2]
        raise DataError(f"{where} mix ids of two types, {one!r} and {other!r}; write all of them in one way")


class References(Mapping[Key, list[list[str]]]):
    """The reference captions of a set of pictures as words, for scoring many sets of hypotheses against them.

    A mapping from the picture's id to its references, each a list of words, which must not be changed.

    Args:
        captions: the references of each picture, at least one.
        known: references whose words are used again where captions are the same.

    Raises:
        DataError: a picture without references, or a reference that is not text.
    """

    def __init__(self, captions: Mapping[Any, Sequence[str]], *, known: "References | None" = None) -> None:
        one_type_of_ids(list(captions), where="the references")
        lines: list[str] = []
        for key, group in captions.items():
            if isinstance(group, str) or not isinstance(group, Sequence):
                what = "one string" if isinstance(group, str) else _shown(group)
                raise DataError(f"the references of picture {key!r} are {what}; give a list of captions")
            if not group:
                raise DataError(f"picture {key!r} has no reference caption; add one, or leave the picture out")
            lines += [checked_caption(caption, of=key, what="reference caption") for caption in group]
        self._known: dict[tuple[str, str], list[str]] = {} if known is None else known._known
        words = iter(self.tokenize(lines))
        self._words: dict[Key, list[list[str]]] = {key: [next(words) for _ in group] for key, group in captions.items()}

    def tokenize(self, captions: Sequence[str]) -> list[list[str]]:
        """The words of captions, as of `tokenize_all`; no caption is tokenised a second time."""
        return tokenize_all(captions, known=self._known)

    def renamed(self, pictures: Mapping[Key, Key]) -> "References":
        """The references of some pictures under other ids: a mapping from the new id to the one here."""
        new = References({}, known=self)
        new._words = {key: self._words[picture] for key, picture in pictures.items()}
        return new

    def __getitem__(self, key: Key) -> list[list[str]]:
        return self._words[key]

    def __iter__(self) -> Iterator[Key]:
        return iter(self._words)

    def __len__(self) -> int:
        return len(self._words)
