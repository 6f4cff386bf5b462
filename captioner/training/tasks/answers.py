"""Answers to questions: a classifier over the most frequent answers."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from captioner.checkpoint import AnswerCheckpoint, load_answering
from captioner.checkpoint import load as load_captions
from captioner.data.records import Record
from captioner.errors import DataError, OptionError
from captioner.header import read_header
from captioner.image import Geometry
from captioner.metrics.vqa import vqa_accuracy
from captioner.model.answer_model import AnswerConfig, AnswerModel
from captioner.model.answering import ANSWERERS
from captioner.model.answering.attributes import Attributes
from captioner.model.encoder import EncoderConfig
from captioner.model.grid import Grid
from captioner.model.refiners import REFINERS
from captioner.tokenizer.ptb import tokenize
from captioner.tokenizer.questions import question_words
from captioner.tokenizer.vocabulary import UNKNOWN, Vocabulary
from captioner.training.attributes import AttributeLabels, attribute_options, map_options
from captioner.training.batches import word_dropout
from captioner.training.dev import DevGrids
from captioner.training.epoch import Figures
from captioner.training.growth import add_fine_answer_maps
from captioner.training.images import Images
from captioner.training.losses import attribute_loss, map_supervision
from captioner.training.made_questions import MadeQuestion, QuestionMaker, asked_words
from captioner.training.presence import CLASSES, ENDS, PresenceQuestions, presence_words
from captioner.training.questions import (
    QuestionBatch,
    QuestionBatches,
    frequent_answers,
    padded_questions,
)
from captioner.training.recipe import OF_REWARD, Recipe, default_of, refuse_options
from captioner.training.sizes import upright_size
from captioner.training.start import (
    naming_options,
    refuse_other_options,
    set_side,
    taken_encoder,
    try_once,
    with_options,
)
from captioner.training.tasks.base import TASKS, Forward, Part, TaskContext
from captioner.training.tasks.cross_entropy import check_refiner, device_of
from captioner.training.transfer_questions import TransferQuestions

_OF_CAPTIONS = (
    "decoder",
    "decoder_options",
    "decoder_from",
    "grow_vocabulary",
    "rehearsal",
    "scheduled_sampling",
    "map_regularisation",
    "off_grid_supervision",
    "map_delay",
    "crop",
    "colour_jitter",
    "dev_beam",
)
_MADE_COUNT = 20  # words of made questions that are rarer are <unk>: captions have many that questions never have


@TASKS.register("answers")
class AnswerTask:
    """Cross-entropy with the shares of people who gave each answer; the dev score is the accuracy on dev.

    A question whose answers are all rarer than the most frequent ones has no cross-entropy. With a teacher there is the
    KL divergence from its answers beside it, also to such questions and to those of a transfer set. The encoder and the
    refiner may come from a captioning model (``encoder_from``), whose word embeddings then begin those of questions.

    Where the pictures have captions or annotated objects, questions are made from these too, and the map of an answer
    is supervised by the boxes of what it names. A blind model sees zeros in place of pictures, so none are read.
    """

    uses_images, uses_captions, uses_text = True, False, False

    def __init__(self, context: TaskContext) -> None:
        self.context, self.recipe = context, context.recipe
        recipe = self.recipe
        self.answers = _answers(recipe, context.train)
        self.batches = QuestionBatches(
            context.train,
            context.vocabulary,
            self.answers,
            batch_pictures=recipe.batch_pictures,
            questions_per_picture=recipe.captions_per_picture,
            max_length=recipe.max_length,
            horizontal_flip=recipe.horizontal_flip,
            seed=recipe.seed,
            made=list(_made(context.train)) if recipe.made_questions else (),
            made_per_picture=recipe.made_questions,
            presence=PresenceQuestions(context.train) if recipe.presence_questions else None,
            presence_per_picture=recipe.presence_questions,
            made_weight=recipe.made_weight,
            transfer=TransferQuestions(context.train) if recipe.transfer_questions else None,
            transfer_per_picture=recipe.transfer_questions,
        )
        if recipe.transfer_questions and not self.batches.has_room:
            raise OptionError(
                f"transfer_questions is {recipe.transfer_questions}, and the pictures' own questions take all "
                f"{recipe.captions_per_picture} rows",
                remedy="raise captions_per_picture",
            )
        self.teacher = context.teacher(answers=self.answers)
        config: Any = context.model.config
        words: tuple[int, ...] = getattr(config.answerer, "attributes", ())
        self.attributes = (
            AttributeLabels(context.train, [context.vocabulary.words[word] for word in words]) if words else None
        )
        if recipe.frozen_epochs < recipe.epochs and not recipe.blind:  # an unknown stage is refused now, not after them
            context.model.encoder.train_from(recipe.train_from)
        self.uses_images = not recipe.blind
        self._dev_grids, self._frozen = DevGrids(), False
        self._sizes: dict[int, tuple[int, int]] = {}
        for name, records in (("train", context.train), ("dev", context.dev)):
            if not any(record.questions for record in records):
                raise DataError(f"the split '{name}' has no questions", remedy="training needs train and dev")

    @staticmethod
    def check(recipe: Recipe) -> None:
        """Raises OptionError for options of captions, and for a refiner that nobody has trained."""
        check_refiner(recipe, "encoder_from", "start_from")
        refuse_options(recipe, *_OF_CAPTIONS, *OF_REWARD)
        if recipe.blind and recipe.teacher:
            raise OptionError("a blind model sees nothing that a teacher could show it", remedy="leave teacher out")

    @staticmethod
    def build_vocabulary(recipe: Recipe, records: Sequence[Record]) -> Vocabulary:
        """The words of the training questions, and those that made ones often have.

        Raises:
            DataError: no word is frequent enough.
        """
        questions = [question_words(asked.text) for record in records for asked in record.questions]
        more: list[str] = []
        if recipe.made_questions:
            counts = Counter(word for some in _made(records) for one in some for word in one.words)
            more += (word for word, count in counts.items() if count >= _MADE_COUNT)
        if recipe.presence_questions:
            more += (word for name in CLASSES for end in ENDS for word in presence_words(name, end=end))
        return Vocabulary.build([*questions, *[more] * recipe.minimum_count], minimum_count=recipe.minimum_count)

    @staticmethod
    def first_model(
        recipe: Recipe, records: Sequence[Record], *, vocabulary: Vocabulary | None = None
    ) -> tuple[AnswerModel, Vocabulary]:
        """The model before its first step; arguments and errors as of `captioner.training.start.first_model`."""
        answers = _answers(recipe, records)
        given = recipe.given
        if recipe.start_from:
            start = load_answering(recipe.start_from)
            if start.model.config.blind != recipe.blind:
                raise OptionError(
                    f"blind is {recipe.blind}, and {recipe.start_from} is of a model for which it is not",
                    remedy="give what that model has",
                )
            if recipe.answers not in (len(answers), default_of(Recipe.__dataclass_fields__["answers"])):
                raise OptionError(
                    f"answers is {recipe.answers}, and {recipe.start_from} has {len(answers)}", remedy="leave it out"
                )
            attributes = getattr(start.model.config.answerer, "attributes", ())
            if recipe.attributes not in (0, len(attributes)):
                raise OptionError(
                    f"attributes is {recipe.attributes}, and {recipe.start_from} has {len(attributes)}",
                    remedy=f"give {len(attributes)}",
                )
            sizes = {"vocabulary_size": len(start.vocabulary), "answers": len(answers)}
            of_map = map_options(recipe, attributes, start.vocabulary, answers)
            with naming_options():
                model = add_fine_answer_maps(start.model, recipe.encoder_options, recipe.answerer_options)
                model = with_options(model, "answerer", recipe.answerer_options | of_map, **sizes)
            set_side(recipe, model)
            refuse_other_options(recipe, model.config, given={*given, "answerer", "answerer_options"})
            try_once(model, torch.tensor([[[UNKNOWN]]]))
            return model, start.vocabulary
        if vocabulary is None:
            vocabulary = AnswerTask.build_vocabulary(recipe, records)
        source = load_captions(recipe.encoder_from) if recipe.encoder_from else None
        if source is not None:
            set_side(recipe, source.model)
            taken = replace(source.model.config, encoder=taken_encoder(recipe, source))
            refuse_other_options(recipe, taken, given={*given, "refiner", "refiner_options"})
        with naming_options():
            config = AnswerConfig(
                encoder=taken_encoder(recipe, source)
                if source is not None
                else EncoderConfig(backbone=recipe.backbone, **recipe.encoder_options),
                refiner=source.model.config.refiner
                if source is not None
                else REFINERS[recipe.refiner].config(**recipe.refiner_options),
                answerer=ANSWERERS[recipe.answerer].config(
                    **(recipe.answerer_options | attribute_options(recipe, records, vocabulary, answers))
                ),
                blind=recipe.blind,
            )
            model = AnswerModel(
                config,
                vocabulary_size=len(vocabulary),
                answers=len(answers),
                weights=None if source is not None else recipe.weights or None,
            )
        try_once(model, torch.tensor([[[UNKNOWN]]]))
        if source is not None:
            model.encoder.load_state_dict(source.model.encoder.state_dict())
            model.refiner.load_state_dict(source.model.refiner.state_dict())
            _take_embeddings(model, vocabulary, source.model, source.vocabulary)
        return model, vocabulary

    def checkpoint(self, *, model: Any, vocabulary: Vocabulary, about: dict[str, Any]) -> AnswerCheckpoint:
        """The model as it is written."""
        return AnswerCheckpoint(model=model, vocabulary=vocabulary, answers=self.answers, about=about)

    def set_trainable(self, *, frozen: bool) -> None:
        """The answerer, the refiner unless it is kept, and the encoder after the frozen epochs; with dropout."""
        model, refines = self.context.model, self.recipe.train_refiner
        self._frozen = self.recipe.cache and (frozen or self.recipe.blind)
        model.encoder.train_from(None if frozen or self.recipe.blind else self.recipe.train_from)
        model.refiner.requires_grad_(refines)
        model.train()
        if not refines:
            model.refiner.eval()
        if isinstance(attributes := getattr(model.answerer, "attributes", None), Attributes):
            attributes.learn_fine_maps(bool(self.recipe.map_supervision))

    def loss(self, forward: Forward, part: Part, images: Images) -> tuple[Tensor, Figures]:
        """See `captioner.training.tasks.Task.loss`."""
        batch, step = part.batch, part.step
        assert isinstance(batch, QuestionBatch) and isinstance(step, QuestionBatch)
        images = self._zeros(len(batch.pictures)) if images is None else images
        device = device_of(images)
        asked = padded_questions(batch).to(device)
        shown = word_dropout(asked, self.recipe.word_dropout) if self.recipe.word_dropout else asked
        answered: Any = forward(images, shown)
        log_p = answered.logits.float().flatten(0, 1).log_softmax(-1)  # (B * k, A)
        rows = [i for i, target in enumerate(batch.targets_of) for _ in target]
        numbers = [number for target in batch.targets_of for number, _ in target]
        shares = torch.tensor([share for target in batch.targets_of for _, share in target], device=device)
        real = torch.tensor([bool(target) for target in batch.targets_of], device=device)
        weights = torch.tensor(batch.weights, device=device)  # (B * k)
        smooth, count = self.recipe.label_smoothing, max(1, step.questions)
        loss = -(1 - smooth) * (log_p[rows, numbers] * shares * weights[rows]).sum()
        loss = loss - smooth * (log_p[real].mean(-1) * weights[real]).sum()
        loss = loss / (step.weight or 1.0) + self._map_loss(answered.maps, part)
        loss = loss + self._attribute_loss(answered, part)
        distance, figures = self._teacher_loss(log_p, images, asked, part)
        loss = loss + distance
        best = log_p.argmax(-1).tolist()
        right = sum(
            max(target, key=lambda one: one[1])[0] == best[i] for i, target in enumerate(batch.targets_of) if target
        )
        return loss, {"accuracy": right / count, **figures}

    def _teacher_loss(
        self, log_p: Tensor, images: Images, questions: Tensor, part: Part
    ) -> tuple[Tensor | float, Figures]:
        """The weighted KL divergence of the answers (B * k, A) from the teacher's, the mean over the questions that it
        is asked; 0 without a teacher."""
        batch, step = part.batch, part.step
        assert isinstance(batch, QuestionBatch) and isinstance(step, QuestionBatch)
        if self.teacher is None:
            return 0.0, {}
        seen = part.for_teacher(images)
        assert seen is not None
        theirs = self.teacher.logits(seen, questions).float().flatten(0, 1).log_softmax(-1)
        weights = [weight * one for weight, one in zip(batch.weights, batch.distilled, strict=True)]
        each = F.kl_div(log_p, theirs, log_target=True, reduction="none").sum(-1)
        distance = (each * torch.tensor(weights, device=each.device)).sum() / (step.distilled_weight or 1.0)
        return self.recipe.distillation * distance, {"from_teacher": distance.item()}

    def _attribute_loss(self, answered: Any, part: Part) -> Tensor | float:
        """The weighted cross-entropy of the attributes' logits, and the penalty on maps that miss their boxes."""
        logits, recipe, labels = answered.attributes, self.recipe, self.attributes
        if logits is None or labels is None:
            return 0.0
        pictures = part.batch.pictures
        shows, known = (torch.from_numpy(one).to(logits.device) for one in labels.of(pictures))
        loss = attribute_loss(logits, shows, known, count=len(part.step.pictures))
        weighted = recipe.attribute_supervision * loss
        if not recipe.map_supervision or not (count := sum(len(labels.boxes(one)) for one in part.step.pictures)):
            missed: Tensor = answered.attribute_maps.sum() * 0
            return weighted + missed
        maps = answered.attribute_maps.float()
        targets = torch.zeros_like(maps, device="cpu")
        for i, (picture, view) in enumerate(zip(pictures, part.batch.views, strict=True)):
            geometry = self._geometry(picture)
            for place, boxes in labels.boxes(picture).items():
                covered = np.max([geometry.coverage(view.of_box(box)) for box in boxes], axis=0)
                targets[i, place] = torch.from_numpy(covered)
        missed = map_supervision(maps, targets.to(maps.device), count=count)
        return weighted + recipe.map_supervision * missed

    def _map_loss(self, maps: Tensor, part: Part) -> Tensor:
        """The weighted penalty on maps (B, k, h, w) that miss the boxes of what the answers name."""
        batch, recipe = part.batch, self.recipe
        if not recipe.map_supervision or recipe.blind or not batch.boxed_words:
            return maps.new_zeros((), dtype=torch.float32)
        boxes = batch.map_targets([self._geometry(picture) for picture in batch.pictures])  # (B * k, 1, h, w)
        flat = maps.float().flatten(0, 1).unsqueeze(1)
        return recipe.map_supervision * map_supervision(flat, boxes.to(maps.device), count=part.step.boxed_words)

    def _geometry(self, picture: int) -> Geometry:
        return self.context.images.geometry(self._size(picture))

    def _size(self, picture: int) -> tuple[int, int]:
        """Of a picture, where the cells that a box covers depend on it."""
        if not self.context.images.pad:
            return 1, 1
        if picture not in self._sizes:
            self._sizes[picture] = upright_size(self.context.train[picture].image)
        return self._sizes[picture]

    def _zeros(self, pictures: int) -> Grid:
        """The grids that a blind model is given."""
        encoder = self.context.model.encoder
        height, width = encoder.grid_shape
        device = self.context.processes.device
        return Grid(torch.zeros(pictures, height * width, encoder.vector_width, device=device), (height, width))

    def dev_score(self, model: Any) -> tuple[float, Figures]:
        """The VQA accuracy where several people answered and the exact one elsewhere, mean over the dev questions."""
        processes, recipe = self.context.processes, self.recipe
        mine = [record for record in self.context.dev if record.questions][processes.rank :: processes.count]
        found: list[float] = []
        grids: Iterable[Grid] = self._dev_grids.refined(
            model, mine, frozen=self._frozen, device=processes.device, workers=recipe.workers
        )
        if recipe.blind:
            size = recipe.batch_pictures
            grids = (model.refine(self._zeros(len(mine[i : i + size]))) for i in range(0, len(mine), size))
        with torch.inference_mode():
            at = 0
            for grid in grids:
                records = mine[at : at + len(grid)]
                at += len(grid)
                batches = QuestionBatches(
                    records,
                    self.context.vocabulary,
                    self.answers,
                    batch_pictures=len(records),
                    questions_per_picture=max(len(record.questions) for record in records),
                    max_length=recipe.max_length,
                    horizontal_flip=False,
                    seed=0,
                )
                tokens = _in_order(batches).to(processes.device)
                best = model.answerer(grid, tokens).logits.argmax(-1).tolist()
                for row, record in zip(best, records, strict=True):
                    for number, asked in zip(row, record.questions, strict=False):
                        found.append(_accuracy(self.answers[number], asked.answers))
        everything = [value for theirs in processes.gather(found) for value in theirs]
        score = sum(everything) / max(1, len(everything))
        return score, {"accuracy": score}


