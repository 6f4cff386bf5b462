"""A foreign model without its cache: every step reads the whole caption again, in one pass."""

from typing import Any

import numpy as np
import torch

from captioner.backends.base import Step
from captioner.backends.huggingface import HuggingFaceBackend
from captioner.backends.huggingface.families import ForeignState

_SAME = (
    "device", "vocabulary", "about", "side", "pad", "grid_shape", "max_length", "digest", "fitting", "encode", "score",
    "gradients",
)  # fmt: skip


class Reread:
    """The encoded picture of each row, and the pieces (N, t) that were read."""

    def __init__(self, encoded: ForeignState, read: np.ndarray) -> None:
        self.encoded, self.read = encoded, read

    def select(self, rows: np.ndarray, images: np.ndarray | None = None) -> "Reread":
        return Reread(self.encoded.select(rows), self.read[rows])


class Rereading:
    """As a `HuggingFaceBackend`, of which it takes everything but the steps."""

    name = "rereading"

    def __init__(self, backend: HuggingFaceBackend) -> None:
        self.backend = backend
        for name in _SAME:
            setattr(self, name, getattr(backend, name))

    def begin(self, encoded: Any) -> Reread:
        return Reread(encoded, np.zeros((len(encoded), 0), dtype=np.int64))

    def step(self, tokens: np.ndarray, state: Reread) -> Step:
        read = np.concatenate((state.read, tokens[:, None]), 1)
        with torch.no_grad():
            logits, weights, after = self.backend._read(torch.from_numpy(read), state.encoded)
            maps, off_grid = self.backend._maps(weights, after)
            log_p = self.backend._log_p(logits, unknown=False)
        return Step(log_p[:, -1].numpy(), maps[:, -1].numpy(), off_grid[:, -1].numpy(), Reread(state.encoded, read))
