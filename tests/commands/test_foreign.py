"""Foreign models on the command line: what works as with ours, and what is refused in one line."""

import contextlib
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from captioner import foreign as foreign_form
from captioner import shipped
from captioner.cli import main
from captioner.errors import CaptionerError, CheckpointError, OptionError
from captioner.options import Beam, Greedy
from captioner.pipeline import Captioner, load
from captioner.results import Caption

CORPUS = ("the dog sits", "a cat catches two red balls in the park", "one blue frisbee")
Opened = Callable[[str], Captioner]


@pytest.fixture
def folder(foreign: Opened) -> Path:
    return Path(foreign("vit-gpt2").model.config.name_or_path)


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    """A folder that a test may change."""
    return Path(shutil.copytree(folder, tmp_path / "model"))


def changed(path: Path, **values: Any) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, **values}))


def test_results_figure_page_and_sidecars(
    folder: Path, make_picture: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(2):
        make_picture(f"photos/{i}.png", seed=i)
    photos = tmp_path / "photos"
    how = ["--model", f"{folder}", "--max-words", "5", "--device", "cpu"]
    output, page = tmp_path / "out.jsonl", tmp_path / "page.html"
    assert main(["caption", str(photos), *how, "--output", str(output), "--page", str(page), "--sidecar", ".txt"]) == 0
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["model"] for row in rows] == [folder.name] * 2
    assert np.shape(rows[0]["words"][0]["map"]) == (4, 4)
    assert (photos / "0.txt").read_text().strip() == rows[0]["caption"]
    assert rows[0]["caption"].split()[0] in page.read_text()
    figure = tmp_path / "figure.png"
    chosen = ["--map-heads", "1:0", "--figure", str(figure), "--json"]
    assert main(["caption", str(photos / "0.png"), *how, *chosen]) == 0
    again = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert again["caption"] == rows[0]["caption"]
    assert not np.allclose(again["words"][0]["map"], rows[0]["words"][0]["map"], atol=1e-3)
    assert Image.open(figure).size[0] > 100


def test_a_cropped_picture_says_what_its_grid_covers(foreign: Opened) -> None:
    caption = foreign("git").caption(np.zeros((40, 80, 3), dtype=np.uint8), options=Greedy(max_length=2))
    assert caption.as_dict()["extent"] == [20, 0, 60, 40]
    assert caption.geometry.mask.all()


def test_words_that_are_given_forbidden_and_required(foreign: Opened) -> None:
    model = foreign("vit-gpt2")
    noise = [np.random.default_rng(i).integers(0, 256, (60, 60, 3), dtype=np.uint8) for i in range(6)]
    plain = [one for one in model.caption(list(noise), options=Greedy(max_length=8)) if isinstance(one, Caption)]
    words = {word for sentence in CORPUS for word in model.vocabulary.split(sentence)}
    picture, forbidden = next(
        (picture, word.text)
        for picture, caption in zip(noise, plain, strict=True)
        for word in caption.words
        if word.text in words and len(word.text) > 1
    )
    asked = Beam(width=4, max_length=14, begin="a", forbid_words=(forbidden,), require_words=("red",))
    caption = model.caption(picture, options=asked)
    assert caption.text.startswith("a") and "red" in [word.text for word in caption.words]
    assert forbidden not in [word.text for word in caption.words]
    begun = model.caption(picture, options=Beam(width=4, max_length=6, begin="the cat"))
    assert begun.text.startswith("the cat") and begun.words[0].given and begun.words[0].map.sum() > 0


def test_a_required_word_is_no_beginning_of_a_longer_one(foreign: Opened) -> None:
    for name in ("vit-gpt2", "blip"):
        picture = np.full((40, 40, 3), 200, dtype=np.uint8)
        caption = foreign(name).caption(picture, options=Beam(width=6, max_length=12, require_words=("dog",)))
        assert "dog" in [word.text for word in caption.words]


@pytest.mark.parametrize("name", ["vit-gpt2", "blip", "git"])
def test_a_caption_of_the_model_is_read_as_it_was_made(name: str, foreign: Opened) -> None:
    model = foreign(name)
    caption = model.caption(np.full((40, 40, 3), 120, dtype=np.uint8), options=Greedy(max_length=6))
    ids = model.vocabulary.encode_made([word.text for word in caption.words])
    pieces = [piece for word in ids for piece in model.vocabulary.pieces(word)]  # type: ignore[attr-defined]
    assert len(pieces) == 6 or caption.finished
    gains = model.with_gains([caption])[0]
    assert all(word.gain is not None for word in gains.words)
    heads = model.heads(caption, 0)
    assert heads.maps.shape == (2, 2, 4, 4) and heads.maps.min() >= 0


