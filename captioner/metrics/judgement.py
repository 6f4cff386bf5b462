"""How well a score agrees with people: Flickr8k's expert judgements.

Hodosh, Young and Hockenmaier, "Framing Image Description as a Ranking Task", JAIR 2013: three experts say from 1 to 4
how well a caption fits a picture. The captions are people's own, mostly of other pictures. In the usual setting
(Anderson et al., "SPICE", ECCV 2016) pairs of a picture with one of its own five captions are left out, 5,664 pairs
remain, and each of the three ratings is an item of Kendall's tau-c.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from captioner.data.readers.judgements import Judgement
from captioner.errors import DataError
from captioner.metrics.evaluate import Scores, evaluate
from captioner.metrics.references import References


def score_pairs(pairs: Sequence[tuple[Any, str]], references: Mapping[Any, Sequence[str]] | References) -> Scores:
    """Score single pairs of (picture, caption): row i of the result is pair i, and pictures may come again.

    CIDEr's document frequencies are those of the pictures that stand in the pairs, each counted once.
    """
    from captioner.metrics.cider import DocumentFrequencies

    if not isinstance(references, References):
        references = References(references)
    absent = next((picture for picture, _ in pairs if picture not in references), None)
    if absent is not None:
        raise DataError(f"picture {absent!r} is judged and has no references")
    pictures = dict.fromkeys(picture for picture, _ in pairs)
    frequencies = DocumentFrequencies.of([references[picture] for picture in pictures])
    return evaluate(
        {index: caption for index, (_, caption) in enumerate(pairs)},
        references.renamed({index: picture for index, (picture, _) in enumerate(pairs)}),
        document_frequencies=frequencies,
    )


def correlations(judgements: Sequence[Judgement], captions: Mapping[str, str]) -> dict[str, float]:
    """Kendall's tau-c, between -1 and 1, of each score with the ratings; each rating is an item.

    Pairs of a picture with one of its own captions are left out; the references are the picture's own captions.
    """
    from scipy.stats import kendalltau

    judged = [judgement for judgement in judgements if not judgement.own]
    if not judged:
        raise DataError("every judged caption is one of its picture's own; there is nothing to correlate")
    unknown = next((judgement.caption for judgement in judged if judgement.caption not in captions), None)
    if unknown is not None:
        raise DataError(f"caption {unknown!r} is judged and not in the token file")
    references: dict[str, list[str]] = {}
    for name, caption in captions.items():
        references.setdefault(name.rpartition("#")[0], []).append(caption)
    pictures = dict.fromkeys(judgement.picture for judgement in judged)
    scores = score_pairs(
        [(judgement.picture, captions[judgement.caption]) for judgement in judged],
        {picture: references.get(picture, []) for picture in pictures},
    )
    ratings = np.array([rating for judgement in judged for rating in judgement.ratings])
    times = np.array([len(judgement.ratings) for judgement in judged])
    table: NDArray[np.float64] = np.repeat(scores.table(), times, axis=0)
    return {
        name: float(kendalltau(table[:, column], ratings, variant="c").statistic)
        for column, name in enumerate(scores.as_dict())
    }
