"""Training of the decoder alone, as a language model, on captions without pictures."""

from torch import Tensor

from captioner.errors import DataError, OptionError
from captioner.model.caption_model import CaptionModel
from captioner.training.batches import TextBatches, word_dropout
from captioner.training.dev import perplexity
from captioner.training.epoch import Figures
from captioner.training.images import Images
from captioner.training.losses import caption_loss
from captioner.training.recipe import OF_ANSWERS, OF_REWARD, Recipe, refuse_options
from captioner.training.tasks.base import TASKS, Forward, Part, TaskContext

_OF_PICTURES = (
    "rehearsal",
    "dev_beam",
    "scheduled_sampling",
    "map_supervision",
    "map_regularisation",
    "off_grid_supervision",
    "map_delay",
    "crop",
    "colour_jitter",
)


@TASKS.register("language_model")
class LanguageModel:
    """Cross-entropy on captions that are read with a blank grid; the dev score is the perplexity."""

    uses_images, uses_captions, uses_text = False, True, True

    def __init__(self, context: TaskContext) -> None:
        self.context, self.recipe = context, context.recipe
        if not context.text:
            raise DataError("language_model training needs captions without pictures", remedy="give --text")
        text = [caption for caption in context.text if any(map(str.isalnum, caption))]
        if not text:
            raise DataError("the captions of --text contain no words", remedy="give text with words")
        recipe = self.recipe
        self.batches = TextBatches(
            text,
            context.vocabulary,
            batch_captions=recipe.batch_pictures * recipe.captions_per_picture,
            max_length=recipe.max_length,
            seed=recipe.seed,
        )

    @staticmethod
    def check(recipe: Recipe) -> None:
        """No teacher, and no options of pictures and maps. Raises OptionError."""
        if recipe.teacher:
            raise OptionError(
                "a teacher needs the pictures, and language_model training reads none", remedy="leave teacher out"
            )
        refuse_options(recipe, *_OF_PICTURES, *OF_ANSWERS, *OF_REWARD)

    def set_trainable(self, *, frozen: bool) -> None:
        """The decoder alone, with dropout."""
        model = self.context.model
        model.encoder.train_from(None)
        model.train()
        for refiner in model.refiners():
            refiner.requires_grad_(False)
        if model.fine_maps is not None:
            model.fine_maps.requires_grad_(False)

    def loss(self, forward: Forward, part: Part, images: Images) -> tuple[Tensor, Figures]:
        """See `captioner.training.tasks.Task.loss`."""
        tokens = part.batch.tokens
        logits = forward(None, word_dropout(tokens[:, :-1], self.recipe.word_dropout)).logits
        targets = tokens[:, 1:].to(logits.device)
        smoothing, count = self.recipe.label_smoothing, part.step.known_targets
        return caption_loss(logits, targets, label_smoothing=smoothing, count=count), {}

    def dev_score(self, model: CaptionModel) -> tuple[float, Figures]:
        """The negative perplexity of the dev captions."""
        captions = [caption for record in self.context.dev for caption in record.captions]
        found = perplexity(model, self.context.vocabulary, captions, max_length=self.recipe.max_length)
        return -found, {"perplexity": found}