def test_words_of_a_text_and_back(foreign: Opened) -> None:
    for name in ("vit-gpt2", "blip"):
        vocabulary = foreign(name).vocabulary
        words = vocabulary.split("a cat's red ball, two dogs.")
        assert words == ["a", "cat", "'s", "red", "ball", ",", "two", "dogs", "."]
        assert vocabulary.sentence(words) == "a cat's red ball, two dogs."
        assert vocabulary.decode(vocabulary.encode(words)) == words
    assert foreign("blip").vocabulary.encode(["dog", "\u4e16"])[1:-1][1] == 3, "unknown"


def test_the_servers_models(folder: Path) -> None:
    from captioner.serve.models import Models

    models = Models(str(folder), device="cpu", backend="huggingface", map_heads="1")
    assert models.how["backend"] == "auto", "of the others"
    assert models.default == folder.name
    (ours,) = [one for one in models.describe() if one["default"]]
    assert ours["words"] > 50 and ours["decoder"] == "gpt2"


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "tiles": ({"model_type": "llava_next", "architectures": ["LlavaNextForConditionalGeneration"]}, "tiles"),
    "no captioner": ({"model_type": "vit", "architectures": ["ViTModel"]}, "blip"),
    "another head": ({"model_type": "blip", "architectures": ["BlipForQuestionAnswering"]}, "BlipForConditional"),
    "remote code": ({"model_type": "mine", "auto_map": {"AutoModel": "mine.Mine"}}, "not executed"),
}


