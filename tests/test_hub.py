"""Models in the hub's form: written, read back, pushed; the hub is a folder here."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import captioner
from captioner.errors import CheckpointError, OptionError

huggingface_hub = pytest.importorskip("huggingface_hub", reason="needs the extra 'hub', which is not installed")

from captioner import hub  # noqa: E402
from captioner.export.graphs import graph_folder  # noqa: E402


def test_a_folder_and_back(exported: Callable[[str], Path], make_picture: Callable[..., Path], tmp_path: Path) -> None:
    model = captioner.load(exported("lstm-padded"), device="cpu")
    folder = hub.save_pretrained(model, tmp_path / "hub" / "mine", license="mit")
    assert {path.name for path in folder.iterdir()} == {"README.md", "config.json", "model.safetensors", "graphs"}
    assert json.loads((folder / "config.json").read_text())["library_name"] == "captioner"
    card = huggingface_hub.ModelCard.load(folder / "README.md")
    assert (card.data.library_name, card.data.pipeline_tag, card.data.license) == ("captioner", "image-to-text", "mit")
    again = hub.from_pretrained(folder, device="cpu")
    assert again.name == model.name == "lstm-padded"
    assert again.backend.name == "onnx" and graph_folder(folder / hub.FILE).is_dir()  # its graphs came along
    picture = make_picture()
    assert again.caption(picture) == model.caption(picture)
    hub.save_pretrained(model, folder)  # replaces
    with pytest.raises(OptionError, match="itself"):
        hub.save_pretrained(folder / hub.FILE, folder)


def test_the_card_has_the_scores() -> None:
    about = {
        "decoding": {"width": 3},
        "test": {"on": "Flickr8k test", "pictures": 1000, "scores": {"CIDEr": 65.5426, "BLEU-4": 26.7}},
    }
    card = hub.model_card(about, name="mine")
    found = {(one.dataset_type, one.metric_type, one.metric_value) for one in card.data.eval_results}
    assert found == {("flickr8k", "cider", 65.5426), ("flickr8k", "bleu-4", 26.7)}
    assert "| Flickr8k test | 26.7 | 65.5 |" in card.text and "width 3" in card.text


def test_push_and_fetch(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    class Api:
        def __init__(self, token: str | None) -> None:
            made.append(token)

        def create_repo(self, name: str, *, private: bool | None, exist_ok: bool) -> Any:
            made.append((name, private, exist_ok))
            return SimpleNamespace(repo_id=name)

        def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> str:
            shutil.copytree(folder_path, tmp_path / repo_id)
            return f"address of {repo_id}"

    def fetch(name: str, *, revision: str | None, **_: Any) -> str:
        if not (tmp_path / name).is_dir():
            raise huggingface_hub.errors.LocalEntryNotFoundError("not in the cache,\nand offline")
        return str(tmp_path / name)

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    assert hub.push(tiny_model, "owner/mine", private=True, token="secret") == "address of owner/mine"
    assert made == ["secret", ("owner/mine", True, True)]
    assert hub.from_pretrained("owner/mine", device="cpu").name == "mine"
    with pytest.raises(CheckpointError, match="owner/other") as error:
        hub.from_pretrained("owner/other")
    assert "\n" not in str(error.value) and "network" in error.value.remedy


def test_what_cannot_be(tiny_model: Path, tiny_answers: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        hub.from_pretrained(tmp_path / "empty")
    with pytest.raises(CheckpointError):
        hub.save_pretrained(tiny_answers, tmp_path / "out")
    with pytest.raises(CheckpointError, match="nobody"):
        hub.save_pretrained("nobody", tmp_path / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(OptionError, match="file"):
        hub.save_pretrained(tiny_model, tmp_path / "file")
    with pytest.raises(OptionError, match="eval_results"):
        hub.model_card({}, name="mine", eval_results="seven")


def test_nothing_of_others_is_overwritten(tiny_model: Path, tmp_path: Path) -> None:
    for name in ("README.md", "config.json", "mine.safetensors"):
        (folder := tmp_path / name.partition(".")[0]).mkdir()
        (folder / name).write_text("{}")
        with pytest.raises(OptionError, match=f"holds {name}"):
            hub.save_pretrained(tiny_model, folder)
        assert [path.name for path in folder.iterdir()] == [name] and (folder / name).read_text() == "{}"
    (tmp_path / "repository" / ".git").mkdir(parents=True)
    folder = hub.save_pretrained(tiny_model, tmp_path / "repository")
    (folder / "graphs" / "other").mkdir(parents=True)
    (folder / hub.FILE).unlink()
    (tmp_path / "elsewhere").write_bytes(b"kept")
    (folder / hub.FILE).symlink_to(tmp_path / "elsewhere")
    hub.save_pretrained(tiny_model, folder)
    assert (folder / "graphs" / "other").is_dir(), "graphs of another model"
    assert (tmp_path / "elsewhere").read_bytes() == b"kept" and not (folder / hub.FILE).is_symlink()
