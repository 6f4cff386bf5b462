"""Training of an answering model's fine maps, on boxes, and of nothing else: its answers stay what they are."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from captioner.data.records import Boxes, Record
from captioner.errors import DataError, OptionError
from captioner.image import Geometry
from captioner.model.answering.attributes import Attributes
from captioner.tokenizer.vocabulary import UNKNOWN
from captioner.training.epoch import Figures
from captioner.training.images import Images
from captioner.training.recipe import Recipe, refuse_options
from captioner.training.tasks.answers import AnswerTask
from captioner.training.tasks.base import TASKS, Forward, Part, TaskContext
from captioner.training.tasks.cross_entropy import device_of
from captioner.training.tasks.maps import check_maps_alone, freeze, score_of, shares_inside
from captioner.training.views import View

_HELD_OUT = 20


@TASKS.register("answer_maps")
class AnswerMapsTask(AnswerTask):
    """The penalty on maps of attributes that miss their boxes, for the fine maps of a trained model.

    An attribute whose boxes are in n training pictures has the weight ``1 / sqrt(n)``. Captions and boxes are those of
    training pictures, so one in twenty of these is held out. The dev score is the share of an attribute's map that lies
    in its boxes, the mean over these pictures.
    """

    def __init__(self, context: TaskContext) -> None:
        super().__init__(context)
        attributes = getattr(context.model.answerer, "attributes", None)
        if not isinstance(attributes, Attributes) or attributes.fine is None or self.attributes is None:
            raise OptionError(
                "the model has no fine maps to train",
                remedy='give encoder_options {"fine_stage": 5} and answerer_options {"fine_width": 64}',
            )
        self._fine = attributes
        self._boxes = [self.attributes.boxes(i) for i in range(len(context.train))]
        boxed = [i for i, boxes in enumerate(self._boxes) if boxes]
        if len(boxed) < 2:
            raise DataError(
                f"{len(boxed)} training pictures have boxes for an attribute, and fine maps need 2 or more",
                remedy="give captions with instances, or --phrase-boxes",
            )
        self._held_out = boxed[::_HELD_OUT]
        self._dev_boxes = [self._boxes[i] for i in self._held_out]
        for i in self._held_out:
            self._boxes[i] = {}
        counts = Counter(place for boxes in self._boxes for place in boxes)
        self._weights = {place: count**-0.5 for place, count in counts.items()}

    @staticmethod
    def check(recipe: Recipe) -> None:
        """Raises OptionError for options of answers and of the encoder, which do not learn, and without a model."""
        AnswerTask.check(recipe)
        check_maps_alone(recipe)
        refuse_options(recipe, "teacher", "transfer_questions", "word_dropout", "blind", "made_weight")

    def set_trainable(self, *, frozen: bool) -> None:
        """The fine maps alone; all else is as in evaluation."""
        self._frozen = self.recipe.cache
        freeze(self.context.model)
        self._fine.learn_fine_maps(True)
        assert self._fine.fine is not None
        self._fine.fine.train()

    def loss(self, forward: Forward, part: Part, images: Images) -> tuple[Tensor, Figures]:
        """See `captioner.training.tasks.Task.loss`."""
        pictures, views = part.batch.pictures, part.batch.views
        answered: Any = forward(images, _no_question(len(pictures)).to(device_of(images)))
        maps = answered.attribute_maps.float()
        rows, places, targets = _targets(
            [self._boxes[i] for i in pictures], views, [self._geometry(i) for i in pictures]
        )
        whole = sum(self._weights[place] for i in part.step.pictures for place in self._boxes[i])
        if not rows:  # processes sum the same figures, also those without boxes in their part
            return maps.sum() * 0, {"maps_missed": 0.0} if whole else {}
        inside = (maps[rows, places] * targets.to(maps.device)).sum((1, 2)).clamp(min=1e-6)
        weights = inside.new_tensor([self._weights[place] for place in places])
        missed = -(inside.log() * weights).sum() / whole
        return self.recipe.map_supervision * missed, {"maps_missed": missed.item()}

    @torch.inference_mode()
    def dev_score(self, model: Any) -> tuple[float, Figures]:
        """The mean share of the maps in boxes, and of the strongest cell that boxes cover."""
        processes, recipe = self.context.processes, self.recipe
        share = slice(processes.rank, None, processes.count)
        pictures, boxes = self._held_out[share], self._dev_boxes[share]
        mine: Sequence[Record] = [self.context.train[i] for i in pictures]
        grids = self._dev_grids.refined(
            model, mine, frozen=self._frozen, device=processes.device, workers=recipe.workers
        )
        sums, at = [0.0, 0.0, 0.0], 0
        for grid in grids:
            some = slice(at, at + len(grid))
            at += len(grid)
            maps = model.answerer(grid, _no_question(len(grid)).to(processes.device)).attribute_maps.float().cpu()
            geometries = [self._geometry(i) for i in pictures[some]]
            rows, places, targets = _targets(boxes[some], [View()] * len(grid), geometries)
            sums = [a + b for a, b in zip(sums, shares_inside(maps[rows, places], targets), strict=True)]
        return score_of(processes.sum(sums))


def _no_question(pictures: int) -> Tensor:
    """One question of one unknown word for each picture, (B, 1, 1): the attributes' maps depend on none."""
    return torch.full((pictures, 1, 1), UNKNOWN)


def _targets(
    boxes: Sequence[dict[int, Boxes]], views: Sequence[View], geometries: Sequence[Geometry]
) -> tuple[list[int], list[int], Tensor]:
    """Of the attributes with boxes: their pictures, their places, and the share of each cell that is covered."""
    rows, places, covered = [], [], []
    for row, (some, view, geometry) in enumerate(zip(boxes, views, geometries, strict=True)):
        for place, its in some.items():
            rows.append(row)
            places.append(place)
            covered.append(np.max([geometry.coverage(view.of_box(box)) for box in its], axis=0))
    return rows, places, torch.from_numpy(np.array(covered, dtype=np.float32))
