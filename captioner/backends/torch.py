"""Models in torch: the runtime of training, of gradients and of accelerators."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from captioner import checkpoint
from captioner.backends.base import BACKENDS, Encoded, Pixels, Scored, State, Step, Tokens, consensus_scores
from captioner.backends.threads import whole_threads
from captioner.checkpoint import Checkpoint
from captioner.errors import OptionError
from captioner.explain.attention import attention_heads
from captioner.explain.gradient import gradient_maps, log_probabilities
from captioner.header import read_header
from captioner.image import Geometry
from captioner.model.answer_model import AnswerModel
from captioner.model.caption_model import CaptionModel
from captioner.model.fine_maps import FINER, repeat_cells
from captioner.model.grid import Grid
from captioner.model.preprocess import normalise
from captioner.tokenizer.vocabulary import END, PAD, START, UNKNOWN

# A forked child has none of the threads of its parent's maths library and would wait for them without end.
if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


class TorchState:
    """A decoder's state behind the border."""

    def __init__(self, state: Any, device: torch.device) -> None:
        self.state, self.device = state, device

    @torch.inference_mode()
    def select(self, rows: NDArray[np.int64], images: NDArray[np.int64] | None = None) -> "TorchState":
        """See `captioner.backends.base.State.select`."""
        kept = None if images is None else self._index(images)
        return TorchState(self.state.select(self._index(rows), kept), self.device)

    def _index(self, places: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(places, dtype=np.int64)).to(self.device)


_Module = TypeVar("_Module", bound=CaptionModel | AnswerModel)


class TorchEncoder(Generic[_Module]):
    """What the backends of captions and of answers share: the model, and pictures to grids.

    Args:
        module: in evaluation mode.
        device: to compute on; None for where its weights are.
    """

    name = "torch"

    def __init__(self, module: _Module, *, device: str | torch.device | None = None) -> None:
        if device is not None:
            module.to(device)  # in place
        self.model = module
        self._device = next(self.model.parameters()).device
        self.device = str(self._device)
        config = self.model.encoder.config
        assert config.side is not None  # filled in by the configuration
        self.side, self.pad = config.side, config.pad
        self.grid_shape = self.model.encoder.map_shape
        self.map_scale = FINER if self.model.encoder.fine_channels else 1

    @torch.inference_mode()
    def encode(self, pixels: Pixels, geometries: Sequence[Geometry]) -> Grid:
        """See `captioner.backends.base.Backend.encode`."""
        mask = None
        if self.pad:
            mask = torch.from_numpy(np.stack([geometry.mask for geometry in geometries])).to(self._device)
        return self.model.encode(normalise(pixels, self.model.encoder.config).to(self._device), mask)


