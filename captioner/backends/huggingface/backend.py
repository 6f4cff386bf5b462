"""Models of transformers as a backend: our decoding, word by word, over their own forward pass and cache."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from captioner.backends.base import Encoded, Pixels, Scored, State, Step, Tokens
from captioner.backends.huggingface.families import Family, ForeignState, copied
from captioner.backends.huggingface.inputs import normalise
from captioner.errors import OptionError
from captioner.geometry import Geometry
from captioner.tokenizer.subwords import Subwords
from captioner.tokenizer.vocabulary import END, PAD, START, UNKNOWN

_ROWS = 16  # captions that are read together: their logits over a large vocabulary are large


class HuggingFaceBackend:
    """A model of transformers as a `captioner.backends.base.Backend`.

    Its maps are the mean of the attention of the chosen heads. Words are pieces of its tokeniser; what `score` reads
    may also be words of several pieces (see `captioner.tokenizer.subwords`), whose log-probability is the sum of their
    pieces' and whose map is the mean.

    Args:
        family: the model.
        vocabulary: its pieces.
        ends: ids of the model that end a caption.
        about: see `captioner.metadata.Header`.
        digest: of its files.
        map_heads: (layer, head) of those that make the maps, head None for all of a layer; empty for all of all layers.

    Raises:
        OptionError: there is no such layer or head.
    """

    name = "huggingface"
    pad = False

    def __init__(
        self,
        family: Family,
        *,
        vocabulary: Subwords,
        ends: Sequence[int],
        about: dict[str, Any],
        digest: str = "",
        map_heads: Sequence[tuple[int, int | None]] = (),
    ) -> None:
        self.family, self.model = family, family.model
        self.vocabulary, self.about, self.digest = vocabulary, about, digest
        self.fitting = family.parts.fitting
        self.side, self.grid_shape = self.fitting.width, family.grid
        self.max_length = family.longest
        parameter = next(self.model.parameters())
        self._device, self._dtype = parameter.device, parameter.dtype
        self.device = str(self._device)
        self._ids = torch.tensor([max(0, i) for i in vocabulary.foreign], device=self._device)  # (V,)
        self._ends = torch.tensor(list(ends), device=self._device)
        self.map_heads = self._chosen(map_heads)

    def encode(self, pixels: Pixels, geometries: Sequence[Geometry]) -> ForeignState:
        """See `captioner.backends.base.Backend.encode`."""
        with torch.no_grad():  # not in inference mode, whose tensors gradients cannot pass
            state = self.family.begin(normalise(pixels, self.family.parts.image_processor, self._device, self._dtype))
        mask = torch.from_numpy(np.stack([geometry.mask.ravel() for geometry in geometries]))  # (B, h * w)
        state.rows["mask"] = mask.to(self._device)
        return state

    def begin(self, encoded: Encoded) -> ForeignState:
        """See `captioner.backends.base.Backend.begin`."""
        return _state(encoded)

    def step(self, tokens: NDArray[np.int64], state: State) -> Step:
        """See `captioner.backends.base.Backend.step`."""
        before = _state(state)
        with torch.no_grad():
            logits, weights, after = self._read(torch.from_numpy(tokens)[:, None].to(self._device), before)
            maps, off_grid = self._maps(weights, after)
            log_p = self._log_p(logits, unknown=False)[:, 0]
        return Step(
            log_p=self._out(log_p),
            maps=self._out(maps[:, 0]),
            off_grid=self._out(off_grid[:, 0]),
            state=after,
        )

    def score(self, encoded: Encoded, captions: Tokens) -> list[list[Scored]]:
        """See `captioner.backends.base.Backend.score`."""
        with torch.no_grad():
            return self._scored(_state(encoded), captions, self._read_at_once)

    def gradients(self, encoded: Encoded, captions: Tokens) -> list[list[Scored]]:
        """See `captioner.backends.base.Backend.gradients`."""
        return self._scored(_state(encoded), captions, self._gradients_at_once)

    def heads(self, encoded: Encoded, caption: Sequence[int]) -> NDArray[np.float32]:
        """See `captioner.backends.base.HasHeads.heads`."""
        pieces, spans = self._pieces(caption)
        with torch.no_grad():
            _, weights, after = self._read(self._tokens([pieces]), _state(encoded))
            layers = [self._valid_cells(one, after)[0] for one in weights]  # each (H, n + 1, h * w)
        if len({len(one) for one in layers}) > 1:
            raise OptionError(f"the layers of '{self.family.parts.name}' have different numbers of heads")
        each = torch.stack(layers).float().cpu().numpy()  # (layers, H, n + 1, h * w)
        of_words = [each[:, :, span].mean(2) for span in spans]
        return np.asarray(np.stack(of_words, 2), dtype=np.float32).reshape(*each.shape[:2], -1, *self.grid_shape)

    def word_gradients(
        self, encoded: Encoded, caption: Sequence[int], place: int, words: Sequence[int]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """See `captioner.backends.base.HasHeads.word_gradients`."""
        state = _state(encoded)
        found = []
        for word in words:
            pieces, spans = self._pieces([*caption[:place], word])
            log_p, maps, _ = self._gradients(self._rows(state, [pieces]), [pieces], signed=True)
            span = spans[place]
            found.append((log_p[0, span].sum(), maps[0, span].mean(0)))
        return tuple(np.asarray(torch.stack(one).float().cpu().numpy(), dtype=np.float32) for one in zip(*found))  # type: ignore[return-value]  # noqa: B905

    def _read(self, tokens: Tensor, state: ForeignState) -> tuple[Tensor, Sequence[Tensor], ForeignState]:
        """Logits, the weights of each layer, and the state after pieces (N, T), in our ids."""
        after = ForeignState(copied(state.cache), state.rows, state.length + tokens.shape[1])
        reading = ForeignState(after.cache, state.rows, state.length)
        logits, weights = self.family.read(self._ids[tokens], reading)
        return logits, weights, after

    def _log_p(self, logits: Tensor, *, unknown: bool) -> Tensor:
        """(N, T, V) over our vocabulary; of the special words only the end, and <unk> where it is read."""
        ours = logits.float()[..., self._ids]
        ours[..., END] = logits.float()[..., self._ends].logsumexp(-1)
        hidden = [PAD, START] if unknown and self.vocabulary.foreign[UNKNOWN] >= 0 else [PAD, START, UNKNOWN]
        ours[..., hidden] = float("-inf")
        return ours.log_softmax(-1)

    def _valid_cells(self, weights: Tensor, state: ForeignState) -> Tensor:
        """The weights of cells (N, H, T, h * w) that hold picture, of those of a layer (N, H, T, K)."""
        heads = [self.family.cells(one, state) for one in weights.unbind(1)]
        return torch.stack(heads, 1) * state.rows["mask"][:, None, None]

    def _maps(self, weights: Sequence[Tensor], state: ForeignState) -> tuple[Tensor, Tensor]:
        """Maps (N, T, h, w) and weights off the grid (N, T)."""
        mean = torch.stack([weights[layer][:, head] for layer, head in self.map_heads]).float().mean(0)  # (N, T, K)
        cells = self.family.cells(mean, state) * state.rows["mask"][:, None]  # (N, T, h * w)
        return cells.unflatten(-1, self.grid_shape), (1 - cells.sum(-1)).clamp(min=0)

    def _chosen(self, wanted: Sequence[tuple[int, int | None]]) -> list[tuple[int, int]]:
        """Heads by layer and place, after a look at how many there are."""
        fitting = self.fitting
        blank = np.zeros((1, fitting.height, fitting.width, 3), dtype=np.uint8)
        geometry = fitting.geometry((fitting.width, fitting.height), self.grid_shape)
        with torch.no_grad():
            _, weights, _ = self._read(torch.tensor([[START]], device=self._device), self.encode(blank, [geometry]))
        there = [(layer, head) for layer, one in enumerate(weights) for head in range(one.shape[1])]
        found: list[tuple[int, int]] = []
        for asked, head in wanted or [(layer, None) for layer in range(len(weights))]:
            layer = asked + len(weights) if asked < 0 else asked
            some = [one for one in there if one[0] == layer and head in (None, one[1])]
            if not some:
                which = f"layer {asked}" if head is None else f"head {asked}:{head}"
                raise OptionError(
                    f"'{self.family.parts.name}' has no {which}: it has {len(weights)} layers of "
                    f"{weights[0].shape[1]} heads, counted from 0",
                    remedy="name one of these (--map-heads)",
                )
            found += some
        return list(dict.fromkeys(found))

    def _scored(self, state: ForeignState, captions: Tokens, compute: Any) -> list[list[Scored]]:
        """Captions of each picture, some at once."""
        rows = [(image, *self._pieces(caption)) for image, some in enumerate(captions) for caption in some]
        found: list[list[Scored]] = [[] for _ in captions]
        for first in range(0, len(rows), _ROWS):
            chunk = rows[first : first + _ROWS]
            own = state.select(np.array([image for image, _, _ in chunk]))
            arrays = [
                np.asarray(tensor.float().cpu().numpy(), dtype=np.float32)
                for tensor in compute(own, [pieces for _, pieces, _ in chunk])
            ]
            for i, (image, _, spans) in enumerate(chunk):
                log_p, maps, off_grid = (array[i] for array in arrays)
                found[image].append(
                    Scored(
                        np.array([log_p[span].sum() for span in spans], dtype=np.float32),
                        np.array([maps[span].mean(0) for span in spans], dtype=np.float32),
                        np.array([off_grid[span].mean() for span in spans], dtype=np.float32),
                    )
                )
        return found

    def _pieces(self, caption: Sequence[int]) -> tuple[list[int], list[slice]]:
        """The pieces of words, and of each word, and of the end, where they are."""
        pieces: list[int] = []
        spans = []
        for word in caption:
            own = self.vocabulary.pieces(word)
            spans.append(slice(len(pieces), len(pieces) + len(own)))
            pieces += own
        if len(pieces) > self.max_length:
            raise OptionError(
                f"a caption of {len(pieces)} pieces is longer than the {self.max_length} that the model "
                f"'{self.family.parts.name}' can read",
                remedy="shorten it",
            )
        return pieces, [*spans, slice(len(pieces), len(pieces) + 1)]

    def _tokens(self, captions: Sequence[Sequence[int]]) -> Tensor:
        """What the model reads, (N, T): the start and pieces, padded."""
        steps = max(map(len, captions)) + 1
        rows = [[START, *pieces, *[PAD] * (steps - 1 - len(pieces))] for pieces in captions]
        return torch.tensor(rows, device=self._device)

    def _targets(self, captions: Sequence[Sequence[int]]) -> Tensor:
        """What it is asked for, (N, T): pieces and the end, padded with it."""
        steps = max(map(len, captions)) + 1
        rows = [[*pieces, *[END] * (steps - len(pieces))] for pieces in captions]
        return torch.tensor(rows, device=self._device)

    def _rows(self, state: ForeignState, captions: Sequence[Sequence[int]]) -> ForeignState:
        """The state of one picture for so many captions."""
        return state.select(np.zeros(len(captions), dtype=np.int64))

    def _asked(self, logits: Tensor, captions: Sequence[Sequence[int]]) -> Tensor:
        """Log-probabilities (N, T) of the pieces and of the end."""
        targets = self._targets(captions)
        asked = self._log_p(logits, unknown=True).gather(2, targets[:, :, None])[:, :, 0]
        # What the tokeniser cannot even name has no probability; 0 stands for it, as it is marked unknown.
        return torch.where(asked.isneginf() & (targets == UNKNOWN), torch.zeros_like(asked), asked)

    def _read_at_once(self, state: ForeignState, captions: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor, Tensor]:
        logits, weights, after = self._read(self._tokens(captions), state)
        return self._asked(logits, captions), *self._maps(weights, after)

    def _gradients_at_once(
        self, state: ForeignState, captions: Sequence[Sequence[int]]
    ) -> tuple[Tensor, Tensor, Tensor]:
        return self._gradients(state, captions, signed=False)

    def _gradients(
        self, state: ForeignState, captions: Sequence[Sequence[int]], *, signed: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Attention times the gradient of each piece's log-probability, over all heads; see
        `captioner.explain.gradient.gradient_maps`."""
        with torch.enable_grad():
            logits, weights, after = self._read(self._tokens(captions), state)
            log_p = self._asked(logits, captions)
            steps = []
            for step in range(log_p.shape[1]):
                gradients = torch.autograd.grad(log_p[:, step].sum(), weights, retain_graph=True)
                products = [
                    (one[:, :, step] * gradient[:, :, step]).detach()
                    for one, gradient in zip(weights, gradients, strict=True)
                ]  # each (N, H, K)
                heads = [one if signed else one.clamp(min=0) for one in products]
                total = torch.stack([one.sum(1) for one in heads]).sum(0)  # (N, K)
                steps.append(self.family.cells(total[:, None], after)[:, 0] * after.rows["mask"])
        maps = torch.stack(steps, 1).unflatten(-1, self.grid_shape)  # (N, T, h, w)
        return log_p.detach(), maps, torch.zeros_like(log_p)

    def _out(self, tensor: Tensor) -> Any:
        """numpy's on a CPU; on an accelerator the tensor, which stays there."""
        tensor = tensor.float()
        return tensor.numpy() if self._device.type == "cpu" else tensor


def _state(encoded: Any) -> ForeignState:
    assert isinstance(encoded, ForeignState)
    return encoded


def special_ids(*ids: Any) -> list[int]:
    """The ids among single ids, lists of them and None, each once."""
    found: list[int] = []
    for one in ids:
        found += [int(i) for i in (one if isinstance(one, (list, tuple)) else [one]) if i is not None]
    return list(dict.fromkeys(found))
