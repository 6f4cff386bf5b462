"""What a set of captions looks like, apart from any reference: the faults that a score hides."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise

# A caption that ends in one of these breaks off: the known fault of rewards without an end token.
FUNCTION_WORDS = frozenset(
    """
    a an the and or but of in on at to with by for from into onto over under near behind beside between through
    while as that which who whose is are was were be being its his her their this these those
    """.split()  # noqa: SIM905  a list would be forty lines
)


@dataclass(frozen=True)
class Description:
    """Shares are between 0 and 1, of all captions."""

    captions: int
    mean_length: float  # in words
    shortest: int
    longest: int
    vocabulary: int  # different words in all captions together
    distinct: float  # number of different captions, as a share of all
    repeats: float  # share that holds some pair of words twice
    unfinished: float  # share that ends in a function word
    empty: int  # captions without a word

    def as_dict(self) -> dict[str, float]:
        """The fields by name."""
        return asdict(self)


def describe(captions: Sequence[Sequence[str]]) -> Description:
    """Describe captions given as lists of words; there must be at least one."""
    lengths = [len(words) for words in captions]
    repeating = 0
    for words in captions:
        pairs = list(pairwise(words))
        repeating += len(set(pairs)) < len(pairs)
    return Description(
        captions=len(captions),
        mean_length=sum(lengths) / len(captions),
        shortest=min(lengths),
        longest=max(lengths),
        vocabulary=len({word for words in captions for word in words}),
        distinct=len({tuple(words) for words in captions}) / len(captions),
        repeats=repeating / len(captions),
        unfinished=sum(bool(words) and words[-1] in FUNCTION_WORDS for words in captions) / len(captions),
        empty=lengths.count(0),
    )
