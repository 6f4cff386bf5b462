"""From pictures on disk to pixels and to the encoder's grids."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from captioner.image import Geometry, Picture, fit, open_image
from captioner.model.encoder import GridEncoder
from captioner.model.grid import Grid
from captioner.model.preprocess import normalise
from captioner.training.views import View

Key = tuple[int, View]
"""A picture, as an index into a list, and its augmentation."""

Images = "Pixels | Grid | None"


class Pictures(Dataset[tuple[Tensor, Tensor]]):
    """Pictures as the encoder takes them, by `Key`: uint8 (side, side, 3) and mask (h, w)."""

    def __init__(self, images: Sequence[Picture], encoder: GridEncoder) -> None:
        self.images = images
        self.side, self.pad = encoder.config.side or 0, encoder.config.pad
        self.grid = encoder.grid_shape

    def __len__(self) -> int:
        return len(self.images)

    def geometry(self, size: tuple[int, int]) -> Geometry:
        """The geometry of a picture of (width, height)."""
        return Geometry(size=size, side=self.side, grid=self.grid, pad=self.pad)

    def __getitem__(self, key: Key) -> tuple[Tensor, Tensor]:
        place, view = key
        image = view.of(open_image(self.images[place]))
        geometry = self.geometry(image.size)
        return torch.from_numpy(fit(image, geometry).copy()), torch.from_numpy(geometry.mask)


@dataclass(frozen=True)
class Pixels:
    """Pictures ready for the encoder: (B, 3, side, side), and the mask (B, h, w) where pictures are padded."""

    values: Tensor
    mask: Tensor | None


def load_batches(
    encoder: GridEncoder,
    pictures: Pictures,
    keys: Sequence[Sequence[Key]],
    *,
    device: torch.device,
    workers: int = 0,
) -> Iterator[Pixels]:
    """The pixels of batches of keys, in order."""
    loader = DataLoader(
        pictures,
        batch_sampler=[list(batch) for batch in keys],
        num_workers=workers,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # else it would draw from the random state that a resumed run restores
    )
    for pixels, mask in loader:
        x = normalise(pixels.to(device, non_blocking=True), encoder.config)
        yield Pixels(x, mask.to(device) if pictures.pad else None)


def encode_batches(
    encoder: GridEncoder,
    pictures: Pictures,
    keys: Sequence[Sequence[Key]],
    *,
    device: torch.device,
    workers: int = 0,
) -> Iterator[Grid]:
    """The encoder's grids of batches of keys, in order."""
    for pixels in load_batches(encoder, pictures, keys, device=device, workers=workers):
        yield encoder(pixels.values, pixels.mask)
