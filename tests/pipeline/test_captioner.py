"""Pictures to captions, with whatever model: one, many, broken ones, and what a caption says of itself."""

import copy
import io
import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

import captioner
from captioner import Beam, Captioner, Greedy, Sampling, checkpoint
from captioner.backends.torch import TorchBackend
from captioner.errors import CheckpointError, ImageError, OptionError
from captioner.pipeline import load
from captioner.prepared import KeptPicture
from captioner.results import Failure
from captioner.shipped import find_model, shipped_models

MakePicture = Callable[..., Path]


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Captioner:
    return load(tiny_model)


def test_a_caption_is_its_words_and_every_word_has_a_map(either_model: Path, make_picture: MakePicture) -> None:
    path = make_picture(size=(50, 30))
    caption = load(either_model).caption(path)
    assert 3 <= len(caption.words) <= 6  # what the model's file says of decoding
    assert caption.text.replace("'s", " 's").split() == [word.text for word in caption.words]
    assert caption.image == str(path)
    assert caption.model == either_model.stem
    assert caption.geometry.size == (50, 30)
    assert caption.maps.shape == (len(caption.words), 8, 8)
    for word in caption.words:
        assert 0 < word.probability < 1
        assert word.map.dtype == np.float32
        assert word.map.min() >= 0
        assert word.map.sum() == pytest.approx(1, abs=1e-5)
    assert (np.asarray(caption.picture) == np.asarray(Image.open(path))).all()


def test_lists_take_kept_pictures_beside_others(
    model: Captioner, tiny_model: Path, make_picture: MakePicture, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [make_picture(f"{i}.png", seed=i) for i in range(4)]
    paths[3].write_bytes(b"no picture")
    expected = [model.caption(path).as_dict() for path in paths[:3]]
    kept = [model.encode(path) for path in paths[:2]]
    other = load(tiny_model).encode(paths[0])
    encoded: list[int] = []
    encode = model.backend.encode
    monkeypatch.setattr(model.backend, "encode", lambda *given: encoded.append(len(given[0])) or encode(*given))
    assert [one.as_dict() for one in model.caption([*kept, kept[0]])] == [*expected[:2], expected[0]]
    assert encoded == []
    found = model.caption([kept[1], paths[2], other, paths[3], kept[0]], batch=4, explain="attention")
    assert [one.as_dict() for one in (found[0], found[1], found[4])] == [expected[1], expected[2], expected[0]]
    assert isinstance(found[2], Failure) and "another model" in found[2].error and found[2].image == str(paths[0])
    assert isinstance(found[3], Failure) and found[3].image == str(paths[3])
    assert encoded == [1]


def test_one_gives_a_caption_and_a_list_a_list(model: Captioner, make_picture: MakePicture) -> None:
    paths = [make_picture(f"{i}.png", seed=i) for i in range(5)]
    captions = model.caption(paths, batch=2)
    assert [caption.image for caption in captions] == [str(path) for path in paths]
    assert [caption.text for caption in captions] == [model.caption(path).text for path in paths]
    assert model.caption([]) == []
    np.testing.assert_allclose(captions[3].maps, model.caption(paths[3]).maps, atol=1e-5)


def test_however_a_picture_is_given_its_caption_is_the_same(model: Captioner, make_picture: MakePicture) -> None:
    path = make_picture()
    expected = model.caption(path)
    with Image.open(path) as image:
        for picture in (str(path), path.read_bytes(), image, np.asarray(image)):
            caption = model.caption(picture)
            assert (caption.text, caption.score) == (expected.text, pytest.approx(expected.score))
            assert caption.image == (picture if isinstance(picture, str) else "")
            assert caption.picture.size == (40, 30)


def test_padded_pictures_are_never_looked_at_beside_them(
    make_checkpoint: Callable[..., checkpoint.Checkpoint], make_picture: MakePicture
) -> None:
    for decoder in ("lstm", "transformer"):
        padded = Captioner(TorchBackend(make_checkpoint(decoder, pad=True)))
        wide, square = padded.caption([make_picture(size=(80, 30)), make_picture("b.png", size=(30, 30))])
        assert wide.geometry.mask.sum() == 24  # 80 x 30 of 80 x 80: three of eight rows
        assert (wide.maps[:, ~wide.geometry.mask] == 0).all()
        assert wide.maps.sum((1, 2)) == pytest.approx(1, abs=1e-5)
        assert square.geometry.mask.all()


def test_of_a_list_a_broken_picture_is_a_failure_in_its_place(model: Captioner, make_picture: MakePicture) -> None:
    paths = [make_picture(f"{i}.png", seed=i) for i in range(4)]
    paths[1].write_text("no picture")
    with pytest.raises(ImageError, match=r"1.png"):
        model.caption(paths[1])
    for outcomes in (model.caption(paths), list(model.caption_all(paths, batch=2))):
        assert [outcome.image for outcome in outcomes] == [str(path) for path in paths]
        assert [isinstance(outcome, Failure) for outcome in outcomes] == [False, True, False, False]
        assert str(paths[1]) in str(outcomes[1])


def test_pictures_are_taken_as_they_come(model: Captioner, make_picture: MakePicture) -> None:
    """A million pictures must not be opened before the first caption is there."""
    path, taken = make_picture(), []

    def pictures() -> Any:
        for i in range(100):
            taken.append(i)
            yield path

    captions = model.caption_all(pictures(), batch=2)
    next(captions)
    assert len(taken) <= 6
    captions.close()


def test_the_limit_of_pixels_is_passed_on(model: Captioner, make_picture: MakePicture) -> None:
    path = make_picture(size=(40, 30))
    with pytest.raises(ImageError, match="limit of 1,199 pixels"):
        model.caption(path, max_pixels=1199)
    assert model.caption(path, max_pixels=1200).text


def test_exif_is_in_the_geometry(model: Captioner, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20)).save(tmp_path / "turned.png", exif=exif)
    caption = model.caption(tmp_path / "turned.png")
    assert caption.geometry.size == caption.picture.size == (20, 30)
    assert caption.geometry.orientation == 6


