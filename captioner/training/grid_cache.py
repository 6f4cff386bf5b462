"""The grids of an encoder that does not learn on disk: computed once, read in every epoch."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from captioner.errors import DataError, OptionError
from captioner.model.encoder import GridEncoder
from captioner.model.grid import Grid
from captioner.training.distributed import Processes
from captioner.training.images import ImageDataset, Key, encode_images
from captioner.training.sizes import file_stamp
from captioner.training.views import View

_SPACE = "free some space, or give --no-cache"


class GridCache:
    """Grids in 16 bits, with those of the mirrored pictures, in a file of the run's folder.

    The file's name is a digest of what its content depends on: the encoder, its weights, and the names, sizes and
    times of the picture files. So a resumed run finds it, and one with another encoder or changed pictures does not.
    """

    def __init__(self, encoder: GridEncoder, images: ImageDataset, folder: Path, *, mirrored: bool) -> None:
        self.encoder, self.images = encoder, images
        self.views = 2 if mirrored else 1
        cells = encoder.grid_shape[0] * encoder.grid_shape[1]
        self.shape = (len(images), self.views, cells, encoder.vector_width)
        self.file = folder / f"grids-{self._fingerprint()}.npy"
        self.masks = folder / f"{self.file.stem}-masks.npy"

    def _fingerprint(self) -> str:
        digest = hashlib.sha256(repr((self.encoder.config, self.shape)).encode())
        for image in self.images.images:
            digest.update(file_stamp(image).encode("utf-8", "surrogateescape"))
        for tensor in self.encoder.state_dict().values():
            digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    @torch.inference_mode()
    def fill(self, processes: Processes, *, workers: int, batch: int) -> Iterator[tuple[int, int]]:
        """Encode every picture, unless the file exists; each process encodes its share.

        Args:
            processes: of the run.
            workers: that read pictures.
            batch: pictures at a time.

        Yields:
            The number of views that are done, and of all.

        Raises:
            DataError: the disk is full, or the folder cannot be written.
            ImageError: a picture does not open any more.
        """
        if processes.is_first:
            self._remove_stale()
        exists = _is_whole(self.file, self.shape) and _is_whole(self.masks, self.shape[:3])
        if processes.any(exists) and exists:
            return
        partial = self.file.with_suffix(".partial")
        if processes.is_first:
            try:
                self.file.parent.mkdir(parents=True, exist_ok=True)
                _allocate(partial, np.float16, self.shape)
                _allocate(self.masks, np.bool_, self.shape[:3])
            except OSError as error:
                for path in (partial, self.masks):
                    with suppress(OSError):
                        path.unlink(missing_ok=True)
                raise DataError(f"{partial}: cannot be written ({error.strerror})", remedy=_SPACE) from None
        processes.wait()
        store, masks = np.load(partial, mmap_mode="r+"), np.load(self.masks, mmap_mode="r+")
        flat, flat_masks = store.reshape(-1, *self.shape[2:]), masks.reshape(-1, self.shape[2])
        everything = [(index, View(flip=bool(flip))) for index in range(len(self.images)) for flip in range(self.views)]
        begin, end = (len(everything) * i // processes.count for i in (processes.rank, processes.rank + 1))
        keys = [everything[i : min(i + batch, end)] for i in range(begin, end, batch)]
        done = begin
        for grid in encode_images(self.encoder, self.images, keys, device=processes.device, workers=workers):
            half = grid.features.half()
            if not half.isfinite().all() and grid.features.isfinite().all():
                raise OptionError("the encoder's grids have numbers beyond 65,504", remedy="train with --no-cache")
            flat[done : done + len(grid)] = half.cpu().numpy()
            flat_masks[done : done + len(grid)] = True if grid.mask is None else grid.mask.cpu().numpy()
            done += len(grid)
            yield (done - begin) * processes.count, len(everything)
        store.flush()
        masks.flush()
        processes.wait()
        if processes.is_first:
            partial.replace(self.file)
        processes.wait()

    def read(self, keys: Sequence[Sequence[Key]], *, device: torch.device) -> Iterator[Grid]:
        """The grids of batches of keys, in order; the views may be mirrored and nothing else."""
        store, masks = np.load(self.file, mmap_mode="r"), np.load(self.masks)
        for batch in keys:
            indices, flips = [index for index, _ in batch], [int(view.flip) for _, view in batch]
            features = torch.from_numpy(store[indices, flips]).to(device).float()
            mask = torch.from_numpy(masks[indices, flips]).to(device) if self.images.pad else None
            yield Grid(features, self.encoder.grid_shape, mask)

    def _remove_stale(self) -> None:
        """Remove grids of another encoder or of other pictures, and those that were not finished."""
        for path in self.file.parent.glob(f"grids-{'[0-9a-f]' * 16}*"):
            if path not in (self.file, self.masks) or not self.file.exists():
                with suppress(OSError):
                    path.unlink()


def _is_whole(path: Path, shape: tuple[int, ...]) -> bool:
    """Whether an array file is there and has not been cut off, as by a copy of the folder that stopped."""
    try:
        return bool(np.load(path, mmap_mode="r").shape == shape)
    except (OSError, ValueError, EOFError):
        return False


def _allocate(path: Path, kind: type, shape: tuple[int, ...]) -> None:
    """An array file whose disk space is taken: a full disk would otherwise kill the process when it is written."""
    np.lib.format.open_memmap(path, "w+", dtype=kind, shape=shape).flush()
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size) if hasattr(os, "posix_fallocate") else None
