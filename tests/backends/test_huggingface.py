"""Foreign models: our decoding makes what their own generation makes, and their maps lie where they belong."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("transformers", reason="needs transformers, which is not installed")

from captioner.backends.huggingface.inputs import fitting_of, normalise
from captioner.foreign import describe
from captioner.options import Greedy
from captioner.pipeline import Captioner
from captioner.tokenizer.vocabulary import END, SPECIAL, START
from tests.foreign_models import BUILDERS, write

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
    elif kind in ("Llava", "Qwen2VL", "Qwen25VL"):
        given["input_ids"] = torch.tensor([[*family.prompt, family.start]] * len(pixels))
    if kind in ("Qwen2VL", "Qwen25VL"):  # its processor cuts pictures into patches
        given |= dict(family.parts.image_processor(list(pixels), do_resize=False, return_tensors="pt"))
        given["mm_token_type_ids"] = (given["input_ids"] == family.picture).int()
    vocabulary = model.vocabulary
    emitted = {*vocabulary.foreign[len(SPECIAL) :], vocabulary.foreign[END]}  # type: ignore[attr-defined]
    forced = [family.start] if family.prefix else []
    never = [i for i in range(family.size) if i not in (*emitted, *forced)]
    words = WORDS + len(forced)
    found = model.model.generate(
        **given, max_new_tokens=words, do_sample=False, num_beams=1, min_new_tokens=1, suppress_tokens=never
    )
    ours = {foreign: i for i, foreign in enumerate(vocabulary.foreign) if i >= len(SPECIAL)}  # type: ignore[attr-defined]
    rows = []
    for row in found.tolist():
        after = row[-words:] if len(row) >= words else row
        while after and after[0] not in ours:  # the start, or the prompt
            after = after[1:]
        ends = [i for i, piece in enumerate(after) if piece not in ours]
        rows.append([ours[piece] for piece in after[: ends[0] if ends else None]])
    return rows


@pytest.fixture(params=BUILDERS)
def any_foreign(request: pytest.FixtureRequest, foreign: Opened) -> Captioner:
    return foreign(request.param)


@pytest.mark.parametrize("name", BUILDERS)
def test_greedy_decoding_equals_the_models_own_generation(name: str, foreign: Opened) -> None:
    from captioner.decoding import decode

    model = foreign(name)
    pixels, geometries = inputs_of(model)
    encoded = model.backend.encode(pixels, geometries)
    ours = decode(model.backend, encoded, Greedy(max_length=WORDS))
    assert [list(some[0].tokens) for some in ours] == generated(model, pixels)


@pytest.mark.parametrize("name", ["vit-gpt2", "vit-gpt2 wide", "blip", "git", "florence-2", "llava"])
def test_inputs_equal_those_of_the_models_own_image_processor(name: str, foreign: Opened) -> None:
    model = foreign(name)
    processor = model.backend.family.parts.image_processor  # type: ignore[attr-defined]
    for picture in pictures():
        prepared = model.prepare(picture)
        theirs = processor(Image.fromarray(picture), return_tensors="pt")["pixel_values"]
        ours = normalise(prepared.pixels[None], processor, torch.device("cpu"), torch.float32)
        assert ours.shape == theirs.shape
        # A crop that is off by a pixel differs by 0.2 and more.
        assert float((ours - theirs).abs().mean()) < 0.06


def test_steps_read_what_scoring_reads(any_foreign: Captioner) -> None:
    backend = any_foreign.backend
    encoded = backend.encode(*inputs_of(any_foreign))
    caption = any_foreign.vocabulary.encode(["a", "dog", "in", "the", "park"])[1:-1]
    pieces = [piece for word in caption for piece in any_foreign.vocabulary.pieces(word)]  # type: ignore[attr-defined]
    scored = backend.score(encoded, [[pieces]] * len(encoded))
    state = backend.begin(encoded)
    for i, piece in enumerate([START, *pieces]):
        step = backend.step(np.full(len(encoded), piece), state)
        state = step.state
        for image, (one,) in enumerate(scored):
            np.testing.assert_allclose(step.maps[image], one.maps[i], atol=1e-5)
            assert step.off_grid[image] == pytest.approx(one.off_grid[i], abs=1e-5)
            total = step.maps[image].sum() + step.off_grid[image]
            assert total == pytest.approx(1, abs=1e-5)
            if i < len(pieces) and not any_foreign.vocabulary.tokenizer.unk_token:  # type: ignore[attr-defined]
                assert step.log_p[image, pieces[i]] == pytest.approx(one.log_p[i], abs=1e-4)


def test_a_words_log_probability_is_the_sum_of_its_pieces_and_its_map_their_mean(foreign: Opened) -> None:
    model = foreign("vit-gpt2")
    encoded = model.backend.encode(*inputs_of(model))
    words = model.vocabulary.encode(["a", "frisbees", "cat"])[1:-1]
    pieces = [model.vocabulary.pieces(word) for word in words]  # type: ignore[attr-defined]
    assert len(pieces[1]) > 1
    (whole,) = model.backend.score(encoded.select(np.array([0])), [[words]])[0]  # type: ignore[attr-defined]
    (apart,) = model.backend.score(encoded.select(np.array([0])), [[sum(pieces, ())]])[0]  # type: ignore[attr-defined]
    inside = slice(len(pieces[0]), len(pieces[0]) + len(pieces[1]))
    assert whole.log_p[1] == pytest.approx(apart.log_p[inside].sum(), abs=1e-5)
    np.testing.assert_allclose(whole.maps[1], apart.maps[inside].mean(0), atol=1e-6)
    assert whole.maps[1].sum() + whole.off_grid[1] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", ["vit-gpt2", "blip", "git", "llava", "florence-2", "qwen2-vl", "qwen2.5-vl"])
def test_maps_are_the_attention_of_the_models_own_forward_pass(name: str, foreign: Opened) -> None:
    """Without a cache, in one pass over picture and words, and with the layer and head that were chosen."""
    from captioner.backends.huggingface import open_foreign

    opened = foreign(name)
    folder = opened.model.config.name_or_path
    backend = open_foreign(folder, device="cpu", map_heads=[(1, 0)])
    family, vocabulary = backend.family, backend.vocabulary
    pixels, geometries = inputs_of(opened)
    caption = vocabulary.encode(["a", "dog", "in", "the", "park"])[1:-1]
    pieces = [piece for word in caption for piece in vocabulary.pieces(word)]
    (ours,) = backend.score(backend.encode(pixels[:1], geometries[:1]), [[pieces]])[0]
    values = normalise(pixels[:1], family.parts.image_processor, torch.device("cpu"), torch.float32)
    read = torch.tensor([[family.start, *(vocabulary.foreign[piece] for piece in pieces)]])
    cells = family.grid[0] * family.grid[1]
    given: dict[str, Any] = {"pixel_values": values, "output_attentions": True, "return_dict": True}
    with torch.no_grad():
        if name == "vit-gpt2":
            found = family.model(decoder_input_ids=read, **given).cross_attentions[1][0, 0, :, 1:]
        elif name == "blip":
            outputs = family.model.vision_model(values).last_hidden_state
            found = family.model.text_decoder(
                input_ids=read, encoder_hidden_states=outputs, output_attentions=True, use_cache=False
            ).cross_attentions[1][0, 0, :, 1:]
        elif name == "git":
            found = family.model(input_ids=read, **given).attentions[1][0, 0, -read.shape[1] :, 1 : 1 + cells]
        elif name in ("llava", "qwen2-vl", "qwen2.5-vl"):
            prompt = torch.tensor([family.prompt])
            if name != "llava":  # its processor cuts pictures into patches
                given |= dict(family.parts.image_processor(list(pixels[:1]), do_resize=False, return_tensors="pt"))
                given["mm_token_type_ids"] = (torch.cat((prompt, read), 1) == family.picture).int()
            first = family.prompt.index(family.picture)
            found = family.model(input_ids=torch.cat((prompt, read), 1), **given).attentions[1]
            found = found[0, 0, -read.shape[1] :, first : first + cells]
        else:
            prompt = torch.tensor([[family.picture] * (1 + cells) + family.prompt])
            found = family.model(input_ids=prompt, decoder_input_ids=read, **given).cross_attentions[1]
            found = found[0, 0, :, 1 : 1 + cells]
    mask = geometries[0].mask
    np.testing.assert_allclose(ours.maps, found.reshape(-1, *family.grid).numpy() * mask, atol=1e-5)


SHAPES = {"vit-gpt2": (90, 60), "vit-gpt2 wide": (90, 60), "swin-gpt2": (60, 90), "git": (160, 64), "llava": (64, 160)}


@pytest.mark.parametrize("name", SHAPES)
def test_a_patch_that_draws_all_attention_glows_where_it_lies_in_the_picture(name: str, foreign: Opened) -> None:
    """One bright square in the original picture: squashed, cropped, padded, on a grid that is not square.

    The keys of attention are replaced by the brightness of the cells, which the encoder would have to learn.
    """
    model = foreign(name)
    backend = model.backend
    width, height = SHAPES[name]
    for across, down in ((0.5, 0.5), (0.35, 0.4), (0.6, 0.7)):
        picture = np.zeros((height, width, 3), dtype=np.uint8)  # its cells have no weight
        x, y, reach = int(across * width), int(down * height), 6
        picture[y - reach : y + reach, x - reach : x + reach] = 255
        prepared = model.prepare(picture)
        rows, columns = backend.grid_shape
        left, top, right, bottom = prepared.geometry.content_box
        inside = np.zeros(prepared.pixels.shape[:2])
        inside[top:bottom, left:right] = prepared.pixels.mean(-1)[top:bottom, left:right]
        down_pixels, across_pixels = inside.shape[0] // rows, inside.shape[1] // columns
        brightness = inside.reshape(rows, down_pixels, columns, across_pixels).mean((1, 3)) * prepared.geometry.mask
        family = backend.family  # type: ignore[attr-defined]
        keys = family.first_cell + rows * columns + 3
        weights = torch.full((1, 2, 1, keys), 1e-6)
        weights[..., family.first_cell : family.first_cell + rows * columns] = torch.tensor(brightness.ravel()).float()
        weights = weights / weights.sum(-1, keepdim=True)
        state = backend.encode(prepared.pixels[None], [prepared.geometry])
        maps, off_grid = backend._maps([weights, weights], state)  # type: ignore[attr-defined]
        map_ = maps[0, 0].numpy()
        boxes = np.array([[prepared.geometry.cell_box(i, j) for j in range(columns)] for i in range(rows)])
        centre = (map_[..., None] * (boxes[..., :2] + boxes[..., 2:]) / 2).sum((0, 1)) / map_.sum()
        cell = boxes[..., 2:].max((0, 1)) - boxes[..., :2].min((0, 1))
        cell = cell / (columns, rows)
        assert np.isfinite(centre).all()
        assert abs(centre - (x, y)).max() <= 0.5 * cell.max() + 1, (name, centre, (x, y), cell)
        assert float(off_grid[0, 0]) == pytest.approx(0, abs=1e-3)
        assert prepared.geometry.cell_of(x, y) == tuple(np.argwhere(map_ >= map_.max() - 0.2)[0]) or map_.max() < 0.6


def opened(folder: Path) -> Captioner:
    from captioner.pipeline import load

    return load(folder, device="cpu")


def test_a_template_in_the_tokenisers_configuration_is_the_prompt(tmp_path: Path) -> None:
    write("llava", tmp_path)
    plain = opened(tmp_path).backend.family  # type: ignore[attr-defined]
    file = tmp_path / "tokenizer_config.json"
    config = json.loads(file.read_text())
    # A conversation's content is a list of parts, or in templates for text alone one text.
    parts = "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}"
    for content in parts + "{% endif %}{% endfor %}", "{{ message['content'] }}", "{{ '' + message['content'] }}":
        template = "{% for message in messages %}<|end|>ask " + content + " the dog{% endfor %}"
        file.write_text(json.dumps(config | {"chat_template": template}))
        family = opened(tmp_path).backend.family  # type: ignore[attr-defined]
        read = family.parts.tokenizer.decode([*family.prompt, family.start])
        assert read.startswith("<|end|>ask<image>") or read.startswith("<|end|>ask <image>"), read
        assert read.endswith("one sentence. the dog")
        assert read.count("<|end|>") == 1 and family.prompt != plain.prompt  # the template's own start, and no second


def test_the_last_piece_of_a_prompt_may_be_emitted_again(foreign: Opened) -> None:
    model = foreign("llava")
    family, vocabulary = model.backend.family, model.vocabulary  # type: ignore[attr-defined]
    piece = family.parts.tokenizer.convert_ids_to_tokens(family.start)
    assert vocabulary.words.index(piece) >= len(SPECIAL)
    other = foreign("git")
    start = other.backend.family.start  # type: ignore[attr-defined]
    assert start not in other.vocabulary.foreign[len(SPECIAL) :]  # type: ignore[attr-defined]


def test_what_the_models_generation_suppresses_is_not_emitted(tmp_path: Path) -> None:
    write("vit-gpt2", tmp_path)
    caption = opened(tmp_path).caption(pictures()[0], options=Greedy(max_length=WORDS))
    vocabulary: Any = opened(tmp_path).vocabulary
    words = vocabulary.encode([word.text for word in caption.words])[1:-1]
    pieces = sorted({vocabulary.foreign[piece] for word in words for piece in vocabulary.pieces(word)})
    others = [piece for piece in vocabulary.foreign[len(SPECIAL) :] if piece not in pieces][:2]
    file = tmp_path / "generation_config.json"
    suppressed = {"suppress_tokens": pieces[:1], "bad_words_ids": [[piece] for piece in pieces[1:]] + [others]}
    file.write_text(json.dumps(json.loads(file.read_text()) | suppressed))
    kept = opened(tmp_path).vocabulary.foreign[len(SPECIAL) :]  # type: ignore[attr-defined]
    assert not set(pieces) & set(kept) and set(others) <= set(kept)


def test_numbers_of_a_generation_configuration_are_whole(tmp_path: Path) -> None:
    write("vit-gpt2", tmp_path)
    file = tmp_path / "generation_config.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps(settings | {"num_beams": 2.0, "max_length": 20.5, "length_penalty": 1.5}))
    decoding = describe(tmp_path)["about"]["decoding"]
    assert (decoding["width"], decoding["max_length"], decoding["length_penalty"]) == (2, 30, 1.5)
    assert all(type(decoding[name]) is int for name in ("width", "max_length", "min_length"))
    file.write_text(json.dumps(settings | {"num_beams": 1e308, "max_new_tokens": 10**30}))
    decoding = describe(tmp_path)["about"]["decoding"]
    assert (decoding["width"], decoding["max_length"]) == (100, 200)


def test_a_template_changes_the_digest(tmp_path: Path) -> None:
    write("vit-gpt2", tmp_path)
    before = describe(tmp_path)["digest"]
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    assert describe(tmp_path)["digest"] != before


def test_donuts_padding_is_black_and_llavas_the_mean() -> None:
    import transformers

    donut = transformers.DonutImageProcessor(size={"height": 24, "width": 24}, do_align_long_axis=False)
    llava = transformers.LlavaImageProcessor(crop_size={"height": 24, "width": 24}, do_pad=True)
    for processor, colour in ((donut, (0, 0, 0)), (llava, (122, 116, 104))):
        assert fitting_of(processor, "model").fill == colour
    picture = Image.new("RGB", (48, 24), "white")
    fitting = fitting_of(donut, "model")
    ours = fitting.fit(picture, fitting.geometry(picture.size, (3, 3)))
    theirs = np.asarray(donut(picture, return_tensors="np", do_normalize=False, do_rescale=False)["pixel_values"][0])
    theirs = theirs if theirs.shape[-1] == 3 else theirs.transpose(1, 2, 0)
    assert (ours[0, 0] == theirs[0, 0]).all() and (ours[12, 12] == theirs[12, 12]).all()


@pytest.mark.parametrize(("resample", "number"), [(0, 0), (2, 2), (None, 3)])
def test_the_nearest_pixel_is_a_filter_too(resample: int | None, number: int) -> None:
    import transformers

    processor = transformers.CLIPImageProcessor(size={"height": 8, "width": 8}, do_center_crop=False)
    processor.resample = resample
    assert fitting_of(processor, "model").resample == number
