"""From pictures on disk to pixels and to the encoder's grids."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from captioner.errors import ImageError
from captioner.image import Geometry, Picture, fit, open_image
from captioner.model.encoder import GridEncoder
from captioner.model.grid import Grid
from captioner.model.preprocess import normalise
from captioner.training.views import View

Key = tuple[int, View]
"""A picture, as an index into a list, and its augmentation."""


@dataclass(frozen=True)
class Pixels:
    """Pictures ready for the encoder: (B, 3, side, side), and the mask (B, h, w) where pictures are padded."""

    values: Tensor
    mask: Tensor | None


Images = Pixels | Grid | None
"""The pictures of a batch: pixels, grids of the frozen encoder, or none for captions without pictures."""


@dataclass(frozen=True)
class _Unreadable:
    """A picture that does not open. It is returned, since an error's text is wrapped on its way out of a worker."""

    what: str


class ImageDataset(Dataset[tuple[Tensor, Tensor] | _Unreadable]):
    """Pictures as the encoder takes them, by `Key`: uint8 (side, side, 3) and mask (h, w)."""

    def __init__(self, images: Sequence[Picture], encoder: GridEncoder) -> None:
        self.images = images
        self.side, self.pad = encoder.config.side or 0, encoder.config.pad
        self.grid = encoder.map_shape

    def __len__(self) -> int:
        return len(self.images)

    def geometry(self, size: tuple[int, int]) -> Geometry:
        """The geometry of a picture of (width, height)."""
        return Geometry(size=size, side=self.side, grid=self.grid, pad=self.pad)

    def __getitem__(self, key: Key) -> tuple[Tensor, Tensor] | _Unreadable:
        index, view = key
        try:
            image = view.of(open_image(self.images[index]))
        except ImageError as error:
            return _Unreadable(str(error))
        geometry = self.geometry(image.size)
        return torch.from_numpy(fit(image, geometry).copy()), torch.from_numpy(geometry.mask)


def load_pixels(
    encoder: GridEncoder,
    images: ImageDataset,
    keys: Sequence[Sequence[Key]],
    *,
    device: torch.device,
    workers: int = 0,
) -> Iterator[Pixels]:
    """The pixels of batches of keys, in order.

    Raises:
        ImageError: a picture does not open any more.
    """
    loader = DataLoader(
        images,
        batch_sampler=[list(batch) for batch in keys],
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # else it would draw from the random state that a resumed run restores
    )
    for batch in loader:
        if isinstance(batch, _Unreadable):
            raise ImageError(
                batch.what, remedy="put the picture back and start the run again: it resumes from its last saved state"
            )
        pixels, mask = batch
        x = normalise(pixels.to(device, non_blocking=True), encoder.config)
        yield Pixels(x, mask.to(device) if images.pad else None)


def _collate(batch: list[tuple[Tensor, Tensor] | _Unreadable]) -> object:
    return next((one for one in batch if isinstance(one, _Unreadable)), None) or default_collate(batch)


def encode_images(
    encoder: GridEncoder,
    images: ImageDataset,
    keys: Sequence[Sequence[Key]],
    *,
    device: torch.device,
    workers: int = 0,
) -> Iterator[Grid]:
    """The encoder's grids of batches of keys, in order. Raises ImageError as `load_pixels`."""
    for pixels in load_pixels(encoder, images, keys, device=device, workers=workers):
        yield encoder(pixels.values, pixels.mask)
