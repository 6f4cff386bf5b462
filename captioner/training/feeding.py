"""The parts of each step that a process computes, with their pictures."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import torch

from captioner.model.grid import Grid
from captioner.training.batches import Batch
from captioner.training.grid_cache import GridCache
from captioner.training.images import Images, Key, encode_images, load_pixels
from captioner.training.tasks import Part, Task, TaskContext


class Feeder:
    """Gives this process its parts of every batch: with pixels, with grids of the frozen encoder, or without pictures.

    Args:
        task: whose batches are read.
        context: of the run.
        folder: of the cached grids.
    """

    def __init__(self, task: Task, context: TaskContext, folder: Path) -> None:
        self.task, self.context, self.folder = task, context, folder
        self._cache: GridCache | None = None

    def fill(self, *, frozen: bool) -> Iterator[tuple[int, int]]:
        """Compute the grids of a frozen encoder that are kept on disk; how many are done, and of how many."""
        recipe, context = self.context.recipe, self.context
        if not (frozen and recipe.cache and self.task.uses_images):
            self._cache = None
            return
        if self._cache is None:
            encoder, images = context.model.encoder, context.images
            self._cache = GridCache(encoder, images, self.folder, mirrored=recipe.horizontal_flip)
            yield from self._cache.fill(context.processes, workers=recipe.workers, batch=recipe.batch_pictures)

    def steps(self, epoch: int, *, start: int, frozen: bool) -> Iterator[list[tuple[Part, Images]]]:
        """This process's parts of each step of an epoch from index ``start`` on; after `fill`.

        Raises:
            ImageError: a picture does not open any more.
        """
        processes, rounds = self.context.processes, self.context.recipe.gradient_accumulation_steps
        first, count = processes.rank * rounds, processes.count * rounds
        batches = list(self.task.batches.epoch(epoch, start=start, steady=self._cache is not None))
        mine = [batch.parts(count)[first : first + rounds] for batch in batches]
        images = self._images(mine, frozen=frozen)
        for batch, parts in zip(batches, mine, strict=True):
            yield [(Part(part, batch), seen) for part, seen in zip(parts, islice(images, rounds), strict=True)]

    def _images(self, batches: Sequence[Sequence[Batch]], *, frozen: bool) -> Iterator[Images]:
        parts = [part for some in batches for part in some]
        if not self.task.uses_images:
            yield from [None] * len(parts)
            return
        keys = [list(zip(part.pictures, part.views, strict=True)) for part in parts]
        device, workers = self.context.processes.device, self.context.recipe.workers
        if self._cache is not None:
            yield from self._cache.read(keys, device=device)
        elif frozen:  # encoded once, however often the decoder needs the grid
            yield from self._encoded(keys)
        else:
            encoder, images = self.context.model.encoder, self.context.images
            yield from load_pixels(encoder, images, keys, device=device, workers=workers)

    def _encoded(self, keys: Sequence[Sequence[Key]]) -> Iterator[Grid]:
        """As `encode_images`, in the run's precision."""
        context = self.context
        grids = encode_images(
            context.model.encoder,
            context.images,
            keys,
            device=context.processes.device,
            workers=context.recipe.workers,
        )
        while True:
            with torch.no_grad(), context.autocast():
                grid = next(grids, None)
            if grid is None:
                return
            yield grid
