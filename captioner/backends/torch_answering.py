"""Answering models in torch."""

import torch

from captioner import checkpoint
from captioner.backends.base import AnswerScores, Encoded, Tokens
from captioner.backends.questions import pad_questions, unpad_answers
from captioner.backends.torch import TorchEncoder, find_device, set_threads
from captioner.checkpoint import AnswerCheckpoint
from captioner.header import read_header
from captioner.model.answer_model import AnswerModel
from captioner.model.grid import Grid


class TorchAnsweringBackend(TorchEncoder[AnswerModel]):
    """An `AnswerCheckpoint` as a `captioner.backends.base.AnsweringBackend`.

    Args:
        model: in evaluation mode.
        device: to compute on; None for where its weights are.
        digest: of its file.
    """

    threads = 1  # each encodes on all the threads of torch

    def __init__(self, model: AnswerCheckpoint, *, device: str | None = None, digest: str = "") -> None:
        super().__init__(model.model, device=device)
        self.vocabulary, self.answers, self.about, self.digest = model.vocabulary, model.answers, model.about, digest
        self.max_length: int = self.model.answerer.config.max_length

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
        OptionError: there is no such device, or fewer than 1 thread.
    """
    set_threads(threads)
    found = find_device(device)
    return TorchAnsweringBackend(
        checkpoint.load_answering(path, device=found), device=found, digest=read_header(path)["digest"]
    )
