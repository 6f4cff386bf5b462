"""All scores of a set of captions at once, as the official COCO evaluation computes them.

The signature of a result holds what two figures must share to be compared: tokeniser, number of pictures and of
references with a checksum, where the document frequencies come from, and the version.
"""

import warnings
import zlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from captioner.errors import DataError, Notice
from captioner.metrics.bleu import BleuCounter, bleu
from captioner.metrics.cider import CiderScorer, DocumentFrequencies
from captioner.metrics.ngrams import number_words
from captioner.metrics.references import References, checked_caption, one_type_of_ids
from captioner.metrics.rouge import rouge_l
from captioner.version import __version__

Floats = NDArray[np.float64]
Key = Hashable

# Below this many pictures document frequencies say little: the same captions score several points apart.
FEW_PICTURES = 50

NAMES = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr", "plain CIDEr")


class FewPicturesWarning(Notice):
    """CIDEr's document frequencies come from very few pictures."""


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of P pictures; BLEU and ROUGE-L lie between 0 and 1, CIDEr between 0 and 10.

    ``cider`` is CIDEr-D, which the official evaluation prints as CIDEr. ``plain_cider`` is CIDEr without
    the D.
    """

    bleu: tuple[float, float, float, float]
    rouge_l: float
    cider: float
    plain_cider: float
    ids: tuple[Key, ...]  # (P,) in the order of the arrays
    bleu_table: Floats  # (P, 10) what BLEU pools, see bleu.BleuCounts.table
    rouge_l_per_picture: Floats  # (P,)
    cider_per_picture: Floats  # (P,) CIDEr-D
    plain_cider_per_picture: Floats  # (P,)
    signature: str

    @property
    def bleu_per_picture(self) -> Floats:
        """BLEU-1 to BLEU-4 of each picture by itself, (P, 4). Their mean is not the corpus figure."""
        return bleu(self.bleu_table)

    def as_dict(self) -> dict[str, float]:
        """The corpus figures by name, in the order of ``NAMES``."""
        return dict(zip(NAMES, (*self.bleu, self.rouge_l, self.cider, self.plain_cider), strict=True))

    def per_picture(self) -> dict[Key, dict[str, float]]:
        """The figures of each picture by id and name."""
        columns = self.table()
        return {key: dict(zip(NAMES, row, strict=True)) for key, row in zip(self.ids, columns.tolist(), strict=True)}

    def table(self) -> Floats:
        """The figures of each picture, (P, 7), columns in the order of ``NAMES``."""
        return np.column_stack(
            [
                self.bleu_per_picture,
                self.rouge_l_per_picture,
                self.cider_per_picture,
                self.plain_cider_per_picture,
            ]
        )


def evaluate(
    hypotheses: Mapping[Any, str],
    references: Mapping[Any, Sequence[str]] | References,
    *,
    partial: bool = False,
    document_frequencies: DocumentFrequencies | None = None,
) -> Scores:
    """Score captions against references, both by picture id.

    ``hypotheses`` holds one caption a picture, ``references`` one or more; pass ``References`` to tokenise
    them only once. An empty caption is scored (0). With ``partial``, pictures that only one side has are
    left out.

    Raises DataError that names the first id concerned: ids on one side only, captions that are not text, a
    picture without references, nothing to score. Warns with FewPicturesWarning where CIDEr has little to go
    by.
    """
    one_type_of_ids(list(hypotheses), where="the hypotheses")
    if not isinstance(references, References):
        references = References(references)
    ids = _matched(hypotheses, references, partial=partial)
    words = references.tokenize([checked_caption(hypotheses[key], of=key, what="caption") for key in ids])
    groups = [references[key] for key in ids]
    counted = len(ids) if document_frequencies is None else document_frequencies.pictures
    if counted < FEW_PICTURES:
        warnings.warn(
            f"CIDEr's document frequencies come from {counted} pictures; below {FEW_PICTURES} the figure means "
            "little: score more pictures, or give the frequencies of a larger set",
            FewPicturesWarning,
            stacklevel=2,
        )
    return _score(ids, words, groups, document_frequencies)


def _matched(hypotheses: Mapping[Any, str], references: References, *, partial: bool) -> list[Key]:
    """The ids to score, in the order of the references."""
    ids = [key for key in references if key in hypotheses]
    if len(ids) == len(references) == len(hypotheses) and ids:
        return ids
    if not hypotheses or not references:
        raise DataError(f"there are no {'captions' if not hypotheses else 'references'} to score")
    missing = [key for key in references if key not in hypotheses]
    extra = [key for key in hypotheses if key not in references]
    if not ids:
        raise DataError(
            f"no id is in both: captions have {extra[0]!r}, references {missing[0]!r}; "
            "check that both name pictures in the same way (a number is not a string)"
        )
    if partial:
        return ids
    if missing:
        raise DataError(
            f"{len(missing)} of {len(references)} pictures have no caption, the first is {missing[0]!r}; "
            "caption them, or score only those that are there (--partial)"
        )
    raise DataError(
        f"{len(extra)} captions are of pictures without references, the first is {extra[0]!r}; "
        "remove them, or score only the others (--partial)"
    )


def _score(
    ids: Sequence[Key],
    words: Sequence[Sequence[str]],
    references: Sequence[Sequence[Sequence[str]]],
    document_frequencies: DocumentFrequencies | None,
) -> Scores:
    rouge = np.array([rouge_l(ours, theirs) for ours, theirs in zip(words, references, strict=True)])
    # BLEU and CIDEr split at every white space, also inside "22\u00a03/4"; ROUGE-L does not.
    ngrams = number_words(
        [_split(caption) for caption in words], [[_split(caption) for caption in group] for group in references]
    )
    counter, scorer = BleuCounter(ngrams), CiderScorer(ngrams, document_frequencies)
    for order in ngrams.orders():
        counter.add(order)
        scorer.add(order)
    table = counter.counts().table()
    cider_d, plain = scorer.scores()
    first, second, third, fourth = bleu(table.sum(axis=0)).tolist()
    return Scores(
        bleu=(first, second, third, fourth),
        rouge_l=float(rouge.mean()),
        cider=float(cider_d.mean()),
        plain_cider=float(plain.mean()),
        ids=tuple(ids),
        bleu_table=table,
        rouge_l_per_picture=rouge,
        cider_per_picture=cider_d,
        plain_cider_per_picture=plain,
        signature=_signature(ids, references, document_frequencies),
    )


def _split(words: Sequence[str]) -> Sequence[str]:
    if any("\u00a0" in word for word in words):
        return " ".join(words).split()
    return words


def _signature(
    ids: Sequence[Key],
    references: Sequence[Sequence[Sequence[str]]],
    document_frequencies: DocumentFrequencies | None,
) -> str:
    numbers = [len(group) for group in references]
    fewest, most = min(numbers), max(numbers)
    frequencies = "scored set"
    if document_frequencies is not None:
        frequencies = f"table of {document_frequencies.pictures} {document_frequencies.checksum:08x}"
    # Two figures whose signatures have the same checksum were measured against the same references.
    checksum = 0
    for key, group in sorted((str(key), group) for key, group in zip(ids, references, strict=True)):
        text = "\n".join([key, *(" ".join(caption) for caption in group), ""])
        checksum = zlib.crc32(text.encode("utf-8", "surrogatepass"), checksum)
    return (
        f"captioner {__version__} | tokens ptb | pictures {len(references)} "
        f"| references {fewest if fewest == most else f'{fewest}-{most}'} {checksum:08x} "
        f"| document frequencies {frequencies}"
    )
