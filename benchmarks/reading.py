"""Reading captions (teacher forcing) in one graph, against a run of the step graph for each word.

    python benchmarks/reading.py [MODEL ...] --data flickr8k/ [--count 20] [--turns 7] [--threads 1]

The captions are five references of each of the first dev pictures. Times are shares of what encoding the pictures takes
in the same turn: medians over the turns.
"""

import os
import statistics
import time

import numpy as np
from set_up import argument_parser

from captioner.backends.base import Backend, Encoded, Tokens, padded_words
from captioner.data.readers import read
from captioner.pipeline import load
from captioner.pipeline.word_maps import encode
from captioner.shipped import shipped_models
from captioner.tokenizer.ptb import tokenize
from captioner.tokenizer.vocabulary import START

_REFERENCES = 5


def read_by_steps(backend: Backend, encoded: Encoded, captions: Tokens) -> None:
    """A step of the decoder for each word of the longest caption; every picture has as many captions."""
    words = padded_words([caption for own in captions for caption in own])
    state = backend.begin(encoded).select(np.repeat(np.arange(len(captions)), _REFERENCES))
    for token in np.pad(words, ((0, 0), (1, 0)), constant_values=START).T:
        state = backend.step(token, state).state


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("models", nargs="*", default=list(shipped_models()))
    parser.add_argument("--data", required=True)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    dev = [one for one in read(options.data) if one.split == "dev" and len(one.captions) >= _REFERENCES]
    records = dev[: options.count]
    print(f"load {os.getloadavg()[0]:.1f}, {len(records)} pictures, {options.turns} turns, medians")
    for name in options.models:
        model = load(name, backend="onnx", device="cpu", threads=options.threads)
        prepared = [model.prepare(one.image) for one in records]
        captions = [
            [model.vocabulary.encode(tokenize(text))[1:-1] for text in one.captions[:_REFERENCES]] for one in records
        ]
        shares = []
        for turn in range(options.turns + 1):
            times = [time.perf_counter()]
            encoded = encode(model.backend, prepared)
            times.append(time.perf_counter())
            read_by_steps(model.backend, encoded, captions)
            times.append(time.perf_counter())
            model.backend.score(encoded, captions)
            times.append(time.perf_counter())
            if turn:  # the first opens the graphs
                shares.append(np.diff(times)[1:] / (times[1] - times[0]))
        steps, graph = (statistics.median(share) for share in zip(*shares, strict=True))
        print(f"{name:12} step by step {steps:.2f}  all steps in one graph {graph:.2f}")


if __name__ == "__main__":
    main()
