"""The reward, what is drawn for it, and that training on it raises it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from captioner.checkpoint import load
from captioner.data.readers import read
from captioner.data.records import Record
from captioner.metrics import evaluate
from captioner.metrics.bleu import smoothed_bleu_of
from captioner.metrics.cider import cider_of
from captioner.model.caption_model import CaptionModel, ModelConfig
from captioner.model.encoder import EncoderConfig
from captioner.model.grid import Grid
from captioner.model.lstm import LSTMConfig
from captioner.model.refiners import RefinerConfig
from captioner.model.transformer import TransformerConfig
from captioner.tokenizer.vocabulary import END, PAD, START, UNKNOWN, Vocabulary
from captioner.training.distributed import Processes
from captioner.training.images import ImageDataset, encode_images
from captioner.training.losses import reward_loss
from captioner.training.recipe import Recipe
from captioner.training.rewards import CaptionReward, breaks_off, draw_captions
from captioner.training.similar_pictures import most_similar
from captioner.training.tasks import Part, TaskContext
from captioner.training.tasks.self_critical import SelfCritical

DECODERS = {
    "lstm": LSTMConfig(width=16, embedding=16, output_hidden=16, attention_width=16, heads=2),
    "transformer": TransformerConfig(width=16, layers=1, heads=2, hidden=16),
}


def model(decoder: str, *, words: int = 9) -> CaptionModel:
    torch.manual_seed(3)
    config = ModelConfig(
        encoder=EncoderConfig(backbone="tiny", side=32),
        refiner=RefinerConfig(width=16),
        decoder=DECODERS[decoder],  # type: ignore[arg-type]
    )
    return CaptionModel(config, vocabulary_size=words).eval()


def records() -> list[Record]:
    sentences = [
        ("a dog runs in the park", "the dog is in a park"),
        ("a red ball on the grass", "the ball is red"),
        ("two people walk along", "people walk in the street"),
    ]
    return [Record(Path(f"{i}.jpg"), captions, "train", str(i)) for i, captions in enumerate(sentences)]


def test_the_reward_is_cider_with_the_end_as_a_word() -> None:
    given = records()
    words = Vocabulary.build([c.split() for r in given for c in r.captions], minimum_count=1)
    reward = CaptionReward(given, words)
    captions = ["a dog is in the park", "the red ball", "people walk"]
    with pytest.warns(UserWarning, match="3 pictures"):
        expected = evaluate(
            {i: f"{caption} stop" for i, caption in enumerate(captions)},
            {i: [f"{caption} stop" for caption in r.captions] for i, r in enumerate(given)},
        ).cider_per_picture
    ended = [[*caption.split(), "<end>"] for caption in captions]
    assert reward(ended, [0, 1, 2]) == pytest.approx(expected)


def test_bleu_adds_its_share_to_the_reward() -> None:
    given = records()
    words = Vocabulary.build([c.split() for r in given for c in r.captions], minimum_count=1)
    captions = [[*text.split(), "<end>"] for text in ("a dog runs in the park", "the red ball", "people walk")]
    places = [0, 1, 2]
    cider, four, both = (
        CaptionReward(given, words, bleu=bleu, bleu_1=bleu_1)(captions, places)
        for bleu, bleu_1 in ((0.0, 0.0), (2.0, 0.0), (2.0, 3.0))
    )
    references = [[[*c.split(), "<end>"] for c in r.captions] for r in given]
    bleu = smoothed_bleu_of(captions, references)
    assert four - cider == pytest.approx(2 * bleu[:, 3])
    assert both - four == pytest.approx(3 * bleu[:, 0])
    assert (both - cider)[0] == pytest.approx(5)
    assert bleu[1, 0] > bleu[1, 3] + 0.05


def of_dogs() -> list[Record]:
    sentences = [
        ("a black dog runs on the beach", "a dog runs in the sand"),
        ("a brown dog runs in the grass", "the dog runs on grass"),
        ("a dog jumps over a log", "the dog jumps high"),
        ("two people ride bikes", "people on bikes in the street"),
        ("a boy eats cake", "a child with a cake"),
        ("a girl swings", "a girl on a swing"),
        ("a man paints a wall", "a man with a brush"),
    ]
    return [Record(Path(f"{i}.jpg"), captions, "train", str(i)) for i, captions in enumerate(sentences)]


def test_what_fits_similar_pictures_as_well_loses_by_it() -> None:
    given = of_dogs()
    words = Vocabulary.build([c.split() for r in given for c in r.captions], minimum_count=1)
    plain, less = CaptionReward(given, words), CaptionReward(given, words, between=0.5)
    captions = [[*text.split(), "<end>"] for text in ("a dog runs", "a dog runs on the beach", "cake")]
    lost = plain(captions, [0]) - less(captions, [0])
    references = [reference for other in less.similar[0] for reference in less.references[other]]  # type: ignore[index]
    expected = cider_of(captions, [references] * 3, document_frequencies=plain.document_frequencies)
    assert lost == pytest.approx(0.5 * expected)
    assert lost[0] > lost[1] > 0


def test_objects_that_no_reference_names_lose_their_penalty() -> None:
    given = of_dogs()
    words = Vocabulary.build([c.split() for r in given for c in r.captions], minimum_count=1)
    plain, less = CaptionReward(given, words), CaptionReward(given, words, absent_objects=2.0)
    given[4] = replace(given[4], captions=("a bus driver eats", "a cat , dog and child with cake"))
    both = [CaptionReward(given, words, absent_objects=weight) for weight in (0.0, 2.0)]
    named = [text.split() for text in ("a bus and a cat with a dog", "a driver in a train")]
    lost = both[0](named, [4]) - both[1](named, [4])
    assert lost == pytest.approx([0, 2]), "what describes another name is there, too"
    captions = [
        text.split() for text in ("a puppy runs", "a dog and a cat", "a cat , a cat on a bike", "a boy with cakes")
    ]
    assert plain(captions, [0]) - less(captions, [0]) == pytest.approx([0, 2, 4, 4])
    assert plain(captions, [4]) - less(captions, [4]) == pytest.approx([2, 4, 4, 0])


def test_the_most_similar_pictures_share_rare_words() -> None:
    captions = [[caption.split() for caption in record.captions] for record in of_dogs()]
    found = most_similar(captions, 2)
    assert found.shape == (7, 2)
    assert found[0].tolist() == [1, 2]
    assert found[1].tolist() == [0, 2]
    assert all(row not in others for row, others in enumerate(found.tolist()))
    assert most_similar(captions, 20).shape == (7, 6)
    assert most_similar(captions[:1], 5).shape == (1, 0)


def test_a_picture_that_stands_in_two_sets_is_not_similar_to_itself() -> None:
    captions = [[caption.split() for caption in record.captions] for record in of_dogs()]
    found = most_similar([*captions, captions[0]], 2)
    assert found[0].tolist() == found[7].tolist() == [1, 2]


def test_the_most_similar_of_many_are_those_of_all_cosines() -> None:
    generator = np.random.default_rng(0)
    captions = [[[f"w{i}" for i in generator.zipf(1.5, 8) % 400]] for _ in range(2100)]
    found = most_similar(captions, 3)
    names = sorted({word for (caption,) in captions for word in caption})
    counts = np.array([[caption.count(name) for name in names] for (caption,) in captions])
    values = counts * np.log(2100 / (counts > 0).sum(0))
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    for row in (0, 999, 1000, 2099):
        cosines = np.delete(values @ values[row], row)
        assert np.sort(cosines)[-3:][::-1] == pytest.approx(values[found[row]] @ values[row], abs=1e-5)


def test_a_caption_that_does_not_end_loses_by_it() -> None:
    given = records()
    reward = CaptionReward(given, Vocabulary.build([c.split() for r in given for c in r.captions], minimum_count=1))
    whole = [record.captions[0].split() for record in given]
    assert (reward(whole, [0, 1, 2]) < reward([[*words, "<end>"] for words in whole], [0, 1, 2])).all()


def test_captions_of_a_picture_stand_in_a_row() -> None:
    given = records()
    reward = CaptionReward(given, Vocabulary.build([c.split() for r in given for c in r.captions], minimum_count=1))
    right = ["a", "dog", "runs", "in", "the", "park", "<end>"]
    wrong = ["two", "people", "<end>"]
    values = reward([wrong, wrong, right, wrong], [2, 0])
    assert values[2] > values[3]
    assert values[0] == values[1] > values[3]


def test_words_of_drawn_ids_keep_the_end_and_drop_the_padding() -> None:
    given = records()
    words = Vocabulary.build([c.split() for r in given for c in r.captions], minimum_count=1)
    dog = words.ids["dog"]
    drawn = torch.tensor([[dog, END, PAD, PAD], [dog, dog, dog, dog]])
    assert CaptionReward(given, words).words(drawn) == [["dog", "<end>"], ["dog"] * 4]


@pytest.mark.parametrize(
    ("caption", "broken"),
    [("a dog <end>", False), ("a dog with a <end>", True), ("a dog", True), ("<end>", True), ("", True)],
)
def test_captions_that_break_off_are_told(caption: str, broken: bool) -> None:
    assert breaks_off(caption.split()) is broken


@pytest.mark.parametrize("decoder", DECODERS)
def test_captions_are_drawn_from_the_models_distribution(decoder: str) -> None:
    small = model(decoder)
    with torch.no_grad():
        grid = small.refine(Grid(torch.randn(1, 16, small.encoder.channels), (4, 4)))
        logits = small.decoder(grid, torch.tensor([[START]])).logits
    logits[..., [PAD, START, UNKNOWN]] = float("-inf")
    p = logits[0, 0].softmax(-1)
    drawn = draw_captions(small.decoder, grid, count=20_000, max_length=1)[:, 0]
    shares = torch.bincount(drawn, minlength=len(p)) / len(drawn)
    assert (shares - p).abs().max() < 0.015  # four standard deviations at p = 1/2
    assert shares[[PAD, START, UNKNOWN]].sum() == 0


@pytest.mark.parametrize("decoder", DECODERS)
def test_drawn_captions_are_padded_after_their_end_and_cut_at_the_limit(decoder: str) -> None:
    small = model(decoder)
    grid = small.refine(Grid(torch.randn(2, 16, small.encoder.channels), (4, 4)))
    drawn = draw_captions(small.decoder, grid, count=300, max_length=4)
    assert drawn.shape == (600, 5)
    ends = (drawn == END).long()
    assert ends.sum(1).max() == 1
    assert ((ends.cumsum(1) - ends) * (drawn != PAD)).sum() == 0, "nothing follows an end"
    unended = drawn[ends.sum(1) == 0]
    assert len(unended)
    assert (unended[:, 4] == PAD).all(), "a caption that is cut off has 4 words and no end"
    greedy = draw_captions(small.decoder, grid, count=1, max_length=4, greedy=True)
    assert torch.equal(greedy, draw_captions(small.decoder, grid, count=1, max_length=4, greedy=True))


def test_the_policy_gradient_is_the_formula() -> None:
    logits = torch.randn(2, 3, 6, requires_grad=True)
    samples = torch.tensor([[4, 2, 0], [5, 5, 2]])
    advantage = torch.tensor([0.5, -2.0])
    log_p = logits.log_softmax(-1)
    first = log_p[0, 0, 4] + log_p[0, 1, 2]
    second = log_p[1, 0, 5] + log_p[1, 1, 5] + log_p[1, 2, 2]
    expected = -(0.5 * first - 2.0 * second) / 5
    torch.testing.assert_close(reward_loss(logits, samples, advantage), expected)
    torch.testing.assert_close(reward_loss(logits, samples, advantage, count=10), expected / 2)


@pytest.mark.slow
@pytest.mark.parametrize("baseline", ["samples", "greedy"])
def test_training_on_the_reward_raises_it(scene_run: Path, baseline: str) -> None:
    """On one batch, over and over: samples must come to be worth far more than they were."""
    start = load(scene_run / "last.safetensors")
    given = [record for record in read(scene_run / "scenes") if record.split == "train"]
    recipe = Recipe(
        objective="self_critical", start_from="-", batch_pictures=10, samples=10, baseline=baseline,
        captions_per_picture=1,
        cross_entropy_weight=0.01, label_smoothing=0.0, max_length=12, horizontal_flip=False,
    )  # fmt: skip
    small = start.model
    pictures = ImageDataset([record.image for record in given], small.encoder)
    task = SelfCritical(
        TaskContext(
            recipe=recipe,
            train=given,
            dev=[],
            text=[],
            vocabulary=start.vocabulary,
            model=small,
            images=pictures,
            processes=Processes(rank=0, count=1, device=torch.device("cpu")),
            precision="float32",
        )
    )
    batch = next(task.batches.epoch(0, start=0, steady=True))
    keys = [list(zip(batch.pictures, batch.views, strict=True))]
    with torch.no_grad():
        (grid,) = encode_images(small.encoder, pictures, keys, device=torch.device("cpu"))

    torch.manual_seed(0)
    learned = [*small.refiner.parameters(), *small.decoder.parameters()]
    optimizer, rewards = torch.optim.Adam(learned, lr=2e-3), []
    for _ in range(60):
        loss, figures = task.loss(small, Part(batch, batch), grid)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rewards.append(figures["reward"])
    assert sum(rewards[-10:]) > 1.5 * sum(rewards[:10]), rewards
