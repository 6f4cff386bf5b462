"""One file is a model: it comes back as it was, what is no such file is refused, and nothing is unpickled."""

import contextlib
import json
import os
import pickle
import struct
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from captioner import checkpoint
from captioner.cli import main
from captioner.errors import CheckpointError, OldNameWarning
from captioner.model.caption_model import CaptionModel
from captioner.old_names import OLD_BLOCK_WEIGHTS, OLD_WEIGHTS
from captioner.pipeline import load

MakeCheckpoint = Callable[..., checkpoint.Checkpoint]


def logits_and_maps(found: checkpoint.Checkpoint) -> tuple[torch.Tensor, torch.Tensor]:
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        decoded = found.model(pixels, torch.tensor([[1, 4, 5, 6], [1, 9, 8, 7]]))
    return decoded.logits, decoded.maps


@pytest.mark.parametrize("decoder", ["lstm", "transformer"])
@pytest.mark.parametrize(("half", "tolerance"), [(True, 2e-2), (False, 1e-6)])
def test_a_model_comes_back_as_it_was(
    tmp_path: Path, make_checkpoint: MakeCheckpoint, decoder: str, half: bool, tolerance: float
) -> None:
    before = make_checkpoint(decoder, pad=True)
    path = tmp_path / "new" / "model.safetensors"
    checkpoint.save(path, before, half=half)
    after = checkpoint.load(path)

    assert after.vocabulary == before.vocabulary
    assert after.about == before.about
    assert after.model.config == before.model.config
    assert not after.model.training
    assert {tensor.dtype for tensor in after.model.state_dict().values() if tensor.is_floating_point()} == {
        torch.float32
    }
    logits, maps = logits_and_maps(before)
    again, maps_again = logits_and_maps(after)
    assert logits.std() > 0.1  # else being close would say little
    torch.testing.assert_close(again, logits, atol=tolerance, rtol=tolerance)
    # The largest value of a map is some hundredths: a mirrored one would be within the tolerance of logits.
    torch.testing.assert_close(maps_again, maps, atol=1e-4 if half else 1e-6, rtol=tolerance)
    assert list(path.parent.iterdir()) == [path]  # no partial file is left


def test_half_precision_halves_the_file_and_spares_what_is_small(
    tmp_path: Path, make_checkpoint: MakeCheckpoint
) -> None:
    model = make_checkpoint("lstm")
    checkpoint.save(tmp_path / "half.safetensors", model)
    checkpoint.save(tmp_path / "whole.safetensors", model, half=False)
    half, whole = load_file(tmp_path / "half.safetensors"), load_file(tmp_path / "whole.safetensors")
    assert half.keys() == whole.keys()
    for name, tensor in half.items():
        assert tensor.dtype == (torch.float16 if tensor.dim() > 1 else whole[name].dtype)
    bytes_of = {n: sum(t.nbytes for t in tensors.values()) for n, tensors in (("half", half), ("whole", whole))}
    assert bytes_of["half"] < 0.55 * bytes_of["whole"]


def test_the_header_is_read_without_the_weights(either_model: Path) -> None:
    header = checkpoint.read_header(either_model)
    assert header["config"]["decoder"]["kind"] in either_model.stem
    assert header["vocabulary"][4:6] == ["a", "dog"]
    assert header["about"]["note"] == "untrained"


def test_a_write_that_fails_leaves_the_old_file_whole(
    tmp_path: Path, make_checkpoint: MakeCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    checkpoint.save(path, make_checkpoint("lstm"))
    before = path.read_bytes()

    def killed(tensors: Any, target: Path, metadata: Any) -> None:
        Path(target).write_bytes(before[:100])
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save_file", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(path, make_checkpoint("transformer"))
    assert path.read_bytes() == before


def rewritten(path: Path, **changes: Any) -> None:
    """The same weights with other metadata; a key whose value is None is left out."""
    with checkpoint.safe_open(path, framework="pt") as file:
        metadata = {**file.metadata(), **changes}
    save_file(load_file(path), path, {key: value for key, value in metadata.items() if value is not None})


def with_header(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        header = checkpoint.read_header(path)
        changed = change(header)
        rewritten(path, model=json.dumps(header if changed is None else changed))

    return damage


def cut(share: float) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * share)])

    return damage


