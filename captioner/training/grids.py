"""From pictures on disk to the encoder's grids: encoded anew, or once for a frozen encoder and then read."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from captioner.image import Geometry, Picture, fit, open_image
from captioner.model.encoder import GridEncoder
from captioner.model.grid import Grid
from captioner.model.preprocess import normalise
from captioner.training.views import View

Key = tuple[int, View]
"""A picture, as a place in a list, and how it is looked at."""


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
    def fill(
        self,
        *,
        device: torch.device,
        workers: int,
        batch: int,
        progress: Callable[[int, int], None],
        process: int = 0,
        processes: int = 1,
        wait: Callable[[], None] = lambda: None,
    ) -> None:
        """Encode every picture, unless the file is there.

        Args:
            device: where.
            workers: processes that read pictures.
            batch: pictures at a time.
            progress: told pictures done and all.
            process, processes: this one encodes its share of the pictures.
            wait: for the other processes.
        """
        if self.file.exists() and self.masks.exists():
            return
        partial = self.file.with_suffix(".partial")
        if process == 0:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            np.lib.format.open_memmap(partial, "w+", dtype=np.float16, shape=self.shape).flush()
            np.lib.format.open_memmap(self.masks, "w+", dtype=np.bool_, shape=self.shape[:3]).flush()
        wait()
        store, masks = np.load(partial, mmap_mode="r+"), np.load(self.masks, mmap_mode="r+")
        flat, flat_masks = store.reshape(-1, *self.shape[2:]), masks.reshape(-1, self.shape[2])
        everything = [
            (place, View(flip=bool(flip))) for place in range(len(self.pictures)) for flip in range(self.views)
        ]
        begin, end = (len(everything) * i // processes for i in (process, process + 1))
        keys = [everything[i : min(i + batch, end)] for i in range(begin, end, batch)]
        done = begin
        for grid in encode_batches(self.encoder, self.pictures, keys, device=device, workers=workers):
            flat[done : done + len(grid)] = grid.features.half().cpu().numpy()
            flat_masks[done : done + len(grid)] = True if grid.mask is None else grid.mask.cpu().numpy()
            done += len(grid)
            progress((done - begin) * processes, len(everything))
        store.flush()
        masks.flush()
        wait()
        if process == 0:
            partial.replace(self.file)
        wait()

    def read(self, keys: Sequence[Sequence[Key]], *, device: torch.device) -> Iterator[Grid]:
        """The grids of batches of keys, in order; the views may be mirrored and nothing else."""
        store, masks = np.load(self.file, mmap_mode="r"), np.load(self.masks)
        for batch in keys:
            places, flips = [place for place, _ in batch], [int(view.flip) for _, view in batch]
            features = torch.from_numpy(store[places, flips]).to(device).float()
            mask = torch.from_numpy(masks[places, flips]).to(device) if self.pictures.pad else None
            yield Grid(features, self.encoder.grid_shape, mask)
