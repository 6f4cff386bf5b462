"""The protocol between a model's runtime and everything that uses it: decoding, pipeline, grounding, server.

Arrays at the border are numpy's. Log-probabilities, maps and off-grid weights of a step may stay on an accelerator, as
arrays of its own library, until decoding has picked the few best.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from captioner.errors import OptionError
from captioner.registry import Registry
from captioner.tokenizer.vocabulary import PAD

if TYPE_CHECKING:  # Pillow is imported while a model is opened
    from captioner.geometry import Fitting, Geometry
    from captioner.tokenizer.vocabulary import Vocabulary

Pixels = NDArray[np.uint8]
Tokens = Sequence[Sequence[Sequence[int]]]
"""For each picture any number of captions, or of questions, in ids, without start and end."""
_WORDS = 2048  # words of captions, with padding, that are scored at a time, which bounds memory


class Encoded(Protocol):
    """Pictures that a backend encoded; opaque to everything else."""

    def __len__(self) -> int:
        """Number of pictures."""


class State(Protocol):
    """The state of ``N`` captions of ``B`` pictures. Rows are grouped by picture: row r is of picture r // (N / B)."""

    def select(self, rows: NDArray[np.int64], images: NDArray[np.int64] | None = None) -> Self:
        """Some rows in a new order; ``images`` are the pictures that they are of, None for all."""


@dataclass(frozen=True)
class Step:
    """What one step returns for N captions.

    Attributes:
        log_p: (N, V), log-probabilities of the next token. PAD, START and UNKNOWN are never predicted: they have -inf,
            and the others sum to 1.
        maps: (N, h, w), where the model attended; with ``off_grid`` each sums to 1.
        off_grid: (N,).
        state: after the step.
    """

    log_p: Any
    maps: Any
    off_grid: Any
    state: State


@dataclass(frozen=True)
class Scored:
    """What a backend returns for a caption of n words that it read.

    Attributes:
        log_p: (n + 1,), log-probabilities of the words and of the end, over the whole vocabulary.
        maps: (n + 1, h, w), of the words and of the end.
        off_grid: (n + 1,).
    """

    log_p: NDArray[np.float32]
    maps: NDArray[np.float32]
    off_grid: NDArray[np.float32]


class RunningModel(Protocol):
    """A model in some runtime, which encodes pictures.

    Attributes:
        name: of the runtime: "torch".
        device: where it computes: "cpu", "cuda:0".
        vocabulary: the words of captions or of questions.
        about: the metadata of the model, see `captioner.metadata.Header`.
        side: of the square input, in pixels.
        pad: pictures keep their shape and are padded, rather than squashed.
        grid_shape: (h, w) of the maps.
        max_length: the most words of a caption or a question that it can read.
        digest: of the model's file; "" for a model that came from none.
    """

    @property
    def name(self) -> str: ...
    @property
    def device(self) -> str: ...
    @property
    def vocabulary(self) -> Vocabulary: ...
    @property
    def about(self) -> Mapping[str, Any]: ...
    @property
    def side(self) -> int: ...
    @property
    def pad(self) -> bool: ...
    @property
    def grid_shape(self) -> tuple[int, int]: ...
    @property
    def max_length(self) -> int: ...
    @property
    def digest(self) -> str: ...

    def encode(self, pixels: Pixels, geometries: Sequence[Geometry]) -> Encoded:
        """Encode inputs (B, side, side, 3); ``geometries`` are of the B pictures."""


class Backend(RunningModel, Protocol):
    """A captioning model in some runtime."""

    def begin(self, encoded: Encoded) -> State:
        """The state before the first word, one row per picture."""

    def step(self, tokens: NDArray[np.int64], state: State) -> Step:
        """Read one token per row (N,), START at first; predict the next."""

    def score(self, encoded: Encoded, captions: Tokens) -> list[list[Scored]]:
        """Read captions (teacher forcing), all steps at once; aligned with ``captions``."""

    def gradients(self, encoded: Encoded, captions: Tokens) -> list[list[Scored]]:
        """As `score`, with the gradient-based maps of `captioner.explain.gradient`, not normalised.

        Raises:
            OptionError: the runtime computes no gradients.
        """


@runtime_checkable
class FitsPictures(Protocol):
    """A backend whose input is no square that shows the whole picture.

    Attributes:
        fitting: how pictures are brought to its input.
    """

    @property
    def fitting(self) -> Fitting: ...


@runtime_checkable
class HasFineMaps(Protocol):
    """A backend whose maps may have more cells than its grid; ``grid_shape`` is that of the maps.

    Attributes:
        map_scale: how many cells of a map lie along a side of one of the grid's; 1 where they are the same.
    """

    @property
    def map_scale(self) -> int: ...