def test_options_are_followed(model: Captioner, make_picture: MakePicture) -> None:
    path = make_picture()
    assert len(model.caption(path, options=Greedy(max_length=2, min_length=2)).words) == 2
    several = model.caption(path, options=Beam(width=4, n_best=4, max_length=4))
    assert len(several.alternatives) == 3
    scores = [several.score, *(other.score for other in several.alternatives)]
    assert scores == sorted(scores, reverse=True)
    assert len({several.text, *(other.text for other in several.alternatives)}) == 4
    first, again = (model.caption(path, options=Sampling(seed=3, max_length=6)).text for _ in range(2))
    assert first == again
    assert len({model.caption(path, options=Sampling(seed=s, max_length=6)).text for s in range(6)}) > 1


def test_changes_to_the_models_own_options(model: Captioner) -> None:
    assert model.options() == Beam(width=2, max_length=6, min_length=3)
    assert model.options(max_length=9) == Beam(width=2, max_length=9, min_length=3)
    assert model.options(n_best=5).width == 5  # no width was asked for: as wide as it takes
    with pytest.raises(OptionError, match=r"5.*3.*--beam"):
        model.options(n_best=5, width=3)
    for width in (0, -2):
        with pytest.raises(OptionError, match=f"beam width.*not {width}"):
            model.options(width=width)


def test_a_batch_of_none_is_refused(model: Captioner, make_picture: MakePicture) -> None:
    with pytest.raises(OptionError, match="at least 1, not 0"):
        model.caption([make_picture()], batch=0)


