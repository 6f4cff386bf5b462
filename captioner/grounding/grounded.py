"""Captions with the scores of their nouns' maps."""

from collections.abc import Sequence
from dataclasses import dataclass

from captioner.data.records import Record
from captioner.grounding.ground_truth import NounAnnotation
from captioner.grounding.pointing import GroundedNoun, PointingScore, score_pointing
from captioner.results import Caption

SOURCES = ("generated", "references")
"""Captions that the model generates, and reference captions that it reads (teacher forcing)."""


@dataclass(frozen=True, eq=False, kw_only=True)
class GroundedCaption:
    """A caption and what the maps of its nouns score.

    Attributes:
        record: the picture.
        source: "generated" or "references".
        caption: with its maps.
        nouns: the nouns whose objects are in the picture.
        scores: of each of ``nouns``.
        absent: how many nouns name objects that were annotated and are not in the picture.
    """

    record: Record
    source: str
    caption: Caption
    nouns: tuple[GroundedNoun, ...]
    scores: tuple[PointingScore, ...]
    absent: int


@dataclass(frozen=True, eq=False)
class GroundedPicture:
    """The grounded captions of one picture.

    Attributes:
        record: the picture.
        captions: the generated one first, then the references that name annotated objects.
    """

    record: Record
    captions: tuple[GroundedCaption, ...]


def score_caption(
    caption: Caption, record: Record, annotations: Sequence[NounAnnotation], source: str
) -> GroundedCaption:
    """Score the nouns of a caption.

    Args:
        caption: with its maps.
        record: its picture.
        annotations: of its nouns; positions count the caption's words.
        source: one of `SOURCES`.
    """
    nouns = []
    for annotation in annotations:
        if annotation.region is None:
            continue
        same_class = {other.position for other in annotations if other.category == annotation.category}
        nouns.append(
            GroundedNoun(
                picture=record.id,
                category=annotation.category,
                position=annotation.position,
                map=caption.words[annotation.position].map,
                others=caption.maps[[i for i in range(len(caption.words)) if i not in same_class]],
                geometry=caption.geometry,
                region=annotation.region,
            )
        )
    return GroundedCaption(
        record=record,
        source=source,
        caption=caption,
        nouns=tuple(nouns),
        scores=tuple(map(score_pointing, nouns)),
        absent=len(annotations) - len(nouns),
    )
