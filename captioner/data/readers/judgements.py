"""Flickr8k's expert judgements: how well people find that a caption fits a picture."""

from dataclasses import dataclass
from pathlib import Path

from captioner.data.readers.rows import token_lines
from captioner.data.readers.text import read_text
from captioner.errors import DataError


@dataclass(frozen=True)
class Judgement:
    """A caption, given by its id ``name.jpg#2``, put beside a picture, and its ratings."""

    picture: str
    caption: str
    ratings: tuple[int, ...]

    @property
    def own(self) -> bool:
        """Whether the caption was written for this picture."""
        return self.caption.rpartition("#")[0] == self.picture


def read_judgements(path: str | Path) -> list[Judgement]:
    """Read ExpertAnnotations.txt: picture, caption id and ratings, with white space between.

    Raises:
        DataError: a line of another form, by its number.
    """
    path = Path(path)
    judgements = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        picture, caption, *ratings = [*line.split(), "", ""]
        ratings = [rating for rating in ratings if rating]
        if not ratings or not all(rating.isascii() and rating.isdecimal() and len(rating) < 4 for rating in ratings):
            raise DataError(f"{path}, line {number}: {line[:60]!r} is not a picture, a caption's id and ratings")
        judgements.append(Judgement(picture, caption, tuple(map(int, ratings))))
    if not judgements:
        raise DataError(f"{path} has no judgements")
    return judgements


def read_captions(path: str | Path) -> dict[str, str]:
    """Read a token file: each caption by its id ``name.jpg#2``.

    Raises:
        DataError: a line of another form, or an id twice.
    """
    path = Path(path)
    captions: dict[str, str] = {}
    for number, key, _, caption in token_lines(path, read_text(path)):
        if key in captions:
            raise DataError(f"{path}, line {number}: a second caption with the id {key!r}")
        captions[key] = caption
    return captions