def _answers(recipe: Recipe, records: Sequence[Record]) -> tuple[str, ...]:
    """The answers of a run: those of the model that it starts from, or the most frequent."""
    if recipe.start_from:
        return tuple(read_header(recipe.start_from)["answers"])
    return frequent_answers(records, recipe.answers)


def _made(records: Sequence[Record]) -> Iterator[list[MadeQuestion]]:
    """The questions made of each record's captions."""
    captions = [[tokenize(caption) for caption in record.captions] for record in records]
    objects, places = asked_words(records)
    maker = QuestionMaker(objects=objects, places=places, captions=[words for some in captions for words in some])
    for some in captions:
        yield [one for words in some for one in maker.make(words)]


def _accuracy(answer: str, people: tuple[str, ...]) -> float:
    return vqa_accuracy(answer, people) if len(people) > 1 else float(answer == people[0])


def _in_order(batches: QuestionBatches) -> Tensor:
    """The questions of all pictures in their order, (B, k, T)."""
    from captioner.backends.questions import pad_questions

    return torch.from_numpy(pad_questions([[one.tokens for one in some] for some in batches.questions]))


def _take_embeddings(model: AnswerModel, vocabulary: Vocabulary, captions: Any, words: Vocabulary) -> None:
    """Begin the embeddings of words that the captioning model knows with its own, if they are as wide."""
    ours, theirs = model.answerer.question.embed.weight, getattr(captions.decoder.map_decoder, "embed", None)
    if theirs is None or theirs.weight.shape[-1] != ours.shape[-1]:
        return
    with torch.no_grad():
        scale = float(ours[1:].std() / theirs.weight.std())
        for i, word in enumerate(vocabulary.words):
            if i and word in words.ids:
                ours[i] = theirs.weight[words.ids[word]] * scale
