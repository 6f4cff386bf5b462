"""The score that chooses checkpoints: captions that the model writes on its own, against all references."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch

from captioner.data.records import Record
from captioner.decoding import Greedy, decode
from captioner.metrics import evaluate, tokenize
from captioner.metrics.description import describe
from captioner.model.caption_model import CaptionModel
from captioner.model.grid import Grid
from captioner.tokenizer.detokenize import detokenize
from captioner.tokenizer.vocabulary import Vocabulary
from captioner.training.grids import Pictures, encode_batches
from captioner.training.views import View


@torch.inference_mode()
def encode_records(
    model: CaptionModel, records: Sequence[Record], *, device: torch.device, workers: int = 0
) -> Iterator[Grid]:
    """The refined grids of the records' pictures, in order, 32 at a time."""
    pictures = Pictures([record.image for record in records], model.encoder)
    keys = [[(i, View()) for i in range(a, min(a + 32, len(records)))] for a in range(0, len(records), 32)]
    for grid in encode_batches(model.encoder, pictures, keys, device=device, workers=workers):
        yield model.refine(grid)


def write_captions(
    model: CaptionModel,
    vocabulary: Vocabulary,
    records: Sequence[Record],
    grids: Iterable[Grid],
    *,
    options: Greedy,
) -> dict[str, str]:
    """A caption for each record, by the record's id; the grids are what `encode_records` gives."""
    captions: list[str] = []
    for grid in grids:
        captions += [detokenize(vocabulary.decode(best[0].tokens)) for best in decode(model.decoder, grid, options)]
    return {record.id: caption for record, caption in zip(records, captions, strict=True)}


def score_captions(captions: Mapping[str, str], records: Sequence[Record]) -> dict[str, float]:
    """BLEU-1 and -4, ROUGE-L and CIDEr-D, and what the captions look like."""
    scores = evaluate(dict(captions), {record.id: list(record.captions) for record in records})
    looks = describe([tokenize(caption) for caption in captions.values()])
    return {
        "bleu_1": scores.bleu[0],
        "bleu_4": scores.bleu[3],
        "rouge_l": scores.rouge_l,
        "cider": scores.cider,
        "words": looks.mean_length,
        "vocabulary": looks.vocabulary,
        "breaks_off": looks.unfinished,
        "repeats": looks.repeats,
    }