def test_a_caption_as_json_holds_all_of_it(model: Captioner, make_picture: MakePicture) -> None:
    caption = model.caption(make_picture(size=(50, 30)), options=Beam(width=2, n_best=2, max_length=4))
    again = json.loads(json.dumps(caption.as_dict()))
    assert again["caption"] == caption.text == str(caption)
    assert again["grid"] == [8, 8]
    assert again["size"] == [50, 30]
    assert again["image"] == caption.image
    assert again["model"] == "tiny"
    assert again["score"] == pytest.approx(caption.score, abs=1e-6)
    assert [word["word"] for word in again["words"]] == [word.text for word in caption.words]
    np.testing.assert_allclose([word["map"] for word in again["words"]], caption.maps, rtol=1e-4)
    (other,), (said,) = caption.alternatives, again["alternatives"]
    assert said["caption"] == other.text
    assert said["score"] == pytest.approx(other.score, abs=1e-6)
    assert said["finished"] == other.finished
    assert [word["word"] for word in said["words"]] == [word.text for word in other.words]
    np.testing.assert_allclose([word["map"] for word in said["words"]], [w.map for w in other.words], rtol=1e-4)


def test_models_are_found_by_name_and_by_path(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_model(tiny_model) == find_model(str(tiny_model)) == tiny_model
    monkeypatch.setattr("captioner.shipped.shipped_models", lambda: {"default": tiny_model, "best": tiny_model})
    assert find_model("best") == tiny_model
    assert load().name == "tiny"
    with pytest.raises(CheckpointError, match=r"'bset'.*default, best"):
        find_model("bset")
    with pytest.raises(CheckpointError, match="nowhere/x: no such model file"):
        find_model("nowhere/x")
    with pytest.raises(CheckpointError, match=r"x.safetensors: no such model file"):
        find_model("x.safetensors")
    for name in "~nobody-of-this-name/x.safetensors", f"{'x' * 5000}.safetensors", f"{'x' * 5000}/y":
        with pytest.raises(CheckpointError, match="no such model file"):
            find_model(name)
    with pytest.raises(CheckpointError, match="no model is called"):
        find_model("x" * 5000)
    monkeypatch.setattr("captioner.shipped.shipped_answering_models", lambda: {"answers": tiny_model})
    assert find_model("answers", answering=None) == find_model("best", answering=None) == tiny_model
    with pytest.raises(CheckpointError, match=r"'bset'; shipped: default, best, answers"):
        find_model("bset", answering=None)


def test_shipped_models_are_listed_default_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "captioner").mkdir()
    (tmp_path / "checkpoints").mkdir()
    for name in ("best", "transformer", "small"):
        (tmp_path / "checkpoints" / f"{name}.safetensors").touch()
    (tmp_path / "checkpoints" / "transformer.md").touch()
    monkeypatch.setattr("captioner.shipped.__file__", str(tmp_path / "captioner" / "shipped.py"))
    assert list(shipped_models()) == ["transformer", "best", "small"]
    assert find_model("default") == find_model("transformer") == shipped_models()["transformer"]


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "cpu:banana"])
def test_a_device_that_is_not_there(tiny_model: Path, device: str) -> None:
    with pytest.raises(OptionError, match=f"device '{device}'"):
        load(tiny_model, device=device)


def test_the_public_names() -> None:
    for name in captioner.__all__:
        assert getattr(captioner, name) is not None
    assert set(captioner.__all__) <= set(dir(captioner))
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        captioner.lod  # noqa: B018


@pytest.mark.parametrize(
    "program", ["import captioner", "from captioner.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass"]
)
def test_importing_and_help_are_quick(program: str) -> None:
    report = "\nimport sys; print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
    run = subprocess.run([sys.executable, "-c", program + report], capture_output=True, text=True, check=True)
    modules = set(run.stderr.split())
    assert "captioner" in modules
    assert modules.isdisjoint({"torch", "torchvision", "matplotlib", "pycocotools", "nltk", "scipy"})


def test_captions_compare_hash_and_travel(model: Captioner) -> None:
    picture = Image.new("RGB", (60, 40), "gray")
    first, second = model.caption(picture), model.caption(picture)
    other = model.caption(Image.effect_noise((60, 40), 90).convert("RGB"))
    assert first == first and first == second and first in [second]
    assert first != other and first != "a text" and first.words[0] != 3
    assert len({first, second, other}) == 2 and len({first.words[0], second.words[0]}) == 1
    assert pickle.loads(pickle.dumps(first)) == first and copy.deepcopy(first) == first
    changed = replace(first.words[0], map=first.words[0].map * 0.5)
    assert changed != first.words[0]


