"""The protocol of tasks, what they are built from, and their registry.

A task decides the batches, the loss and the dev score. The training loop drives only the protocol `Task`; one module
and ``@TASKS.register("name")`` add a task, which a recipe names as its ``objective``.

Losses are sums over a part of a step, divided by a count of the whole step: so the number of parts that a step is
computed in changes nothing. (The baseline of hard attention follows each part.)
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from captioner.data.records import Record
from captioner.model.caption_model import CaptionModel
from captioner.model.decoder import Decoded
from captioner.model.grid import Grid
from captioner.registry import Registry
from captioner.tokenizer.vocabulary import Vocabulary
from captioner.training.batches import Batch
from captioner.training.distributed import Processes, autocast
from captioner.training.epoch import Figures
from captioner.training.images import ImageDataset, Images
from captioner.training.recipe import Recipe
from captioner.training.teacher import Teacher

Forward = Callable[[Images, Tensor], Decoded]
"""The model in training, with teacher forcing: pictures and input tokens -> logits and maps."""


@dataclass(frozen=True)
class Part:
    """What one process computes in one round of a step, and the whole step.

    Attributes:
        batch: of the process and round.
        step: of all.
        teacher_grid: of the teacher's encoder, where the teacher reads neither the task's pixels nor its grids.
    """

    batch: Batch
    step: Batch
    teacher_grid: Grid | None = None

    def for_teacher(self, images: Images) -> Images:
        """What a teacher reads, where the model reads ``images``."""
        return images if self.teacher_grid is None else self.teacher_grid


@dataclass(frozen=True, kw_only=True)
class TaskContext:
    """What a task is built from.

    Attributes:
        recipe: the run's options.
        train, dev: records of the two splits.
        rest: how many records of ``train``, the last ones, are mixed in for rehearsal.
        rest_dev: records of the rest that the dev score is taken on too.
        map_delay: the step, counted from a word's own, whose attention is the word's map: 0 or 1.
        text: captions without pictures.
        vocabulary, model: of the run.
        images: the pictures of ``train``, in order.
        processes: that share the run.
        precision: "float32" or "bfloat16".
    """

    recipe: Recipe
    train: Sequence[Record]
    dev: Sequence[Record]
    text: Sequence[str]
    vocabulary: Vocabulary
    model: CaptionModel
    images: ImageDataset
    processes: Processes
    precision: str
    rest: int = 0
    rest_dev: Sequence[Record] = ()
    map_delay: int = 0

    def autocast(self) -> AbstractContextManager[Any]:
        """The context of a forward pass in the run's precision."""
        return autocast(self.processes.device, self.precision)

    def teacher(self, *, answers: tuple[str, ...] = ()) -> Teacher | None:
        """The run's teacher; see `Teacher.of_recipe`."""
        return Teacher.of_recipe(
            self.recipe,
            self.model.encoder,
            self.vocabulary,
            device=self.processes.device,
            autocast=self.autocast,
            answers=answers,
        )


class Batches(Protocol):
    """The batches of an epoch. Seed, epoch and step alone decide their content."""

    @property
    def size(self) -> int:
        """Pictures, or captions without pictures, of one step."""

    def __len__(self) -> int:
        """Steps of an epoch."""

    def epoch(self, number: int, *, start: int = 0, steady: bool = False) -> Iterator[Batch]:
        """The batches of an epoch from index ``start`` on; ``steady`` where views may be mirrored at most."""


class Task(Protocol):
    """See the module's text.

    A task that trains a model of another kind than `CaptionModel` also has the static functions ``first_model`` and
    ``build_vocabulary``, in place of those of `captioner.training.start`, and the method ``checkpoint``, in place of
    `captioner.checkpoint.Checkpoint`; see `captioner.training.tasks.answers`.

    Attributes:
        uses_images: whether the pictures of a batch are read.
        uses_captions: whether those of pictures are, so that each picture must have one; a task that does not say so
            uses them.
        uses_text: whether captions without pictures are; a task that does not say so may read them.
        teacher: the run's, where the recipe names one; a task that has none need not have the attribute.
    """

    uses_images: bool

    @property
    def batches(self) -> Batches:
        """The batches of the training data."""

    def __init__(self, context: TaskContext) -> None: ...

    @staticmethod
    def check(recipe: Recipe) -> None:
        """Make sure that a recipe has what the task requires. Raises OptionError."""

    def set_trainable(self, *, frozen: bool) -> None:
        """Choose the parameters that are trained and whether dropout is on; ``frozen`` in the first phase."""

    def loss(self, forward: Forward, part: Part, images: Images) -> tuple[Tensor, Figures]:
        """The part's share of the step's loss, and its share of figures for the log.

        A teacher reads ``part.for_teacher(images)``.
        """

    def dev_score(self, model: CaptionModel) -> tuple[float, Figures]:
        """A score of the dev split, larger is better, and figures for the log; called by all processes together."""


TASKS: Registry[type[Task]] = Registry("task")
