"""Foreign models: our decoding makes what their own generation makes, and their maps lie where they belong."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from captioner.backends.huggingface.inputs import normalise
from captioner.options import Greedy
from captioner.pipeline import Captioner
from captioner.tokenizer.vocabulary import END, SPECIAL
from tests.foreign_models import BUILDERS

Opened = Callable[[str], Captioner]

WORDS = 6


def pictures() -> list[np.ndarray]:
    """Noise in several shapes, smooth enough for two ways of resizing to agree."""
    generator = np.random.default_rng(3)
    return [
        np.asarray(Image.fromarray(generator.integers(0, 256, (4, 5, 3), dtype=np.uint8)).resize(size, 3))
        for size in ((60, 40), (33, 70), (64, 64))
    ]


def inputs_of(model: Captioner) -> tuple[np.ndarray, list[Any]]:
    ready = [model.prepare(picture) for picture in pictures()]
    return np.stack([one.pixels for one in ready]), [one.geometry for one in ready]


def generated(model: Captioner, pixels: np.ndarray) -> list[list[int]]:
    """What the model's own generation makes of inputs (B, height, width, 3), in our ids, without the end."""
    family = model.backend.family  # type: ignore[attr-defined]
    kind = type(family).__name__
    values = normalise(pixels, family.parts.image_processor, torch.device("cpu"), torch.float32)
    given: dict[str, Any] = {"pixel_values": values}
    if kind == "Git":
        given["input_ids"] = torch.full((len(pixels), 1), family.start)
    elif kind == "Florence2":
        image = [family.picture] * (1 + family.grid[0] * family.grid[1])
        given["input_ids"] = torch.tensor([[*image, *family.prompt]] * len(pixels))
    elif kind in ("Llava", "Qwen2VL"):
        given["input_ids"] = torch.tensor([[*family.prompt, family.start]] * len(pixels))
    if kind == "Qwen2VL":  # its processor cuts pictures into patches
        given |= dict(family.parts.image_processor(list(pixels), do_resize=False, return_tensors="pt"))
        given["mm_token_type_ids"] = (given["input_ids"] == family.picture).int()
    vocabulary = model.vocabulary
    emitted = {*vocabulary.foreign[len(SPECIAL) :], vocabulary.foreign[END]}  # type: ignore[attr-defined]
    never = [i for i in range(family.size) if i not in emitted]
    found = model.model.generate(
        **given, max_new_tokens=WORDS, do_sample=False, num_beams=1, min_new_tokens=1, suppress_tokens=never
    )
    ours = {foreign: i for i, foreign in enumerate(vocabulary.foreign) if i >= len(SPECIAL)}  # type: ignore[attr-defined]
    rows = []
    for row in found.tolist():
        after = row[-WORDS:] if len(row) >= WORDS else row
        while after and after[0] not in ours:  # the start, or the prompt
            after = after[1:]
        ends = [i for i, piece in enumerate(after) if piece not in ours]
        rows.append([ours[piece] for piece in after[: ends[0] if ends else None]])
    return rows


@pytest.mark.parametrize("name", BUILDERS)
def test_greedy_decoding_equals_the_models_own_generation(name: str, foreign: Opened) -> None:
    from captioner.decoding import decode

    model = foreign(name)
    pixels, geometries = inputs_of(model)
    encoded = model.backend.encode(pixels, geometries)
    ours = decode(model.backend, encoded, Greedy(max_length=WORDS))
    assert [list(some[0].tokens) for some in ours] == generated(model, pixels)