@pytest.mark.parametrize(("values", "said"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_had_is_one_line(
    values: dict[str, Any],
    said: str,
    copied: Path,
    make_picture: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    changed(copied / "config.json", **values)
    assert main(["caption", str(make_picture()), "--model", str(copied)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_files_that_do_not_fit_are_named(copied: Path) -> None:
    processor = copied / "preprocessor_config.json"
    changed(processor, do_image_splitting=True)
    with pytest.raises(OptionError, match="do_image_splitting"):
        load(copied, device="cpu")
    changed(processor, do_image_splitting=False, size={"shortest_edge": 32})
    with pytest.raises(OptionError, match="several sizes"):
        load(copied, device="cpu")
    processor.unlink()
    with pytest.raises(CheckpointError, match="image processor"):
        load(copied, device="cpu")
    (copied / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="tokeniser"):
        load(copied, device="cpu")


def test_weights_that_are_missing_or_damaged_are_named(copied: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = copied / "model.safetensors"
    kept = {name: tensor for name, tensor in load_file(weights).items() if "crossattention" not in name}
    save_file(kept, weights, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="crossattention"):
        load(copied, device="cpu")
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="transformers"):
        load(copied, device="cpu")


@pytest.mark.parametrize("heads", ["9", "0:7", "-3"])
def test_heads_that_are_not_there(heads: str, folder: Path) -> None:
    with pytest.raises(OptionError, match=r"2 layers of 2 heads.*--map-heads"):
        load(folder, device="cpu", map_heads=heads)


def test_heads_of_another_form_and_of_our_models(folder: Path, tiny_model: Path) -> None:
    for text in ("a", "1:", "1:-2", "1,,2"):
        with pytest.raises(OptionError, match="--map-heads"):
            load(folder, device="cpu", map_heads=text)
    with pytest.raises(OptionError, match="select-heads"):
        load(tiny_model, device="cpu", map_heads="0")


def test_fused_attention_is_never_silently_empty(foreign: Opened) -> None:
    model = foreign("llava")
    assert model.model.config._attn_implementation == "eager"
    try:
        model.model.set_attn_implementation("sdpa")
        with pytest.raises(OptionError, match="no attention weights"):
            model.caption(np.zeros((40, 40, 3), dtype=np.uint8))
    finally:
        model.model.set_attn_implementation("eager")


@pytest.mark.parametrize("backend", ["torch", "onnx"])
def test_another_backend_is_refused(backend: str, folder: Path) -> None:
    with pytest.raises(OptionError, match="huggingface"):
        load(folder, backend=backend)


@pytest.mark.parametrize("missing", ["torch", "transformers"])
def test_what_is_not_installed_is_named(missing: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from captioner.backends import choice

    find: Any = choice.importlib.util.find_spec
    monkeypatch.setattr(choice.importlib.util, "find_spec", lambda name: None if name == missing else find(name))
    with pytest.raises(OptionError, match=rf"{missing}.*captioner\[hf\]"):
        load(folder)


def test_a_model_of_the_hub_comes_from_its_cache_or_is_named(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    import huggingface_hub

    asked = []

    def offline(**wanted: Any) -> list[str]:
        asked.append(wanted["repo_id"])
        logging.getLogger("huggingface_hub.utils").warning("Retrying in 1s")
        raise huggingface_hub.errors.OfflineModeIsEnabled("offline")

    snapshot = tmp_path / "models--me--mine" / "snapshots" / "0123"
    shutil.copytree(folder, snapshot)

    def cached(repo_id: str, revision: str | None, local_files_only: bool = False, **_: Any) -> str:
        assert local_files_only
        if repo_id != "me/mine":
            raise huggingface_hub.errors.LocalEntryNotFoundError("nothing")
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "list_repo_files", offline)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", cached)
    shipped._fetched.cache_clear()
    assert load("hf:me/mine", device="cpu").name == "me/mine"
    index = '{"weight_map": {"a": "pytorch_model-00001-of-00001.bin"}}'
    (snapshot / "pytorch_model.bin.index.json").write_text(index)  # the same weights in the other form, not fetched
    shipped._fetched.cache_clear()
    assert load("hf:me/mine", device="cpu").name == "me/mine"
    assert asked == []  # what is there is not looked up again
    with pytest.raises(CheckpointError, match=r"hf:me/other.*connection"):
        load("hf:me/other")
    (snapshot / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00002-of-00002.safetensors"}}')
    shipped._fetched.cache_clear()
    with pytest.raises(CheckpointError, match=r"hf:me/mine.*connection"):
        load("hf:me/mine")
    assert asked == ["me/other", "me/mine"]
    assert "Retrying" not in caplog.text + capfd.readouterr().err
    for wrong in ("hf:mine", "hf:/x", "hf:a/b/c"):
        with pytest.raises(CheckpointError, match="hf:owner/name"):
            load(wrong)


def test_a_folder_of_ours_is_told_from_a_foreign_one(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"format": "captioner-exported"}))
    assert not foreign_form.is_foreign(tmp_path)
    assert foreign_form.is_foreign(folder)
    about = foreign_form.describe(folder)
    assert about["config"]["encoder"]["backbone"] == "vit"
    assert len(about["vocabulary"]) > 50 and len(about["digest"]) == 64


def test_options_of_the_models_own_generation_are_the_defaults(copied: Path) -> None:
    changed(copied / "generation_config.json", num_beams=4, max_length=9, length_penalty=0.6, no_repeat_ngram_size=3)
    options = load(copied, device="cpu").default_options
    assert (options.width, options.max_length, options.length_penalty, options.no_repeat_ngram) == (4, 8, 0.6, 3)


def test_bounds_of_our_own_files_hold_for_what_a_model_asks(copied: Path) -> None:
    changed(copied / "generation_config.json", num_beams=400, max_new_tokens=1024)
    decoding = foreign_form.describe(copied)["about"]["decoding"]
    assert (decoding["width"], decoding["max_length"]) == (100, 200)
    assert load(copied, device="cpu").default_options.max_length == 45, "the words that the model can read"


def test_code_in_a_folder_is_never_executed(copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = tmp_path / "ran"
    (copied / "evil.py").write_text(f"open({str(ran)!r}, 'w').write('ran')\nclass Evil: pass\n")
    (copied / "chat_template.jinja").write_text("{{ messages }}")
    named = {"AutoProcessor": "evil.Evil", "AutoTokenizer": ["evil.Evil", "evil.Evil"], "AutoConfig": "evil.Evil"}
    (copied / "processor_config.json").write_text(json.dumps({"processor_class": "Evil", "auto_map": named}))
    for name in ("tokenizer_config.json", "preprocessor_config.json", "config.json"):
        changed(copied / name, auto_map=named)
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with contextlib.suppress(CaptionerError):
        load(copied, device="cpu")
    assert not ran.exists()


@pytest.mark.parametrize("command", [["export"], ["models"], ["models", "--diagram"]])
def test_commands_that_list_and_those_for_models_of_ours(command: list[str], folder: Path, tmp_path: Path) -> None:
    further = {
        "export": ["--output", str(tmp_path / "out")],
        "models": [str(tmp_path / "flow.dot")][: len(command) - 1],
    }
    given = [command[0], str(folder), *command[1:], *further[command[0]]]
    code = main(given)
    assert code == (0 if command == ["models"] else 2)


def test_no_file_of_the_models_folder_is_written_over(
    copied: Path, make_picture: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    vocabulary = copied / "vocab.txt"
    vocabulary.write_text("a\n")
    assert main(["caption", str(make_picture()), "--model", str(copied), "--output", str(vocabulary)]) == 2
    assert str(vocabulary) in capsys.readouterr().err and vocabulary.read_text() == "a\n"
