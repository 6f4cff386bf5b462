"""Batches of pictures and captions: the same ones, in the same order, however often a run is interrupted."""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from captioner.data.records import Box, Record
from captioner.image import Geometry, fit, open_image
from captioner.metrics.ptb import tokenize
from captioner.model.decoder import PAD
from captioner.model.encoder import GridEncoder
from captioner.model.grid import Grid
from captioner.model.preprocess import normalise
from captioner.vocabulary import Vocabulary

_SIDED = re.compile(r"\b(left|right)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Batch:
    """Some pictures, as places in the records, and their captions.

    Attributes:
        pictures: (B,) places in the list of records.
        flips: (B,) which of them are mirrored.
        tokens: (B * k, T), <start> words <end>, padded; k captions of each picture in a row.
        boxes: (B * k), where words of each caption are; see `captioner.data.records.Record.boxes`.
    """

    pictures: list[int]
    flips: list[bool]
    tokens: Tensor
    boxes: list[Mapping[int, tuple[Box, ...]]]

    def map_targets(self, geometries: Sequence[Geometry]) -> Tensor:
        """The share of each cell that a box of each word covers, (B * k, T - 1, h, w); 0 without a box.

        Of several boxes of a word, the one that covers most of the cell.

        Args:
            geometries: of the B pictures.
        """
        copies, steps = len(self.tokens) // len(self.pictures), self.tokens.shape[1] - 1
        targets = torch.zeros(len(self.tokens), steps, *geometries[0].grid)
        for row, boxes in enumerate(self.boxes):
            geometry, flipped = geometries[row // copies], self.flips[row // copies]
            for word, several in boxes.items():
                if word < steps:
                    covered = [geometry.coverage(_mirrored(box) if flipped else box) for box in several]
                    targets[row, word] = torch.from_numpy(np.maximum.reduce(covered))
        return targets


class CaptionBatches:
    """Deals the captions of a split into batches; seed and epoch alone decide what an epoch looks like."""

    def __init__(
        self,
        records: Sequence[Record],
        vocabulary: Vocabulary,
        *,
        batch_pictures: int,
        captions_per_picture: int,
        longest: int,
        flips: bool,
        seed: int,
    ) -> None:
        self.encoded = [
            [vocabulary.encode(tokenize(caption)[:longest]) for caption in record.captions] for record in records
        ]
        self.may_flip = [flips and not any(_SIDED.search(caption) for caption in record.captions) for record in records]
        self.boxes = [record.boxes for record in records]
        self.batch_pictures = batch_pictures
        self.captions_per_picture = captions_per_picture
        self.seed = seed

    def __len__(self) -> int:
        """Batches of an epoch."""
        return -(-len(self.encoded) // self.batch_pictures)

    def epoch(self, number: int, *, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from the ``start``-th on."""
        random = np.random.default_rng((self.seed, number))
        order = random.permutation(len(self.encoded))
        flips = random.random(len(self.encoded)) < 0.5
        for step in range(start, len(self)):
            pictures = order[step * self.batch_pictures : (step + 1) * self.batch_pictures].tolist()
            draw = np.random.default_rng((self.seed, number, step))
            chosen = [(picture, i) for picture in pictures for i in self._choose(picture, draw)]
            yield Batch(
                pictures=pictures,
                flips=[bool(flips[i] and self.may_flip[i]) for i in pictures],
                tokens=pad([self.encoded[picture][i] for picture, i in chosen]),
                boxes=[self.boxes[picture][i] if self.boxes[picture] else {} for picture, i in chosen],
            )

    def _choose(self, picture: int, random: np.random.Generator) -> list[int]:
        """k captions of a picture: all different while there are enough."""
        own, k = len(self.encoded[picture]), self.captions_per_picture
        order: list[int] = []
        while len(order) < k:
            order.extend(random.permutation(own).tolist())
        return order[:k]


def _mirrored(box: Box) -> Box:
    left, top, right, bottom = box
    return 1 - right, top, 1 - left, bottom


def pad(captions: Sequence[Sequence[int]]) -> Tensor:
    """Rows of ids of one length, (N, T)."""
    width = max(len(caption) for caption in captions)
    tokens = torch.full((len(captions), width), PAD)
    for row, caption in zip(tokens, captions, strict=True):
        row[: len(caption)] = torch.tensor(caption)
    return tokens


class Pictures(Dataset[tuple[Tensor, Tensor]]):
    """Pictures as the encoder takes them, by (place, mirrored): uint8 (side, side, 3) and mask (h, w)."""

    def __init__(self, images: Sequence[Path], encoder: GridEncoder) -> None:
        self.images = images
        self.side, self.pad = encoder.config.side or 0, encoder.config.pad
        self.grid = encoder.grid_shape

    def __len__(self) -> int:
        return len(self.images)

    def geometry(self, size: tuple[int, int]) -> Geometry:
        """The geometry of a picture of (width, height)."""
        return Geometry(size=size, side=self.side, grid=self.grid, pad=self.pad)

    def __getitem__(self, key: tuple[int, bool]) -> tuple[Tensor, Tensor]:
        place, flip = key
        image = open_image(self.images[place])
        if flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        geometry = self.geometry(image.size)
        return torch.from_numpy(fit(image, geometry).copy()), torch.from_numpy(geometry.mask)


def encode_batches(
    encoder: GridEncoder,
    pictures: Pictures,
    keys: Sequence[Sequence[tuple[int, bool]]],
    *,
    device: torch.device,
    workers: int = 0,
) -> Iterator[Grid]:
    """The encoder's grids of batches of (place, mirrored), in order."""
    loader = DataLoader(
        pictures,
        batch_sampler=[list(batch) for batch in keys],
        num_workers=workers,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # else it would draw from the random state that a resumed run restores
    )
    for pixels, mask in loader:
        x = normalise(pixels.to(device, non_blocking=True), encoder.config)
        yield encoder(x, mask.to(device) if pictures.pad else None)


class StoredGrids:
    """The grids of a frozen encoder, kept on disk in 16 bits, mirror images beside them.

    The file is named by what its content depends on, so that an interrupted run finds it again and another
    encoder or other pictures never do.
    """

    def __init__(self, encoder: GridEncoder, pictures: Pictures, folder: Path, *, mirrored: bool) -> None:
        self.encoder, self.pictures = encoder, pictures
        self.views = 2 if mirrored else 1
        cells = encoder.grid_shape[0] * encoder.grid_shape[1]
        self.shape = (len(pictures), self.views, cells, encoder.channels)
        self.file = folder / f"grids-{self._fingerprint()}.npy"
        self.masks = folder / f"{self.file.stem}-masks.npy"

    def _fingerprint(self) -> str:
        digest = hashlib.sha256(repr((self.encoder.config, self.shape)).encode())
        for image in self.pictures.images:
            digest.update(str(image).encode())
        for tensor in self.encoder.state_dict().values():
            digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    @torch.inference_mode()
    def fill(self, *, device: torch.device, workers: int, batch: int, progress: Callable[[int, int], None]) -> None:
        """Encode every picture, unless the file is there. ``progress`` is told pictures done and all."""
        if self.file.exists() and self.masks.exists():
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        partial = self.file.with_suffix(".partial")
        store = np.lib.format.open_memmap(partial, "w+", dtype=np.float16, shape=self.shape)
        masks = np.ones((len(self.pictures), self.views, self.shape[2]), dtype=np.bool_)
        everything = [(place, bool(view)) for place in range(len(self.pictures)) for view in range(self.views)]
        keys = [everything[i : i + batch] for i in range(0, len(everything), batch)]
        grids = encode_batches(self.encoder, self.pictures, keys, device=device, workers=workers)
        flat, flat_masks = store.reshape(-1, *self.shape[2:]), masks.reshape(-1, self.shape[2])
        done = 0
        for grid in grids:
            flat[done : done + len(grid)] = grid.features.half().cpu().numpy()
            if grid.mask is not None:
                flat_masks[done : done + len(grid)] = grid.mask.cpu().numpy()
            done += len(grid)
            progress(done, len(everything))
        store.flush()
        np.save(self.masks, masks)
        partial.replace(self.file)

    def read(self, keys: Sequence[Sequence[tuple[int, bool]]], *, device: torch.device) -> Iterator[Grid]:
        """The grids of batches of (place, mirrored), in order."""
        store, masks = np.load(self.file, mmap_mode="r"), np.load(self.masks)
        for batch in keys:
            places, views = [place for place, _ in batch], [int(flip) for _, flip in batch]
            features = torch.from_numpy(store[places, views]).to(device).float()
            mask = torch.from_numpy(masks[places, views]).to(device) if self.pictures.pad else None
            yield Grid(features, self.encoder.grid_shape, mask)