def test_pixels_in_memory_are_kept_as_they_were(model: Captioner) -> None:
    """An iterator may refill one buffer, and what was given may change later."""
    frames = [np.random.default_rng(seed).integers(0, 256, (30, 40, 3), dtype=np.uint8) for seed in range(5)]
    expected = [model.caption(frame).text for frame in frames]
    assert len(set(expected)) > 1
    buffer = np.zeros_like(frames[0])

    def refilled() -> Iterator[np.ndarray]:
        for frame in frames:
            buffer[:] = frame
            yield buffer

    image = Image.fromarray(frames[0].copy())

    def repainted() -> Iterator[Image.Image]:
        for frame in frames:
            image.paste(Image.fromarray(frame))
            yield image

    def bytes_of() -> Iterator[bytearray]:
        store = bytearray()
        for frame in frames:
            file = io.BytesIO()
            Image.fromarray(frame).save(file, "PNG")
            store[:] = file.getvalue()
            yield store

    for stream in (refilled(), repainted(), bytes_of()):
        assert [caption.text for caption in model.caption_all(stream, batch=2)] == expected
    for picture, change in ((buffer, lambda: buffer.fill(0)), (image, lambda: image.paste((0, 0, 0), (0, 0, 40, 30)))):
        caption = model.caption(picture)
        before = np.asarray(caption.picture).copy()
        change()
        assert (np.asarray(caption.picture) == before).all()


