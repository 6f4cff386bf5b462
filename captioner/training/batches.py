"""Batches of pictures and captions. Seed, epoch and step alone decide their content, so that a run resumes exactly."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from captioner.data.records import Boxes, Record
from captioner.image import Geometry
from captioner.tokenizer.ptb import tokenize
from captioner.tokenizer.vocabulary import END, PAD, START, UNKNOWN, Vocabulary
from captioner.training.rehearsal import mixed_order, rest_of_batch
from captioner.training.views import View, draw_view, may_flip


@dataclass(frozen=True)
class Batch:
    """Some pictures, as indices of the records, and their captions.

    Attributes:
        pictures: (B,) indices into the list of records.
        views: (B,) how each picture is augmented.
        tokens: (B * k, T), <start> words <end>, padded; the k captions of a picture are consecutive rows.
        boxes: (B * k), the boxes of each caption's words; see `captioner.data.records.Record.boxes`.
    """

    pictures: list[int]
    views: list[View]
    tokens: Tensor
    boxes: list[Mapping[int, Boxes]]

    @property
    def copies(self) -> int:
        """k, the captions of each picture."""
        return len(self.tokens) // len(self.pictures)

    @property
    def known_targets(self) -> int:
        """Tokens that are predicted: words and end tokens, without ``<unk>``."""
        targets = self.tokens[:, 1:]
        return int(((targets != PAD) & (targets != UNKNOWN)).sum())

    @property
    def targets(self) -> int:
        """Words and end tokens, with ``<unk>``."""
        return int((self.tokens[:, 1:] != PAD).sum())

    @property
    def steps(self) -> int:
        """The maps of a row: one for each token but the first."""
        return self.tokens.shape[1] - 1

    @property
    def boxed_words(self) -> int:
        """Words that have a box."""
        return sum(word < self.steps for boxes in self.boxes for word in boxes)

    def parts(self, count: int) -> list["Batch"]:
        """The batch split over ``count`` processes or accumulation steps, as evenly as possible.

        Raises:
            ValueError: there are fewer pictures than parts.
        """
        if count > len(self.pictures):
            raise ValueError(f"{len(self.pictures)} pictures cannot be split into {count} parts")
        edges = [len(self.pictures) * i // count for i in range(count + 1)]
        k = self.copies
        return [
            replace(
                self,
                pictures=self.pictures[a:b],
                views=self.views[a:b],
                tokens=self.tokens[a * k : b * k],
                boxes=self.boxes[a * k : b * k],
            )
            for a, b in pairwise(edges)
        ]

    def map_targets(self, geometries: Sequence[Geometry]) -> Tensor:
        """The share of each cell that the boxes of each word cover, (B * k, T - 1, h, w); 0 without a box.

        Args:
            geometries: of the B pictures in their views.
        """
        targets = torch.zeros(len(self.tokens), self.steps, *geometries[0].grid)
        known: dict[tuple[int, Boxes], Tensor] = {}  # words of a phrase, and a picture's captions, share boxes
        for row, words in enumerate(self.boxes):
            picture = row // self.copies
            view, geometry = self.views[picture], geometries[picture]
            for word, boxes in words.items():
                if word < self.steps:
                    if (picture, boxes) not in known:
                        covered = np.max([geometry.coverage(view.of_box(box)) for box in boxes], axis=0)
                        known[picture, boxes] = torch.from_numpy(covered)
                    targets[row, word] = known[picture, boxes]
        return targets


class CaptionBatches:
    """Batches of the pictures of a split with some of their captions.

    Every batch is full: the last of an epoch is filled up with the epoch's first pictures. With rehearsal, the last
    ``rest`` records make up the share ``rehearsal`` of every batch, and an epoch goes once through the others.
    """

    def __init__(
        self,
        records: Sequence[Record],
        vocabulary: Vocabulary,
        *,
        batch_pictures: int,
        captions_per_picture: int,
        max_length: int,
        horizontal_flip: bool,
        seed: int,
        crop: float = 0.0,
        colour_jitter: float = 0.0,
        rest: int = 0,
        rehearsal: float = 0.0,
    ) -> None:
        self.encoded = [
            [vocabulary.encode(tokenize(caption)[:max_length]) for caption in record.captions] for record in records
        ]
        self.may_flip = [horizontal_flip and may_flip(record.captions) for record in records]
        self.boxes = [
            # A file may name places that its caption does not have; the start and the end are no words of it.
            [
                {word: boxes for word, boxes in words.items() if word < len(ids) - 2}
                for words, ids in zip(record.boxes, encoded, strict=False)
            ]
            for record, encoded in zip(records, self.encoded, strict=True)
        ]
        self.batch_pictures = min(batch_pictures, len(records))
        self.captions_per_picture = captions_per_picture
        self.seed = seed
        self.crop, self.colour_jitter = crop, colour_jitter
        self.rest, self.rehearsal = rest, rehearsal

    @property
    def size(self) -> int:
        """Pictures of a batch."""
        return self.batch_pictures

    def __len__(self) -> int:
        """Batches of an epoch."""
        if self.rest:
            return -(-(len(self.encoded) - self.rest) // (self.batch_pictures - self._rest_of_batch))
        return -(-len(self.encoded) // self.batch_pictures)

    def epoch(self, number: int, *, start: int = 0, steady: bool = False) -> Iterator[Batch]:
        """The batches of an epoch from index ``start`` on; ``steady`` for views that are mirrored at most."""
        order = self._order(np.random.default_rng((self.seed, number)))
        crop, colour_jitter = (0.0, 0.0) if steady else (self.crop, self.colour_jitter)
        for step in range(start, len(self)):
            places = np.arange(step * self.batch_pictures, (step + 1) * self.batch_pictures) % len(order)
            pictures = order[places].tolist()
            draw = np.random.default_rng((self.seed, number, step))
            views = [draw_view(draw, flip=self.may_flip[i], crop=crop, colour_jitter=colour_jitter) for i in pictures]
            chosen = [(picture, i) for picture in pictures for i in self._choose(picture, draw)]
            yield Batch(
                pictures=pictures,
                views=views,
                tokens=pad([self.encoded[picture][i] for picture, i in chosen]),
                boxes=[self.boxes[picture][i] if self.boxes[picture] else {} for picture, i in chosen],
            )

    @property
    def _rest_of_batch(self) -> int:
        return rest_of_batch(self.batch_pictures, self.rehearsal)

    def _order(self, random: np.random.Generator) -> NDArray[np.int64]:
        if not self.rest:
            return random.permutation(len(self.encoded))
        own = len(self.encoded) - self.rest
        return np.array(mixed_order(random, own=own, rest=self.rest, batch=self.batch_pictures, share=self.rehearsal))

    def _choose(self, picture: int, random: np.random.Generator) -> list[int]:
        """k captions of a picture: all different while there are enough."""
        own, k = len(self.encoded[picture]), self.captions_per_picture
        order: list[int] = []
        while len(order) < k:
            order.extend(random.permutation(own).tolist())
        return order[:k]


class TextBatches:
    """Batches of captions without pictures; the rows of a batch have indices for pictures and plain views."""

    def __init__(
        self, captions: Sequence[str], vocabulary: Vocabulary, *, batch_captions: int, max_length: int, seed: int
    ) -> None:
        encoded = (vocabulary.encode(tokenize(caption)[:max_length]) for caption in captions)
        self.encoded = [np.array(ids, dtype=np.int32) for ids in encoded]
        self.batch_captions = min(batch_captions, len(self.encoded))
        self.seed = seed

    @property
    def size(self) -> int:
        """Captions of a batch."""
        return self.batch_captions

    def __len__(self) -> int:
        """Batches of an epoch."""
        return -(-len(self.encoded) // self.batch_captions)

    def epoch(self, number: int, *, start: int = 0, steady: bool = False) -> Iterator[Batch]:
        """The batches of an epoch from index ``start`` on; ``steady`` changes nothing."""
        order = np.random.default_rng((self.seed, number)).permutation(len(self.encoded))
        for step in range(start, len(self)):
            places = np.arange(step * self.batch_captions, (step + 1) * self.batch_captions) % len(order)
            tokens = pad([self.encoded[i].tolist() for i in order[places]])
            no_boxes: list[Mapping[int, Boxes]] = [{}] * len(tokens)
            yield Batch(list(range(len(tokens))), [View()] * len(tokens), tokens, no_boxes)


def pad(captions: Sequence[Sequence[int]]) -> Tensor:
    """Rows of ids of one length, (N, T)."""
    width = max(len(caption) for caption in captions)
    tokens = torch.full((len(captions), width), PAD)
    for row, caption in zip(tokens, captions, strict=True):
        row[: len(caption)] = torch.tensor(caption)
    return tokens


def word_dropout(tokens: Tensor, share: float) -> Tensor:
    """The tokens with a random share of their words replaced by ``<unk>`` (Bowman et al. 2016, section 3.1)."""
    words = (tokens != PAD) & (tokens != START) & (tokens != END)
    return tokens.masked_fill(words & (torch.rand(tokens.shape, device=tokens.device) < share), UNKNOWN)