@runtime_checkable
class HasReranker(Protocol):
    """A backend whose model may have a reranker; see `captioner.model.reranker`.

    Attributes:
        reranks: whether it does.
    """

    @property
    def reranks(self) -> bool: ...

    def consensus(self, encoded: Encoded, captions: Tokens) -> list[NDArray[np.float32]]:
        """The consensus scores (k,) of captions of each picture, given in ids; aligned with ``captions``."""


@runtime_checkable
class EncodesBeside(Protocol):
    """A runtime that may gain from encoding the next batch in another thread while decoding steps through one.

    Attributes:
        encodes_beside: whether it does.
    """

    @property
    def encodes_beside(self) -> bool: ...


@runtime_checkable
class HasHeads(Protocol):
    """A backend that shows what each of its attention heads looked at, and computes gradients of single words.

    Attributes:
        map_heads: (layer, head) of those that make the maps.
    """

    @property
    def map_heads(self) -> Sequence[tuple[int, int]]: ...

    def heads(self, encoded: Encoded, caption: Sequence[int]) -> NDArray[np.float32]:
        """What every head attended to for each word of a caption of one picture, and for its end.

        Returns:
            (layers, heads, n + 1, h, w) for a caption of n words.
        """

    def word_gradients(
        self, encoded: Encoded, caption: Sequence[int], place: int, words: Sequence[int]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Attention times gradient, signed, for some words at one place of a caption of one picture.

        Args:
            encoded: the picture.
            caption: in ids; what follows the place is not read.
            place: from 0.
            words: ids that could stand there.

        Returns:
            Log-probabilities (len(words),) and maps (len(words), h, w), not normalised.
        """


@dataclass(frozen=True)
class AnswerScores:
    """What an answering backend returns for a question.

    Attributes:
        log_p: (A,), log-probabilities of the answers.
        map: (h, w), where the model looked; sums to 1.
        words: (T,), the weight of each word of the question; sums to 1.
    """

    log_p: NDArray[np.float32]
    map: NDArray[np.float32]
    words: NDArray[np.float32]


class AnsweringBackend(RunningModel, Protocol):
    """An answering model in some runtime.

    Attributes:
        answers: that it chooses from.
        threads: how many threads may encode side by side, a picture each.
    """

    @property
    def answers(self) -> Sequence[str]: ...
    @property
    def threads(self) -> int: ...

    def answer(self, encoded: Encoded, questions: Tokens) -> list[list[AnswerScores]]:
        """Answer the questions of each picture, given in ids, of one word at least; aligned with ``questions``."""


class BackendFactory(Protocol):
    """What `BACKENDS` holds: opens a model file, to compute on a device, with so many threads on a CPU."""

    def __call__(self, path: str, *, device: str = "auto", threads: int | None = None) -> Backend: ...


BACKENDS: Registry[BackendFactory] = Registry("backend")
"""Runtimes by name; `captioner.pipeline.load` imports the module ``captioner.backends.NAME`` that registers one."""


def padded_words(captions: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """Captions in ids as one array (k, T), padded; T is at least 1."""
    padded = np.full((len(captions), max(1, *map(len, captions)) if captions else 1), PAD, dtype=np.int64)
    for row, caption in zip(padded, captions, strict=True):
        row[: len(caption)] = caption
    return padded


def consensus_scores(
    captions: Tokens, pooled: Any, compute: Callable[[NDArray[np.int64], Any], NDArray[np.float32]]
) -> list[NDArray[np.float32]]:
    """The consensus scores (k,) of captions of each picture, some pictures at a time.

    Args:
        captions: of each picture, in ids.
        pooled: (B, C), what the reranker reads of the pictures.
        compute: returns the scores (b, K) of captions (b, K, T), padded, of b pictures, and of rows of ``pooled``.
    """
    count, longest = (max(1, *map(len, some), 0) for some in (captions, [one for some in captions for one in some]))
    step, found = max(1, _WORDS // (count * longest)), []
    for a in range(0, len(captions), step):
        some = captions[a : a + step]
        tokens = padded_words([caption for own in some for caption in (*own, *[()] * (count - len(own)))])
        scores = compute(tokens.reshape(len(some), count, -1), pooled[a : a + step])
        found += [one[: len(own)] for one, own in zip(scores, some, strict=True)]
    return found


def no_gradients(backend: Backend) -> OptionError:
    """The error of a runtime that computes no gradients."""
    return OptionError(f"gradient maps need torch, and this model runs on {backend.name}", remedy="use --backend torch")
