"""Answering models in torch."""

from collections.abc import Sequence

import numpy as np
import torch

from captioner import checkpoint
from captioner.backends.base import AnswerScores, Encoded, Pixels, Tokens
from captioner.backends.questions import pad_questions, unpad_answers
from captioner.backends.torch import find_device
from captioner.checkpoint import AnswerCheckpoint
from captioner.header import read_header
from captioner.image import Geometry
from captioner.model.grid import Grid
from captioner.model.preprocess import normalise


class TorchAnsweringBackend:
    """An `AnswerCheckpoint` as a `captioner.backends.base.AnsweringBackend`.

    Args:
        model: in evaluation mode.
        device: to compute on; None for where its weights are.
        digest: of its file.
    """

    name = "torch"
    threads = 1  # each encodes on all the threads of torch

    def __init__(self, model: AnswerCheckpoint, *, device: str | None = None, digest: str = "") -> None:
        self.model = model.model.to(device) if device is not None else model.model
        self.vocabulary, self.answers, self.about, self.digest = model.vocabulary, model.answers, model.about, digest
        self._device = next(self.model.parameters()).device
        self.device = str(self._device)
        config = self.model.encoder.config
        assert config.side is not None  # filled in by the configuration
        self.side, self.pad = config.side, config.pad
        self.grid_shape = self.model.encoder.grid_shape
        self.max_length: int = self.model.answerer.config.max_length

    @torch.inference_mode()
    def encode(self, pixels: Pixels, geometries: Sequence[Geometry]) -> Grid:
        """See `captioner.backends.base.AnsweringBackend.encode`."""
        mask = None
        if self.pad:
            mask = torch.from_numpy(np.stack([geometry.mask for geometry in geometries])).to(self._device)
        return self.model.encode(normalise(pixels, self.model.encoder.config).to(self._device), mask)

    @torch.inference_mode()
    def answer(self, encoded: Encoded, questions: Tokens) -> list[list[AnswerScores]]:
        """See `captioner.backends.base.AnsweringBackend.answer`."""
        assert isinstance(encoded, Grid)
        answered = self.model.answerer(encoded, torch.from_numpy(pad_questions(questions)).to(self._device))
        found = (answered.logits.float().log_softmax(-1), answered.maps.float(), answered.words.float())
        return unpad_answers(questions, *(tensor.cpu().numpy() for tensor in found))


def open_torch(path: str, *, device: str = "auto", threads: int | None = None) -> TorchAnsweringBackend:
    """The backend of an answering model's file.

    Raises:
        CheckpointError: it is missing, damaged, or a captioning model.
        OptionError: there is no such device.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    found = find_device(device)
    return TorchAnsweringBackend(
        checkpoint.load_answering(path, device=found), device=found, digest=read_header(path)["digest"]
    )
