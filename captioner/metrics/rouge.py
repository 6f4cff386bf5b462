"""ROUGE-L as the official COCO evaluation computes it.

Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004: precision and recall of the longest common
subsequence of words. The official code takes the best precision and the best recall over the references, each by
itself, and weighs recall with beta = 1.2. The corpus figure is the mean over pictures.
"""

from collections.abc import Sequence

_BETA_SQUARED = 1.2**2


def rouge_l(hypothesis: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """ROUGE-L of one caption, between 0 and 1; ``references`` holds at least one.

    A caption without words counts as one empty word, as in the official code: two empty captions agree.
    """
    ours = hypothesis or ("",)
    masks: dict[str, int] = {}
    for place, word in enumerate(ours):
        masks[word] = masks.get(word, 0) | 1 << place
    precision = recall = 0.0
    for reference in references:
        theirs = reference or ("",)
        common = _common(masks, len(ours), theirs)
        precision = max(precision, common / len(ours))
        recall = max(recall, common / len(theirs))
    if precision == 0.0 or recall == 0.0:
        return 0.0
    return (1 + _BETA_SQUARED) * precision * recall / (recall + _BETA_SQUARED * precision)


def _common(masks: dict[str, int], length: int, other: Sequence[str]) -> int:
    """The length of the longest common subsequence, a row of the table at a time.

    The bits of an integer stand for the words of the first sequence; a bit falls to 0 where the row of the usual
    table steps up (Hyyroe, "Bit-parallel LCS-length computation revisited", 2004).
    """
    full = (1 << length) - 1
    row = full
    for word in other:
        matches = row & masks.get(word, 0)
        if matches:
            row = (row + matches | row - matches) & full
    return length - row.bit_count()
