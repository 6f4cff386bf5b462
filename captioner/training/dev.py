"""The dev score, which chooses the best model: generated captions against all references, or perplexity."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch

from captioner.backends.torch import TorchBackend
from captioner.checkpoint import Checkpoint
from captioner.data.records import Record
from captioner.decoding import Greedy, decode
from captioner.metrics import evaluate, tokenize
from captioner.metrics.cider import DocumentFrequencies
from captioner.metrics.description import describe
from captioner.metrics.references import References
from captioner.model.caption_model import CaptionModel
from captioner.model.grid import Grid
from captioner.tokenizer.detokenize import detokenize
from captioner.tokenizer.vocabulary import PAD, UNKNOWN, Vocabulary
from captioner.training.batches import pad
from captioner.training.images import ImageDataset, encode_images
from captioner.training.losses import caption_loss
from captioner.training.views import View


@torch.inference_mode()
def encode_records(
    model: CaptionModel, records: Sequence[Record], *, device: torch.device, workers: int = 0
) -> Iterator[Grid]:
    """The refined grids of the records' pictures, in order, 32 at a time. Raises ImageError."""
    for grid in encode_raw(model, records, device=device, workers=workers):
        yield model.refine(grid)


def encode_raw(
    model: CaptionModel, records: Sequence[Record], *, device: torch.device, workers: int = 0
) -> Iterator[Grid]:
    """As `encode_records`, the encoder's grids."""
    images = ImageDataset([record.image for record in records], model.encoder)
    keys = [[(i, View()) for i in range(a, min(a + 32, len(records)))] for a in range(0, len(records), 32)]
    yield from encode_images(model.encoder, images, keys, device=device, workers=workers)


def counted(grids: Iterable[Grid], advance: Callable[[int], None]) -> Iterator[Grid]:
    """The grids; ``advance`` is called with the number of pictures of each."""
    for grid in grids:
        advance(len(grid))
        yield grid


class DevGrids:
    """The grids of dev pictures. While the encoder is frozen they are computed once, and kept in memory in 16 bits.
    Those with numbers beyond 16 bits are not kept.

    Args:
        most: bytes of a data set's grids that are kept; those of a larger one are computed for every score.
    """

    def __init__(self, most: int = 1 << 30) -> None:
        self.most = most
        self._kept: dict[tuple[str, ...], list[Grid]] = {}

    @torch.inference_mode()
    def refined(
        self, model: CaptionModel, records: Sequence[Record], *, frozen: bool, device: torch.device, workers: int = 0
    ) -> Iterator[Grid]:
        """As `encode_records`; ``frozen`` says whether the encoder is what it was and stays so."""
        if not frozen:
            self._kept.clear()
            yield from encode_records(model, records, device=device, workers=workers)
            return
        name = tuple(str(record.image) for record in records)  # ids of two data sets may be alike
        kept, grids = self._kept.get(name), []
        for grid in kept if kept is not None else encode_raw(model, records, device=device, workers=workers):
            half = grid if kept is not None else _in_half(grid)
            fits = kept is not None or bool(half.features.isfinite().all())
            features = half.features.to(device).float() if fits else grid.features
            yield model.refine(Grid(features, half.shape, None if half.mask is None else half.mask.to(device)))
            if kept is None and fits and half.features.nbytes * len(records) <= self.most * len(half):
                grids.append(half)
        if kept is None and sum(map(len, grids)) == len(records):
            self._kept[name] = grids


def _in_half(grid: Grid) -> Grid:
    return Grid(grid.features.half().cpu(), grid.shape, None if grid.mask is None else grid.mask.cpu())


def generate_captions(
    model: CaptionModel,
    vocabulary: Vocabulary,
    records: Sequence[Record],
    grids: Iterable[Grid],
    *,
    options: Greedy,
) -> dict[str, str]:
    """A caption for each record, by the record's id; ``grids`` are those of `encode_records`.

    Raises:
        CheckpointError: the model's numbers are not finite.
    """
    backend = TorchBackend(Checkpoint(model=model, vocabulary=vocabulary))
    captions: list[str] = []
    for grid in grids:
        captions += [detokenize(vocabulary.decode(best[0].tokens)) for best in decode(backend, grid, options)]
    return {record.id: caption for record, caption in zip(records, captions, strict=True)}


def score_captions(
    captions: Mapping[str, str], records: Sequence[Record], *, frequencies: DocumentFrequencies | None = None
) -> dict[str, float]:
    """BLEU-1 and -4, ROUGE-L and CIDEr-D, and a description of the captions.

    Args:
        captions: by the record's id.
        records: with the references.
        frequencies: for CIDEr-D; None for those of the references.
    """
    references = {record.id: list(record.captions) for record in records}
    scores = evaluate(dict(captions), references, document_frequencies=frequencies)
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


def frequencies_of(records: Sequence[Record]) -> DocumentFrequencies:
    """Document frequencies of the records' captions, for CIDEr-D."""
    return DocumentFrequencies.of(list(References({str(i): list(r.captions) for i, r in enumerate(records)}).values()))


@torch.inference_mode()
def perplexity(model: CaptionModel, vocabulary: Vocabulary, captions: Iterable[str], *, max_length: int) -> float:
    """Of captions, read with a blank grid; ``<unk>`` is not counted."""
    rows = sorted((vocabulary.encode(tokenize(caption)[:max_length]) for caption in captions), key=len)
    total, count = 0.0, 0
    for i in range(0, len(rows), 256):  # of similar lengths, for little padding
        tokens = pad(rows[i : i + 256])
        logits = model(None, tokens[:, :-1]).logits
        targets = tokens[:, 1:].to(logits.device)
        total += caption_loss(logits, targets, count=1).item()
        count += int(((targets != PAD) & (targets != UNKNOWN)).sum())
    return float(torch.tensor(total / max(1, count)).exp())
