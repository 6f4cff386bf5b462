"""What holds a model's captions back: the search, or what it has learned?

    python benchmarks/limits.py --model best --data flickr8k/ --pictures 500

On dev: every beam width; the same pictures shown smaller and larger than the model was trained on; the caption of the
beam that samples agree with most (consensus, a common second stage); a caption chosen with the references in hand from
what the beam kept and from samples (no search can find better captions among these), and people. On as many training
pictures, which the model has learned: the same beam. Far better on training pictures than on dev means that more
pictures would help; equally poor on both, that the model is too small for what it sees.

CIDEr-D throughout is computed with the document frequencies of the dev references, so that dev and training pictures
can be compared.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from set_up import argument_parser

from captioner.backends.torch import TorchBackend
from captioner.checkpoint import Checkpoint
from captioner.data.readers import read
from captioner.data.records import Record, evenly_spread, of_split, usable
from captioner.decoding import Hypothesis, decode
from captioner.errors import CaptionerError
from captioner.metrics import DocumentFrequencies, cider_of, evaluate, tokenize
from captioner.model.grid import Grid
from captioner.options import Greedy, Sampling
from captioner.pipeline import Captioner, load
from captioner.tokenizer.detokenize import detokenize
from captioner.training.dev import encode_records

WIDTHS = (1, 2, 3, 5, 10)


def write(model: Captioner, grids: Sequence[Grid], options: Greedy) -> list[list[str]]:
    """The captions that a search returns for each picture, the best first."""

    def text(hypothesis: Hypothesis) -> str:
        return detokenize(model.vocabulary.decode(hypothesis.tokens))

    # A backend of its own: the size of the input may have changed.
    backend = TorchBackend(Checkpoint(model=model.model, vocabulary=model.vocabulary))
    return [[text(one) for one in found] for grid in grids for found in decode(backend, grid, options)]


def report(title: str, captions: Sequence[str], records: Sequence[Record], frequencies: DocumentFrequencies) -> None:
    """Print BLEU and CIDEr-D of a caption for each picture."""
    references = {record.id: list(record.captions) for record in records}
    scores = evaluate(
        {record.id: caption for record, caption in zip(records, captions, strict=True)},
        references,
        document_frequencies=frequencies,
    )
    print(
        f"{title:<44} BLEU-1 {100 * scores.bleu[0]:5.1f}   BLEU-4 {100 * scores.bleu[3]:5.1f}   "
        f"CIDEr {100 * scores.cider:6.1f}",
        flush=True,
    )


def best_of(
    captions: Sequence[Sequence[str]], records: Sequence[Record], frequencies: DocumentFrequencies
) -> list[str]:
    """Of each picture's captions the one that its references like most."""
    return agreed(captions, [record.captions for record in records], frequencies)


def agreed(
    captions: Sequence[Sequence[str]], drawn: Sequence[Sequence[str]], frequencies: DocumentFrequencies
) -> list[str]:
    """Of each picture's captions the one that those drawn like most: minimum Bayes risk under CIDEr-D."""
    chosen = []
    for found, samples in zip(captions, drawn, strict=True):
        references = [tokenize(caption) for caption in samples]
        values = cider_of(
            [tokenize(caption) for caption in found], [references] * len(found), document_frequencies=frequencies
        )
        chosen.append(found[int(np.argmax(values))])
    return chosen


def main() -> int:
    parser = argument_parser(__doc__)
    parser.add_argument("--model", default="default", help="the name or path of a model")
    parser.add_argument("--data", type=Path, required=True, help="captions with the splits train and dev")
    parser.add_argument("--pictures", type=int, default=500, help="of each split")
    parser.add_argument("--samples", type=int, default=20, help="captions drawn for each picture")
    arguments = parser.parse_args()
    try:
        model = load(arguments.model)
        records = read(arguments.data)
        dev, train = (
            usable(evenly_spread(of_split(records, split), arguments.pictures))[0] for split in ("dev", "train")
        )
        device = torch.device(model.device)
        grids = list(encode_records(model.model, dev, device=device))
        frequencies = DocumentFrequencies.of([[tokenize(c) for c in record.captions] for record in dev])
        own = model.default_options
        print(f"{arguments.model}, {len(dev)} dev pictures")
        for width in WIDTHS:
            options = replace(own, width=width, n_best=1)
            title = f"beam {width}" + (" (as it ships)" if width == own.width else "")
            report(title, [found[0] for found in write(model, grids, options)], dev, frequencies)
        widest = max(WIDTHS)
        kept = write(model, grids, replace(own, width=widest, n_best=widest))
        report(f"the best of the beam's {widest}, by references", best_of(kept, dev, frequencies), dev, frequencies)
        drawn = write(model, grids, Sampling(samples=arguments.samples, no_repeat_ngram=own.no_repeat_ngram))
        title = f"that of the {widest} that {arguments.samples} samples agree with"
        report(title, agreed(kept, drawn, frequencies), dev, frequencies)
        report(
            f"the best of {arguments.samples} samples, by references",
            best_of(drawn, dev, frequencies),
            dev,
            frequencies,
        )
        others = [replace(record, captions=record.captions[1:]) for record in dev]
        report("a person against the others", [record.captions[0] for record in dev], others, frequencies)
        side = model.model.encoder.config.side or 0
        for other in (size for size in (side - 32, side + 32, side + 64) if size >= 32):
            model.model.set_side(other)
            shown = list(encode_records(model.model, dev, device=device))
            title = f"shown at {other} pixels instead of {side}, as it ships"
            report(title, [found[0] for found in write(model, shown, own)], dev, frequencies)
        model.model.set_side(side)
        learned = write(model, list(encode_records(model.model, train, device=device)), own)
        report(f"{len(train)} training pictures, as it ships", [found[0] for found in learned], train, frequencies)
    except CaptionerError as error:
        print(f"limits: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    sys.exit(main())
