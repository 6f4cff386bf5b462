"""Read the captions of pictures whose phrases have boxes, and score the maps: the part that runs the model."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from captioner.data.readers.entities import PhraseBoxes
from captioner.data.records import Record
from captioner.grounding.phrase_scores import PhraseScore, off_grid_by_class, score_phrases
from captioner.grounding.phrases import caption_phrases
from captioner.grounding.run import prepared_batches
from captioner.options import MapOptions
from captioner.pipeline import Captioner
from captioner.results import Failure


@dataclass(frozen=True, eq=False)
class PhrasePicture:
    """What the captions of one picture score.

    Attributes:
        record: the picture.
        scores: of the phrases with boxes, of all captions.
        words: class and weight off the grid of each word of these captions.
    """

    record: Record
    scores: tuple[PhraseScore, ...]
    words: tuple[tuple[str, float], ...]


def ground_phrases(
    model: Captioner,
    records: Iterable[Record],
    phrases: PhraseBoxes,
    *,
    explain: str | MapOptions | None = None,
    batch: int = 16,
) -> Iterator[PhrasePicture | Failure]:
    """Read every caption of the records that has a phrase with boxes (teacher forcing), and score its maps.

    Yields:
        For each record, in order, a `PhrasePicture`, or a `Failure` where the picture does not open.
    """
    for some in prepared_batches(model, records, batch, lambda record: phrases.size_of(record.image)):
        for record, prepared in some:
            if isinstance(prepared, Failure):
                yield prepared
                continue
            split = [model.split(caption) for caption in record.captions]
            placed = caption_phrases(split, phrases.of(record.image) or ())
            read = [i for i, found in enumerate(placed) if any(phrase.boxes for phrase in found)]
            captions = model.read_prepared(prepared, [record.captions[i] for i in read], explain=explain)
            scores: list[PhraseScore] = []
            words: list[tuple[str, float]] = []
            for i, caption in zip(read, captions, strict=True):
                scores += score_phrases(caption, placed[i], record.id)
                words += off_grid_by_class(caption, placed[i])
            yield PhrasePicture(record, tuple(scores), tuple(words))
