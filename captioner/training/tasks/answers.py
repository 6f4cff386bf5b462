"""Answers to questions: a classifier over the most frequent answers."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from captioner.checkpoint import AnswerCheckpoint, load_answering
from captioner.checkpoint import load as load_captions
from captioner.data.records import Record
from captioner.errors import DataError, OptionError
from captioner.header import read_header
from captioner.metrics.vqa import vqa_accuracy
from captioner.model.answer_model import AnswerConfig, AnswerModel
from captioner.model.answering import ANSWERERS
from captioner.model.encoder import EncoderConfig
from captioner.model.refiners import REFINERS
from captioner.tokenizer.questions import question_words
from captioner.tokenizer.vocabulary import Vocabulary
from captioner.training.batches import word_dropout
from captioner.training.dev import encode_records
from captioner.training.epoch import Figures
from captioner.training.images import Images
from captioner.training.questions import (
    QuestionBatch,
    QuestionBatches,
    frequent_answers,
    padded_questions,
)
from captioner.training.recipe import Recipe
from captioner.training.tasks import TASKS, Forward, Part, TaskContext
from captioner.training.tasks.cross_entropy import device_of


@TASKS.register("answers")
class AnswerTask:
    """Cross-entropy with the shares of people who gave each answer; the dev score is the accuracy on dev.

    A question whose answers are all rarer than the most frequent ones is left out. The encoder and the refiner may come
    from a captioning model (``encoder_from``), whose word embeddings then begin those of the questions.
    """

    uses_images = True

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
        )
        for name, records in (("train", context.train), ("dev", context.dev)):
            if not any(record.questions for record in records):
                raise DataError(f"the split '{name}' has no questions", remedy="training needs train and dev")

    @staticmethod
    def check(recipe: Recipe) -> None:
        """Raises OptionError for options of captions."""
        for name in ("decoder_from", "teacher"):
            if getattr(recipe, name):
                raise OptionError(f"{name} is of captions, and goes not with the objective 'answers'")

    @staticmethod
    def build_vocabulary(recipe: Recipe, records: Sequence[Record]) -> Vocabulary:
        """The words of the training questions. Raises DataError if no word is frequent enough."""
        questions = (question_words(asked.text) for record in records for asked in record.questions)
        return Vocabulary.build(questions, minimum_count=recipe.minimum_count)

    @staticmethod
    def first_model(
        recipe: Recipe, records: Sequence[Record], *, vocabulary: Vocabulary | None = None
    ) -> tuple[AnswerModel, Vocabulary]:
        """The model before its first step; arguments and errors as of `captioner.training.start.first_model`."""
        answers = _answers(recipe, records)
        if recipe.start_from:
            start = load_answering(recipe.start_from)
            return start.model, start.vocabulary
        if vocabulary is None:
            vocabulary = AnswerTask.build_vocabulary(recipe, records)
        source = load_captions(recipe.encoder_from) if recipe.encoder_from else None
        if source is not None and recipe.encoder_options.get("side") is not None:
            source.model.set_side(recipe.encoder_options["side"])
        refiner = dict(recipe.refiner_options)
        kind = refiner.pop("kind", "transformer_encoder")
        try:
            config = AnswerConfig(
                encoder=source.model.config.encoder
                if source is not None
                else EncoderConfig(backbone=recipe.backbone, **recipe.encoder_options),
                refiner=source.model.config.refiner if source is not None else REFINERS[kind].config(**refiner),
                answerer=ANSWERERS[recipe.answerer].config(**recipe.answerer_options),
            )
        except TypeError as error:
            raise OptionError(f"an option of the model is not known: {error}") from None
        model = AnswerModel(
            config,
            vocabulary_size=len(vocabulary),
            answers=len(answers),
            weights=None if source is not None else recipe.weights or None,
        )
        if source is not None:
            model.encoder.load_state_dict(source.model.encoder.state_dict())
            model.refiner.load_state_dict(source.model.refiner.state_dict())
            _take_embeddings(model, vocabulary, source.model, source.vocabulary)
        return model, vocabulary

    def checkpoint(self, *, model: Any, vocabulary: Vocabulary, about: dict[str, Any]) -> AnswerCheckpoint:
        """The model as it is written."""
        return AnswerCheckpoint(model=model, vocabulary=vocabulary, answers=self.answers, about=about)

    def set_trainable(self, *, frozen: bool) -> None:
        """Refiner and answerer, and the encoder after the frozen epochs, with dropout."""
        model = self.context.model
        model.encoder.train_from(None if frozen else self.recipe.train_from)
        model.refiner.requires_grad_(True)
        model.train()

    def loss(self, forward: Forward, part: Part, images: Images) -> tuple[Tensor, Figures]:
        """See `captioner.training.tasks.Task.loss`."""
        batch, step, device = part.batch, part.step, device_of(images)
        assert isinstance(batch, QuestionBatch) and isinstance(step, QuestionBatch)
        questions = padded_questions(batch).to(device)
        if self.recipe.word_dropout:
            questions = word_dropout(questions, self.recipe.word_dropout)
        answered: Any = forward(images, questions)
        log_p = answered.logits.float().flatten(0, 1).log_softmax(-1)  # (B * k, A)
        rows = [i for i, target in enumerate(batch.targets_of) for _ in target]
        numbers = [number for target in batch.targets_of for number, _ in target]
        shares = torch.tensor([share for target in batch.targets_of for _, share in target], device=device)
        smooth, count = self.recipe.label_smoothing, max(1, step.questions)
        loss = -(1 - smooth) * (log_p[rows, numbers] * shares).sum()
        real = torch.tensor([bool(target) for target in batch.targets_of], device=device)
        loss = loss - smooth * log_p[real].mean(-1).sum()
        best = log_p.argmax(-1).tolist()
        right = sum(
            max(target, key=lambda one: one[1])[0] == best[i] for i, target in enumerate(batch.targets_of) if target
        )
        return loss / count, {"accuracy": right / count}

    def dev_score(self, model: Any) -> tuple[float, Figures]:
        """The VQA accuracy where several people answered and the exact one elsewhere, mean over the dev questions."""
        processes, recipe = self.context.processes, self.recipe
        mine = [record for record in self.context.dev if record.questions][processes.rank :: processes.count]
        found: list[float] = []
        grids = encode_records(model, mine, device=processes.device, workers=recipe.workers)
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


def _accuracy(answer: str, people: tuple[str, ...]) -> float:
    return vqa_accuracy(answer, people) if len(people) > 1 else float(answer == people[0])


def _in_order(batches: QuestionBatches) -> Tensor:
    """The questions of all pictures in their order, (B, k, T)."""
    from captioner.backends.questions import pad_questions

    return torch.from_numpy(pad_questions(batches.tokens))


def _take_embeddings(model: AnswerModel, vocabulary: Vocabulary, captions: Any, words: Vocabulary) -> None:
    """Begin the embeddings of words that the captioning model knows with its own, if they are as wide."""
    ours, theirs = model.answerer.question.embed.weight, getattr(captions.decoder, "embed", None)
    if theirs is None or theirs.weight.shape[-1] != ours.shape[-1]:
        return
    with torch.no_grad():
        scale = float(ours[1:].std() / theirs.weight.std())
        for i, word in enumerate(vocabulary.words):
            if i and word in words.ids:
                ours[i] = theirs.weight[words.ids[word]] * scale