class TorchBackend(TorchEncoder[CaptionModel]):
    """A `Checkpoint` as a `captioner.backends.base.Backend`.

    Args:
        model: in evaluation mode.
        device: to compute on; None for where its weights are.
        digest: of its file.
    """

    def __init__(self, model: Checkpoint, *, device: str | torch.device | None = None, digest: str = "") -> None:
        super().__init__(model.model, device=device)
        self.vocabulary, self.about, self.digest = model.vocabulary, model.about, digest
        self.max_length: int = self.model.decoder.max_length

    @torch.inference_mode()
    def begin(self, encoded: Encoded) -> TorchState:
        """See `captioner.backends.base.Backend.begin`."""
        return TorchState(self.model.decoder.begin(_grid(encoded)), self._device)

    @torch.inference_mode()
    def step(self, tokens: NDArray[np.int64], state: State) -> Step:
        """See `captioner.backends.base.Backend.step`."""
        assert isinstance(state, TorchState)
        step = self.model.decoder.step(torch.from_numpy(tokens).to(self._device), state.state)
        logits = step.logits.float()
        logits = logits.index_fill(-1, logits.new_tensor((PAD, START, UNKNOWN), dtype=torch.long), float("-inf"))
        return Step(
            log_p=self._out(logits.log_softmax(-1)),
            maps=self._out(step.map.float()),
            off_grid=self._out(step.off_grid.float()),
            state=TorchState(step.state, self._device),
        )

    def score(self, encoded: Encoded, captions: Tokens) -> list[list[Scored]]:
        """See `captioner.backends.base.Backend.score`."""
        grid = _grid(encoded)
        tokens, targets = self._pad(captions)
        with torch.inference_mode():
            decoded = self.model.decoder(grid, tokens)
            log_p = log_probabilities(decoded.logits, targets)
        return _unpad(captions, log_p, decoded.maps, decoded.off_grid)

    @property
    def reranks(self) -> bool:
        """See `captioner.backends.base.HasReranker`."""
        return self.model.reranker is not None

    @torch.inference_mode()
    def consensus(self, encoded: Encoded, captions: Tokens) -> list[NDArray[np.float32]]:
        """See `captioner.backends.base.HasReranker.consensus`."""
        reranker, pooled = self.model.reranker, _grid(encoded).pooled
        assert reranker is not None and pooled is not None

        def compute(tokens: NDArray[np.int64], features: Tensor) -> NDArray[np.float32]:
            scores = reranker.consensus(torch.from_numpy(tokens).to(self._device), reranker(features))
            return np.asarray(scores.float().cpu().numpy(), dtype=np.float32)

        return consensus_scores(captions, pooled, compute)

    def gradients(self, encoded: Encoded, captions: Tokens) -> list[list[Scored]]:
        """See `captioner.backends.base.Backend.gradients`."""
        grid = _grid(encoded)
        tokens, targets = self._pad(captions)
        log_p, maps = gradient_maps(self.model.decoder, grid, tokens, targets)
        return _unpad(captions, log_p, self._to_scale(maps), torch.zeros_like(log_p))

    @property
    def map_heads(self) -> list[tuple[int, int]]:
        """See `captioner.backends.base.HasHeads`."""
        decoder = self.model.decoder
        return [divmod(head, decoder.heads) for head in decoder.map_heads]

    @torch.inference_mode()
    def heads(self, encoded: Encoded, caption: Sequence[int]) -> NDArray[np.float32]:
        """See `captioner.backends.base.HasHeads.heads`."""
        tokens, _ = self._pad([[caption]])
        decoder = self.model.decoder
        maps = attention_heads(decoder, _grid(encoded), tokens)[0].unflatten(0, (-1, decoder.heads))
        return np.asarray(self._to_scale(maps).float().cpu().numpy(), dtype=np.float32)

    def word_gradients(
        self, encoded: Encoded, caption: Sequence[int], place: int, words: Sequence[int]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """See `captioner.backends.base.HasHeads.word_gradients`."""
        tokens, targets = self._pad([[[*caption[:place], word] for word in words]])
        log_p, maps = gradient_maps(self.model.decoder, _grid(encoded), tokens, targets, signed=True)
        maps = self._to_scale(maps)
        return tuple(np.asarray(x[:, place].float().cpu().numpy(), dtype=np.float32) for x in (log_p, maps))  # type: ignore[return-value]

    def join(self, *encoded: Encoded) -> Grid:
        """The frames of one clip, which were encoded as pictures in one or more batches, as one grid of all their
        cells."""
        return Grid.of_frames(Grid.together([_grid(one) for one in encoded]))

    def _to_scale(self, maps: Tensor) -> Tensor:
        """Maps (..., h, w) of the grid's cells, in the size of a word's maps."""
        return maps if self.map_scale == 1 else repeat_cells(maps)

    def _out(self, tensor: Tensor) -> Any:
        """numpy's on a CPU; on an accelerator the tensor, which stays there."""
        return tensor.numpy() if self._device.type == "cpu" else tensor

    def _pad(self, captions: Tokens) -> tuple[Tensor, Tensor]:
        """What the decoder reads and what it is asked for, (B * k, T) each."""
        most = max(1, *map(len, captions))
        return pad_tokens([[*some, *[()] * (most - len(some))] for some in captions], self._device)


def _grid(encoded: Encoded) -> Grid:
    assert isinstance(encoded, Grid)
    return encoded


def pad_tokens(captions: Tokens, device: torch.device) -> tuple[Tensor, Tensor]:
    """What a decoder reads and what it is asked for, (N, T) each: start and words, words and end; padded."""
    rows = [caption for some in captions for caption in some]
    steps = max(map(len, rows)) + 1
    tokens = [[START, *caption, *[PAD] * (steps - 1 - len(caption))] for caption in rows]
    targets = [[*caption, END, *[PAD] * (steps - 1 - len(caption))] for caption in rows]
    return torch.tensor(tokens, device=device), torch.tensor(targets, device=device)


def _unpad(captions: Tokens, log_p: Tensor, maps: Tensor, off_grid: Tensor) -> list[list[Scored]]:
    arrays = [np.asarray(tensor.float().cpu().numpy(), dtype=np.float32) for tensor in (log_p, maps, off_grid)]
    copies = len(log_p) // len(captions)
    return [
        [Scored(*(array[i * copies + j, : len(caption) + 1] for array in arrays)) for j, caption in enumerate(some)]
        for i, some in enumerate(captions)
    ]


def set_threads(threads: int | None) -> None:
    """Let torch compute with so many threads in this process from now on; None leaves them as they are.

    Raises:
        OptionError: fewer than 1.
    """
    if threads is not None:
        torch.set_num_threads(whole_threads(threads))


def find_device(device: str) -> str:
    """The device that a name means: "auto" is the best one of this machine.

    Raises:
        OptionError: there is no such device here.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        if torch.device(device).type == "meta" or device.startswith("cpu:"):
            raise RuntimeError
        torch.empty(1, device=device).cpu()
    except (RuntimeError, AssertionError, ValueError, NotImplementedError):  # some where torch lacks a library
        raise OptionError(f"there is no device '{device}' here", remedy="'cpu' is everywhere, 'auto' chooses") from None
    return device


@BACKENDS.register("torch")
def open_model(path: str, *, device: str = "auto", threads: int | None = None) -> TorchBackend:
    """The backend of a model file.

    Args:
        path: of the file.
        device: to compute on.
        threads: of torch in this process from now on; None leaves them as they are.

    Raises:
        CheckpointError: it is missing or damaged.
        OptionError: there is no such device, or fewer than 1 thread.
    """
    if Path(path).is_dir():
        raise OptionError(f"{path}: an exported folder runs on the backend onnx, not on torch")
    set_threads(threads)
    found = find_device(device)
    return TorchBackend(checkpoint.load(path, device=found), digest=read_header(path)["digest"])
