"""The folder that captions in the browser: what it holds, and what is refused; test_web_browser.py tests its page."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from captioner.checkpoint import load as load_checkpoint
from captioner.checkpoint import save
from captioner.cli import main
from captioner.errors import OptionError
from captioner.export.folder import export_folder
from captioner.export.web.site import _RUNTIMES, ONNXRUNTIME_WEB, POLICY, export_web
from captioner.pipeline import load

MakePicture = Callable[..., Path]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder with files of the names that onnxruntime-web has."""
    folder = tmp_path / "node_modules" / "onnxruntime-web"
    (folder / "dist").mkdir(parents=True)
    for names in _RUNTIMES.values():
        for name in names.values():
            (folder / "dist" / name).write_text(f"// {name}")
    return folder


@pytest.fixture
def site(model_file: Path, package: Path, tmp_path: Path) -> Path:
    export_web(model_file, tmp_path / "site", onnxruntime_web=package)
    return tmp_path / "site"


def paths_of(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


def test_the_folder_is_whole(site: Path) -> None:
    config = json.loads((site / "config.json").read_text(encoding="utf-8"))
    assert set(config["web"]["files"]) == paths_of(site)
    assert {"index.html", "worker.js", "service-worker.js", "viewer.js", "encode.onnx", "step.onnx"} <= paths_of(site)
    for names in config["web"]["runtimes"].values():
        assert set(names.values()) <= paths_of(site)
    assert not [path for path in paths_of(site) if path.endswith(".mjs")]  # a type that some servers do not know
    for name, size in config["web"]["bytes"].items():
        assert (site / name).stat().st_size == size
    for page in ("index.html", "worker.js", "model.js"):
        text = (site / page).read_text(encoding="utf-8")
        own = [*re.findall(r'(?:src|href)="([^"]+)"', text), *re.findall(r'from "\./([^"]+)"', text)]
        assert set(own) <= paths_of(site)


def test_the_policy_and_the_kept_files(site: Path) -> None:
    page = (site / "index.html").read_text(encoding="utf-8")
    worker = (site / "service-worker.js").read_text(encoding="utf-8")
    for text in (page, worker):
        assert f'"{POLICY}"' in text
        assert not re.search(r"\{(policy|files|version|captioner)\}", text)
    assert "unsafe-inline" not in POLICY
    assert "*" not in POLICY
    assert not re.search(r"<script(?! src=)|<style| on\w+=| style=", page)
    kept = set(json.loads(re.findall(r"FILES = (\[.*?\]);", worker, re.DOTALL)[0]))
    assert kept == {path for path in paths_of(site) if not path.endswith((".onnx", ".wasm"))}


def test_no_file_names_another_host(site: Path) -> None:
    for path in paths_of(site):
        if path.endswith((".html", ".js", ".css")) and not path.startswith("onnxruntime-web/"):
            found = re.findall(r"https?://[^\s\"'`)]+", (site / path).read_text(encoding="utf-8"))
            assert set(found) <= {"http://www.w3.org/2000/svg"}, path


def test_an_export_of_the_same_model_is_the_same(site: Path, model_file: Path, package: Path, tmp_path: Path) -> None:
    export_web(model_file, tmp_path / "again", onnxruntime_web=package)
    assert (tmp_path / "again" / "service-worker.js").read_bytes() == (site / "service-worker.js").read_bytes()
    export_web(model_file, tmp_path / "again", onnxruntime_web=package, precision="fp32")  # replaces it
    assert (tmp_path / "again" / "service-worker.js").read_bytes() != (site / "service-worker.js").read_bytes()
    assert paths_of(tmp_path / "again") == paths_of(site)


def test_python_opens_it_too(site: Path, model_file: Path, make_picture: MakePicture) -> None:
    picture = make_picture()
    assert load(site).caption(picture).text == load(model_file).caption(picture).text


def test_the_command_finds_the_package_beside_it(
    package: Path, model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(model_file), "--web", "page"]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == model_file.stem
    assert json.loads((tmp_path / "page" / "config.json").read_text())["precision"] == "fp16"
    package.rename(tmp_path / "elsewhere")
    assert main(["export", str(model_file), "--web", "page", "--onnxruntime-web", "elsewhere"]) == 0


def test_a_package_that_is_missing(
    model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(model_file), "--web", "page"]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "node_modules/onnxruntime-web" in line
    assert f"npm install onnxruntime-web@{ONNXRUNTIME_WEB}" in line
    assert list(tmp_path.iterdir()) == []


def test_the_lock_file_has_the_tested_version() -> None:
    lock = json.loads((ROOT / "package-lock.json").read_text(encoding="utf-8"))
    assert lock["packages"]["node_modules/onnxruntime-web"]["version"] == ONNXRUNTIME_WEB
    for name, package in lock["packages"].items():
        assert not name or (package["integrity"] and "resolved" not in package)


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (("--web", "page", "--output", "x"), "one of --output, --graphs and --web"),
        (("--web", "page", "--graphs"), "one of --output, --graphs and --web"),
        (("--graphs", "--onnxruntime-web", "x"), "--onnxruntime-web x"),
        (("--web", "page", "--precision", "int3"), "'int3'"),
        (("--web", "page", "--side", "64"), "--side is for a release"),
        (("--web", "taken"), "holds other files"),
        (("--web", "file"), "is no folder"),
    ],
)
def test_bad_input_is_one_line(
    arguments: tuple[str, ...],
    found: str,
    package: Path,
    model_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    assert main(["export", str(model_file), *arguments]) == 2
    line = capsys.readouterr().err
    assert found in line
    assert line.count("\n") == 1
    assert paths_of(tmp_path / "taken") == {"notes.txt"}
    assert {file.name for file in tmp_path.iterdir()} == {"node_modules", "taken", "file"}


def test_only_a_former_export_of_its_kind_is_replaced(
    site: Path, package: Path, model_file: Path, tmp_path: Path
) -> None:
    plain = tmp_path / "plain"
    export_folder(model_file, plain)
    with pytest.raises(OptionError, match="holds other files"):
        export_web(model_file, plain, onnxruntime_web=package)
    with pytest.raises(OptionError, match="holds other files"):
        export_folder(model_file, site)
    (site / "onnxruntime-web" / "mine.txt").write_text("mine")
    with pytest.raises(OptionError, match=r"onnxruntime-web/mine\.txt"):
        export_web(model_file, site, onnxruntime_web=package)
    (site / "onnxruntime-web" / "mine.txt").unlink()
    (site / "config.json").write_text("[]")  # damaged: no longer known as one
    with pytest.raises(OptionError, match="holds other files"):
        export_web(model_file, site, onnxruntime_web=package)


@pytest.mark.parametrize("decoding", [{"forbid_words": ["dog"]}, {"begin": "a"}, {"width": 4, "diverse_groups": 2}])
def test_what_the_search_of_the_page_lacks_is_refused(
    decoding: dict[str, Any], model_file: Path, package: Path, tmp_path: Path
) -> None:
    made = load_checkpoint(model_file)
    save(tmp_path / "m.safetensors", replace(made, about={**made.about, "decoding": decoding}))
    with pytest.raises(OptionError, match=f"its decoding has {list(decoding)[-1]}"):
        export_web(tmp_path / "m.safetensors", tmp_path / "site", onnxruntime_web=package)
    assert not (tmp_path / "site").exists()
