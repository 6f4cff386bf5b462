"""The parts of each step that a process computes, with their pictures."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, repeat
from pathlib import Path

import torch

from captioner.model.encoder import GridEncoder
from captioner.model.grid import Grid
from captioner.training.grid_cache import GridCache
from captioner.training.images import ImageDataset, Images, Key, encode_images, load_pixels
from captioner.training.tasks import Part, Task, TaskContext
from captioner.training.teacher import Teacher

Keys = list[list[Key]]
"""Of each part: its pictures, and how they are augmented."""


@dataclass
class _Frozen:
    """A frozen encoder, the pictures as it takes them, and its grids on disk, where they are kept."""

    name: str
    encoder: GridEncoder
    images: ImageDataset
    folder: Path
    cache: GridCache | None = None


class Feeder:
    """Gives this process its parts of every batch: with pixels, with grids of the frozen encoder, or without pictures.

    A teacher with another encoder gets the grids of its own while the encoder is frozen, and later too where they are
    kept on disk, which needs a run without crops and colour jitter.

    Args:
        task: whose batches are read.
        context: of the run.
        folder: of the cached grids; a teacher's are in its folder ``teacher-grids``.
    """

    def __init__(self, task: Task, context: TaskContext, folder: Path) -> None:
        self.task, self.context = task, context
        self._own = _Frozen("grids", context.model.encoder, context.images, folder)
        self._teacher: _Frozen | None = None
        teacher: Teacher | None = getattr(task, "teacher", None)
        if teacher and not teacher.reads_grids_of(context.model.encoder):
            encoder = teacher.model.encoder
            images = ImageDataset(context.images.images, encoder)
            self._teacher = _Frozen("grids of the teacher", encoder, images, folder / "teacher-grids")
        self._is_augmented = bool(context.recipe.crop or context.recipe.colour_jitter)

    def fill(self, *, frozen: bool) -> Iterator[tuple[str, int, int]]:
        """Compute the grids of frozen encoders that are kept on disk; whose, how many are done, and of how many."""
        recipe, context = self.context.recipe, self.context
        for source in filter(None, (self._own, self._teacher)):
            is_steady = frozen or (source is self._teacher and not self._is_augmented)
            if not (is_steady and recipe.cache and self.task.uses_images):
                source.cache = None
            elif source.cache is None:
                source.cache = GridCache(source.encoder, source.images, source.folder, mirrored=recipe.horizontal_flip)
                filled = source.cache.fill(context.processes, workers=recipe.workers, batch=recipe.batch_pictures)
                yield from ((source.name, *count) for count in filled)

    def steps(self, epoch: int, *, start: int, frozen: bool) -> Iterator[list[tuple[Part, Images]]]:
        """This process's parts of each step of an epoch from index ``start`` on; after `fill`.

        Raises:
            ImageError: a picture does not open any more.
        """
        processes, rounds = self.context.processes, self.context.recipe.gradient_accumulation_steps
        first, count = processes.rank * rounds, processes.count * rounds
        batches = list(self.task.batches.epoch(epoch, start=start, steady=self._own.cache is not None))
        mine = [batch.parts(count)[first : first + rounds] for batch in batches]
        keys = [list(zip(part.pictures, part.views, strict=True)) for parts in mine for part in parts]
        images = self._images(keys, frozen=frozen)
        taught: Iterator[Grid | None] = repeat(None)
        if self._teacher and (frozen or self._teacher.cache) and self.task.uses_images:
            taught = self._grids(self._teacher, keys)
        for batch, parts in zip(batches, mine, strict=True):
            grids = islice(taught, rounds)
            seen = islice(images, rounds)
            yield [(Part(part, batch, grid), one) for part, grid, one in zip(parts, grids, seen, strict=True)]

    def _images(self, keys: Keys, *, frozen: bool) -> Iterator[Images]:
        if not self.task.uses_images:
            yield from [None] * len(keys)
        elif frozen:
            yield from self._grids(self._own, keys)
        else:
            device, workers = self.context.processes.device, self.context.recipe.workers
            yield from load_pixels(self._own.encoder, self._own.images, keys, device=device, workers=workers)

    def _grids(self, source: _Frozen, keys: Keys) -> Iterator[Grid]:
        """The grids of a frozen encoder: read, or encoded once, however often the decoder needs them."""
        context = self.context
        device = context.processes.device
        if source.cache is not None:
            yield from source.cache.read(keys, device=device)
            return
        grids = encode_images(source.encoder, source.images, keys, device=device, workers=context.recipe.workers)
        while True:
            with torch.no_grad(), context.autocast():  # not around the yield, where others compute
                grid = next(grids, None)
            if grid is None:
                return
            yield grid