def test_an_animation_is_captioned_frame_by_frame(model: Captioner, tmp_path: Path) -> None:
    frames = [Image.fromarray(np.random.default_rng(s).integers(0, 256, (30, 40), dtype=np.uint8)) for s in range(4)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with Image.open(tmp_path / "a.gif") as opened:
        alone = [model.caption(frame.convert("RGB")).score for frame in ImageSequence.Iterator(opened)]
    with Image.open(tmp_path / "a.gif") as opened:
        assert [caption.score for caption in model.caption_all(ImageSequence.Iterator(opened))] == pytest.approx(
            alone, abs=1e-5
        )
    assert len(set(alone)) > 1


def test_a_kept_picture_needs_its_file_no_more(model: Captioner, make_picture: MakePicture) -> None:
    path = make_picture(size=(300, 200))
    (caption,) = model.caption_all([path], keep=100)
    path.unlink()
    assert isinstance(caption, captioner.Caption)
    assert caption.image == str(path)
    assert caption.geometry.size == (300, 200)
    assert caption.picture.size == (100, 67)
    assert caption.page()


def test_what_a_foreign_model_cropped_is_not_what_is_asked_about(model: Captioner, make_picture: MakePicture) -> None:
    prepared, backend = model.prepare(make_picture(size=(120, 40))), model.backend
    cropped = replace(prepared, pixels=prepared.pixels * 0)
    like = {"side": backend.side, "pad": backend.pad, "grid_shape": backend.grid_shape}
    for foreign, fit in ((True, prepared.pixels), (False, cropped.pixels)):
        mine = SimpleNamespace(**like, **({"fitting": None} if foreign else {}))
        kept = KeptPicture(cropped, None, mine, max_pixels=10**6)  # type: ignore[arg-type]
        assert (kept.for_answers(SimpleNamespace(**like), lambda one: one.pixels) == fit).all()  # type: ignore[arg-type]


def test_a_path_is_no_list_of_frames(model: Captioner, make_picture: MakePicture) -> None:
    for path in (make_picture(), str(make_picture())):
        with pytest.raises(OptionError, match="list of pictures"):
            model.caption_clip(path)  # type: ignore[arg-type]


def test_what_a_model_sees_does_not_depend_on_whether_it_is_shown(model: Captioner, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (700, 1100, 3), dtype=np.uint8)
    path = tmp_path / "large.jpg"
    Image.fromarray(noise).resize((4400, 2800)).save(path)
    expected = model.prepare(path).pixels
    for keep in (50, 1024, 3000):
        np.testing.assert_array_equal(model.prepare(path, keep=keep).pixels, expected)


@pytest.mark.parametrize("options", [Greedy(max_length=200), Beam(max_length=200), Sampling(max_length=200)])
def test_more_words_than_the_model_can_read_are_refused_before_a_picture_is_opened(
    either_model: Path, options: Greedy
) -> None:
    model = load(either_model)
    for ask in (
        lambda: model.caption("missing.jpg", options=options),
        lambda: model.caption_all(["missing.jpg"], options=options),
        lambda: model.caption_prepared([], options=options),
        lambda: model.options(max_length=200),
    ):
        with pytest.raises(OptionError, match=f"max_length 200 is beyond the {model.max_length} words"):
            ask()


def test_of_no_pictures_there_are_no_captions(model: Captioner) -> None:
    assert model.caption_prepared([]) == []


@pytest.mark.parametrize("explain", ["explain", "", ["gradient"], 3])
def test_maps_of_an_unknown_method_are_refused(model: Captioner, explain: Any) -> None:
    with pytest.raises(OptionError):
        model.caption("missing.jpg", explain=explain)


def test_whoever_stops_early_waits_for_no_other_picture(
    model: Captioner, make_picture: MakePicture, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    prepare = model.prepare

    def slow(picture: Any, **options: Any) -> Any:
        if len(opened) > 4:
            time.sleep(0.02)
        opened.append(picture)
        return prepare(picture, **options)

    monkeypatch.setattr(model, "prepare", slow)
    captions = model.caption_all([make_picture()] * 200, batch=100)
    next(captions)
    captions.close()
    assert len(opened) < 200


def test_captions_to_read_may_come_from_an_iterator(model: Captioner, make_picture: MakePicture) -> None:
    picture, texts = make_picture(), ["a dog", "a cat"]
    assert model.read(picture, iter(texts)) == model.read(picture, texts)  # type: ignore[arg-type]


@pytest.mark.parametrize("captions", ["a dog", [3], [None], iter(["a dog", 3]), bytearray(b"a")])
def test_a_text_where_a_list_of_captions_is_due_is_refused(
    model: Captioner, make_picture: MakePicture, captions: Any
) -> None:
    with pytest.raises(OptionError, match="list"):
        model.read(make_picture(), captions)


@pytest.mark.parametrize("value", [float("nan"), 1e38])
@pytest.mark.parametrize("options", [None, Greedy(), Beam(width=3, n_best=2), Sampling()])
def test_weights_that_diverged_are_an_error(make_checkpoint: Any, value: float, options: Greedy | None) -> None:
    model = Captioner(TorchBackend(make_checkpoint("lstm")))
    with torch.no_grad():
        for parameter in model.model.decoder.parameters():
            if parameter.dim() > 1:
                parameter.mul_(value)
    with pytest.raises(CheckpointError, match="not finite"):
        model.caption(Image.new("RGB", (60, 40), "gray"), options=options)
    with pytest.raises(CheckpointError, match="not finite"):
        model.read(Image.new("RGB", (60, 40), "gray"), ["a dog"])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork, which this system does not have")
def test_forked_workers_answer(tiny_model: Path) -> None:
    """Of a model that has captioned nothing yet, and of one that has."""
    program = f"""
import multiprocessing, captioner, torch
from PIL import Image
torch.set_num_threads(2)
model = captioner.load({str(tiny_model)!r})
def work(number):
    return model.caption(Image.new("RGB", (160, 120 + number), "gray")).text
for _ in range(2):
    with multiprocessing.get_context("fork").Pool(2) as pool:
        print(len(pool.map_async(work, range(4)).get(timeout=60)))
    work(0)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=150, check=False)
    assert done.stdout.split() == ["4", "4"], done.stderr