def foreign(path: Path) -> None:
    save_file({"weight": torch.zeros(3)}, path)


def without_a_tensor(path: Path) -> None:
    with checkpoint.safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    del tensors["decoder.embed.weight"]
    save_file(tensors, path, metadata)


def damaged_json(path: Path) -> None:
    """The safetensors header itself is cut: its length points into the middle of it."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    path.write_bytes(struct.pack("<Q", length // 2) + data[8:])


class Trap:
    """Unpickling this creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


# What is done to a good file, how, words of the message after the file's name.
DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (Path.unlink, "no such model file"),
    "empty": (lambda path: path.write_bytes(b""), "not a whole safetensors file"),
    "truncated in the weights": (cut(0.9), "not a whole safetensors file"),
    "truncated in the header": (cut(0.01), "not a whole safetensors file"),
    "random bytes": (lambda path: path.write_bytes(bytes(range(256)) * 40), "not a whole safetensors file"),
    "text": (lambda path: path.write_text("hello " * 100), "not a whole safetensors file"),
    "a header that is cut": (damaged_json, "not a whole safetensors file"),
    "foreign safetensors": (foreign, "a safetensors file, but not a model of captioner"),
    "another version": (lambda path: rewritten(path, version="7"), "format version 7"),
    "no version": (lambda path: rewritten(path, version=None), "format version None"),
    "no description": (lambda path: rewritten(path, model=None), "damaged"),
    "a description that is no JSON": (lambda path: rewritten(path, model='{"config'), "damaged"),
    "a description that is a list": (with_header(lambda h: []), "damaged"),
    "no configuration": (with_header(lambda h: h.pop("config") and None), "damaged"),
    "no vocabulary": (with_header(lambda h: h.pop("vocabulary") and None), "damaged"),
    "an unknown option": (with_header(lambda h: h["config"]["decoder"].update(depth=3)), "made by another version"),
    "an unknown decoder": (with_header(lambda h: h["config"]["decoder"].update(kind="rnn")), "called 'rnn'"),
    "an unknown backbone": (with_header(lambda h: h["config"]["encoder"].update(backbone="vgg")), "called 'vgg'"),
    "a text for a number": (with_header(lambda h: h["config"]["decoder"].update(width="wide")), "damaged"),
    "a configuration that is a list": (with_header(lambda h: h.update(config=[])), "damaged"),
    "a part that is null": (with_header(lambda h: h["config"].update(encoder=None)), "damaged"),
    "a decoder that is a number": (with_header(lambda h: h["config"].update(decoder=3)), "damaged"),
    "a word too many": (with_header(lambda h: h["vocabulary"].append("zebra")), "damaged"),
    "a word that is a control sequence": (
        with_header(lambda h: h["vocabulary"].__setitem__(5, "\x1b[2J")),
        "no word for a",
    ),
    "a word that is half a character": (
        with_header(lambda h: h["vocabulary"].__setitem__(5, "\ud800")),
        "no word for a",
    ),
    "an endless number": (with_header(lambda h: h["config"]["decoder"].update(width=10**400)), "the decoder's 'width'"),
    "an ensemble of letters": (
        with_header(lambda h: h["config"]["decoder"].update(kind="ensemble", members="abc")),
        "'members'",
    ),
    "an ensemble of texts": (
        with_header(lambda h: h["config"]["decoder"].update(kind="ensemble", members=["a"] * 17)),
        "'members'",
    ),
    "an ensemble of nothing": (
        with_header(lambda h: h["config"]["decoder"].update(kind="ensemble", members=[])),
        "'members'",
    ),
    "too many layers": (with_header(lambda h: h["config"]["decoder"].update(layers=5000)), "the decoder's 'layers'"),
    "a number beyond all floats": (lambda path: rewritten(path, model='{"about": {"seen": 1e999}}'), "too large"),
    "a score that is endless": (with_header(lambda h: h.update(about={"test": {"scores": {"a": 10**400}}})), "scores"),
    "words that are numbers": (with_header(lambda h: h.update(vocabulary=[1, 2, 3, 4])), "damaged"),
    "a vocabulary that is a number": (with_header(lambda h: h.update(vocabulary=5)), "damaged"),
    "another width": (with_header(lambda h: h["config"]["decoder"].update(embedding=8)), "damaged"),
    "a tensor missing": (without_a_tensor, "damaged"),
    "facts that are a list": (with_header(lambda h: h.update(about=[])), "damaged"),
    "decoding that is unknown": (with_header(lambda h: h.update(about={"decoding": {"depth": 3}})), "damaged"),
    "decoding out of range": (with_header(lambda h: h.update(about={"decoding": {"width": 0}})), "beam width"),
    "a mean that is text": (with_header(lambda h: h["config"]["encoder"].update(mean=[0.5, "x", 0.5])), "mean"),
    "a mean that is null": (with_header(lambda h: h["config"]["encoder"].update(mean=[None, 0.5, 0.5])), "mean"),
    "a mean of lists": (with_header(lambda h: h["config"]["encoder"].update(mean=[[1], [2], [3]])), "mean"),
    "a mean that is not finite": (with_header(lambda h: h["config"]["encoder"].update(mean=[float("nan")] * 3)), "NaN"),
    "a side that is true": (with_header(lambda h: h["config"]["encoder"].update(side=True)), "side"),
    "a side that is huge": (with_header(lambda h: h["config"]["encoder"].update(side=10**9)), "side"),
    "a width that is huge": (with_header(lambda h: h["config"]["decoder"].update(width=10**9)), "width"),
    "a width that is a fraction": (with_header(lambda h: h["config"]["decoder"].update(width=32.5)), "damaged"),
    "members with an ensemble among them": (
        with_header(lambda h: h["config"]["decoder"].update(members=[{"kind": "lstm", "members": [{"kind": "lstm"}]}])),
        "damaged",
    ),
    "a refiner of a member with many layers": (
        with_header(lambda h: h["config"]["decoder"].update(members=[{"refiner": {"layers": 100_000}}])),
        "damaged",
    ),
    "a refiner of a member that is no table": (
        with_header(lambda h: h["config"]["decoder"].update(members=[{"refiner": [1]}])),
        "damaged",
    ),
    "seventeen members": (
        with_header(lambda h: h["config"]["decoder"].update(members=[{"kind": "lstm"}] * 17)),
        "damaged",
    ),
    "heads of a map that are text": (with_header(lambda h: h["config"]["decoder"].update(map_heads=["a"])), "damaged"),
    "heads of a map that are a text": (with_header(lambda h: h["config"]["decoder"].update(map_heads="ab")), "damaged"),
    "heads of a map that are not finite": (
        with_header(lambda h: h["config"]["decoder"].update(map_heads=[float("inf")])),
        "Infinity",
    ),
    "a heads option that is a list": (with_header(lambda h: h["config"]["decoder"].update(heads=[1])), "damaged"),
    "a dropout that is text": (with_header(lambda h: h["config"]["decoder"].update(dropout="none")), "damaged"),
    "an attention that is a number": (with_header(lambda h: h["config"]["decoder"].update(attention=3)), "damaged"),
    "a kind that is a list": (with_header(lambda h: h["config"]["decoder"].update(kind=["lstm"])), "damaged"),
    "a backbone that is a list": (with_header(lambda h: h["config"]["encoder"].update(backbone=["tiny"])), "damaged"),
    "stages that are text": (with_header(lambda h: h["config"]["encoder"].update(stages="2")), "stages"),
    "pad that is a number": (with_header(lambda h: h["config"]["encoder"].update(pad=3)), "pad"),
    "a refiner of many layers": (with_header(lambda h: h["config"]["refiner"].update(layers=10**6)), "layers"),
    "a number among the words": (with_header(lambda h: h["vocabulary"].__setitem__(5, 7)), "word"),
    "a list among the words": (with_header(lambda h: h["vocabulary"].__setitem__(5, ["a"])), "word"),
    "an empty word": (with_header(lambda h: h["vocabulary"].__setitem__(5, "")), "word"),
    "a word twice": (with_header(lambda h: h["vocabulary"].__setitem__(5, "a")), "twice"),
    "maps that are a list": (with_header(lambda h: h.update(about={"maps": []})), "maps"),
    "a map method that is unknown": (with_header(lambda h: h.update(about={"maps": {"explain": "magic"}})), "magic"),
    "a map method that is a list": (with_header(lambda h: h.update(about={"maps": {"explain": ["x"]}})), "damaged"),
    "map options that are a number": (with_header(lambda h: h.update(about={"maps": {"gradient": 3}})), "damaged"),
    "a block that is text": (with_header(lambda h: h.update(about={"maps": {"occlusion": {"block": "3"}}})), "block"),
    "a beam that would never end": (with_header(lambda h: h.update(about={"decoding": {"width": 10**6}})), "width"),
    "a beam of many": (with_header(lambda h: h.update(about={"decoding": {"width": 999}})), "999"),
    "a length that would never end": (with_header(lambda h: h.update(about={"decoding": {"max_length": 999}})), "999"),
    "a penalty that is text": (with_header(lambda h: h.update(about={"decoding": {"length_penalty": "x"}})), "penalty"),
    "scores that are text": (with_header(lambda h: h.update(about={"test": {"scores": {"CIDEr": "x"}}})), "scores"),
    "deep nesting": (lambda path: rewritten(path, model="[" * 100_000 + "]" * 100_000), "damaged"),
    "decoding that is a number": (with_header(lambda h: h.update(about={"decoding": 3})), "damaged"),
    "teachers that are a number": (with_header(lambda h: h.update(about={"teacher": 3})), "teacher"),
    "earlier recipes that are texts": (with_header(lambda h: h.update(about={"earlier": ["x"]})), "earlier"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damaged_files(tmp_path: Path, make_checkpoint: MakeCheckpoint, what: str) -> None:
    path = tmp_path / "model.safetensors"
    checkpoint.save(path, make_checkpoint("lstm"))
    damage, words = DAMAGE[what]
    damage(path)
    with pytest.raises(CheckpointError) as raised:
        load(path)  # with the model's own defaults of decoding, which are read here
    message = str(raised.value)
    assert message.startswith(f"{path}: ")
    assert words in message
    assert "\n" not in message


@pytest.mark.parametrize("answer", ["\ud800", "a\nb", "\x1b[2J", " ", "x" * 201, 3])
def test_answers_that_no_terminal_and_no_page_can_show(
    answer: object, tmp_path: Path, make_answering: Callable[..., checkpoint.AnswerCheckpoint]
) -> None:
    path = tmp_path / "model.safetensors"
    checkpoint.save(path, make_answering())
    with_header(lambda h: h["answers"].__setitem__(0, answer))(path)
    with pytest.raises(CheckpointError, match="is no answer"):
        checkpoint.read_header(path)


@pytest.mark.parametrize("scores", [{"a": 10**400}, {"a": "x"}, [1], {"\x1b[2J": 1.0}])
def test_what_is_listed_of_a_strangers_file_is_one_line(
    scores: object, tmp_path: Path, make_checkpoint: MakeCheckpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.safetensors"
    checkpoint.save(path, make_checkpoint("lstm"))
    with_header(lambda h: h.update(about={"test": {"scores": scores, "on": "\x1b[2J\ndev"}}))(path)
    assert main(["models", str(path)]) in (0, 2)
    found = "".join(capsys.readouterr())
    assert found.count("\n") == 1 and "\x1b" not in found


@settings(max_examples=60, derandomize=True, database=None)
@given(data=st.data())
def test_whatever_the_metadata_holds_only_errors_of_ours_come_out(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory, make_checkpoint: MakeCheckpoint
) -> None:
    """One value anywhere in the metadata is replaced by something else."""
    folder = tmp_path_factory.mktemp("fuzz")
    path = folder / "model.safetensors"
    checkpoint.save(path, make_checkpoint(data.draw(st.sampled_from(["lstm", "transformer"]))))
    header = checkpoint.read_header(path)
    places: list[tuple[Any, Any]] = []

    def walk(value: Any) -> None:
        for key in value if isinstance(value, dict) else range(len(value)):
            places.append((value, key))
            if isinstance(value[key], (dict, list)):
                walk(value[key])

    walk({key: header[key] for key in ("config", "about")})
    places.append((header["vocabulary"], 6))
    where, key = data.draw(st.sampled_from(places))
    large = st.sampled_from([10**400, -(10**400), 1e308 * 10, 1e308, 101, 100_000])
    odd = st.sampled_from(["\ud800", "\x1b[2J", "\u2028", "\x00"])
    numbers = st.integers(-(10**12), 10**12) | st.floats() | large
    simple = st.none() | st.booleans() | numbers | st.text(max_size=5) | odd
    where[key] = data.draw(simple | st.lists(simple, max_size=4) | st.dictionaries(st.text(max_size=4), simple))
    rewritten(path, model=json.dumps(header))
    with contextlib.suppress(CheckpointError):
        load(path).caption(np.zeros((20, 30, 3), dtype=np.uint8))


@settings(max_examples=40, derandomize=True, database=None)
@given(data=st.data())
def test_whatever_bytes_the_file_holds_only_errors_of_ours_come_out(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory, make_checkpoint: MakeCheckpoint
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "model.safetensors"
    checkpoint.save(path, make_checkpoint("lstm"))
    content = bytearray(path.read_bytes())
    length = data.draw(st.sampled_from([len(content), 4000, 600]))
    for place, value in data.draw(st.lists(st.tuples(st.integers(0, length - 1), st.integers(0, 255)), min_size=1)):
        content[place] = value
    path.write_bytes(content)
    with contextlib.suppress(CheckpointError):
        load(path).caption(np.zeros((20, 30, 3), dtype=np.uint8))


def test_a_file_of_format_1_loads_with_a_warning_and_computes_the_same(
    tmp_path: Path, make_checkpoint: MakeCheckpoint
) -> None:
    """The names of weights and options that version 1 had."""
    old_names = {new: old for old, new in OLD_WEIGHTS.items()}
    old_blocks = {new: old for old, new in OLD_BLOCK_WEIGHTS.items()}

    def old_name(name: str) -> str:
        for new, old in old_names.items():
            name = old + name.removeprefix(new) if name.startswith(new) else name
        return ".".join(old_blocks.get(part, part) for part in name.split("."))

    for decoder, option, old_option in (
        ("lstm", "attend_after_lstm", "look_after_reading"),
        ("transformer", "max_length", "longest"),
    ):
        path = tmp_path / f"{decoder}.safetensors"
        checkpoint.save(path, make_checkpoint(decoder), half=False)
        expected = logits_and_maps(checkpoint.load(path))
        header = checkpoint.read_header(path)
        header["config"]["decoder"][old_option] = header["config"]["decoder"].pop(option)
        del header["config"]["refiner"]["kind"]
        tensors = {old_name(name): tensor for name, tensor in load_file(path).items()}
        assert tensors.keys() != load_file(path).keys()
        metadata = {"format": "captioner", "version": "1", "model": json.dumps(header)}
        save_file(tensors, path, metadata)
        with pytest.warns(OldNameWarning, match=option):
            loaded = checkpoint.load(path)
        for found, wanted in zip(logits_and_maps(loaded), expected, strict=True):
            torch.testing.assert_close(found, wanted, atol=0, rtol=0)


@pytest.mark.parametrize("kind", [torch.int8, torch.int64, torch.bool, torch.complex64])
@pytest.mark.parametrize("dimensions", [1, 2, 4])
def test_weights_that_are_no_real_numbers_are_refused(
    kind: torch.dtype, dimensions: int, tmp_path: Path, make_checkpoint: MakeCheckpoint
) -> None:
    path = tmp_path / "model.safetensors"
    checkpoint.save(path, make_checkpoint("lstm"))
    with safe_open(path, framework="pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(path)
    name = next(name for name, tensor in tensors.items() if tensor.dim() == dimensions)
    tensors[name] = tensors[name].to(kind)
    try:
        save_file(tensors, path, metadata)
    except KeyError:
        pytest.skip(f"this safetensors stores no {kind}")
    with pytest.raises(CheckpointError) as raised:
        checkpoint.load(path)
    assert name in str(raised.value) and path.name in str(raised.value)


def test_what_a_kill_while_writing_leaves_goes_with_the_next_write(
    tmp_path: Path, make_checkpoint: MakeCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = []

    def replace(self: Path, _: Path) -> None:
        names.extend(path.name for path in tmp_path.iterdir())
        assert not self.stat().st_mode & 0o111
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(tmp_path / "model.safetensors", make_checkpoint("lstm"))
    assert len(names) == 1
    (tmp_path / names[0]).write_bytes(b"of a process that was killed")
    monkeypatch.undo()
    checkpoint.write_tensors(tmp_path / "model.safetensors", {"a": torch.ones(1)}, {})
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_two_processes_that_write_one_file_do_not_mix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, names, save = tmp_path / "model.safetensors", [], checkpoint.save_file

    def slow(tensors: Any, partial: Path, metadata: Any) -> None:
        names.append(partial.name)
        if len(names) == 1:
            checkpoint.write_tensors(path, {"a": torch.zeros(9)}, {})
        save(tensors, partial, metadata)

    monkeypatch.setattr(checkpoint, "save_file", slow)
    checkpoint.write_tensors(path, {"a": torch.ones(3)}, {})
    assert len(set(names)) == 2
    assert load_file(path)["a"].tolist() == [1, 1, 1]


def test_the_digest_stands_for_the_weights(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    first, path = make_checkpoint("lstm"), tmp_path / "model.safetensors"
    checkpoint.save(path, first)
    digest = checkpoint.read_header(path)["digest"]
    checkpoint.save(path, make_checkpoint("lstm"))
    assert checkpoint.read_header(path)["digest"] == digest
    with torch.no_grad():
        first.model.decoder.bias[5] += 1
    checkpoint.save(path, first)
    assert checkpoint.read_header(path)["digest"] != digest


def test_a_folder_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such model file"):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize("save", [lambda trap, path: path.write_bytes(pickle.dumps(trap)), torch.save])
def test_a_pickle_is_refused_and_never_unpickled(tmp_path: Path, save: Callable[..., Any]) -> None:
    sprung, path = tmp_path / "sprung", tmp_path / "model.safetensors"
    save(Trap(sprung), path)
    with pytest.raises(CheckpointError, match=r"model.safetensors: not a whole safetensors file"):
        checkpoint.load(path)
    assert not sprung.exists()
    # The trap works: it is not the test that is harmless.
    pickle.loads(pickle.dumps(Trap(sprung)))
    assert sprung.exists()


def test_a_loaded_model_outlives_its_file(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    """A server goes on captioning while someone copies another model over the file."""
    path = tmp_path / "model.safetensors"
    checkpoint.save(path, make_checkpoint("lstm"), half=False)
    expected = logits_and_maps(checkpoint.load(path))
    loaded = checkpoint.load(path)
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    for found, wanted in zip(logits_and_maps(loaded), expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=0, rtol=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(value: float, tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    broken = make_checkpoint("lstm")
    with torch.no_grad():
        broken.model.decoder.embed.weight[3, 2] = value
    checkpoint.save(tmp_path / "model.safetensors", broken)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: decoder\.embed\.weight .*not finite"):
        checkpoint.load(tmp_path / "model.safetensors")


def test_others_may_read_a_file_as_the_mask_says(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        checkpoint.write_tensors(tmp_path / "x.safetensors", {"a": torch.ones(1)}, {})
    finally:
        os.umask(before)
    assert (tmp_path / "x.safetensors").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("decoding", [{}, {"width": 2, "min_length": 20}])
def test_a_decoder_of_few_positions_is_asked_for_no_more_words(
    decoding: dict[str, int], make_checkpoint: Callable[..., checkpoint.Checkpoint], tmp_path: Path
) -> None:
    made = make_checkpoint("transformer")
    few = replace(made.model.config, decoder=replace(made.model.config.decoder, max_length=11))
    model = CaptionModel(few, vocabulary_size=len(made.vocabulary))
    checkpoint.save(
        tmp_path / "few.safetensors", replace(made, model=model, about={"decoding": decoding} if decoding else {})
    )
    loaded = load(tmp_path / "few.safetensors", backend="torch")
    assert loaded.default_options.max_length == loaded.max_length == 10
    assert loaded.default_options.min_length == min(decoding.get("min_length", 1), 10)


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file system that takes names of any bytes")
def test_a_path_that_torch_does_not_open_is_not_called_damaged(tiny_model: Path, tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/b\xe4.safetensors"))
    path.write_bytes(tiny_model.read_bytes())
    with pytest.raises(CheckpointError, match="path is not UTF-8; rename it"):
        checkpoint.load(path)
