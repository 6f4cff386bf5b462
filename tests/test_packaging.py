"""What an installation carries: the package, its types, the model, the command."""

import configparser
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory, stored_wheels: dict[str, str]) -> Path:
    pytest.importorskip("setuptools", reason="building a wheel without the network needs setuptools here")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet"]
    # Built from a copy: setuptools leaves a build folder beside what it builds.
    copy = folder / "source"
    copy.mkdir()
    for name in ("captioner", "checkpoints"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    line, environment = [*command, "--wheel-dir", str(folder), str(copy)], os.environ | stored_wheels
    result = subprocess.run(line, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 0, result.stderr
    (built,) = folder.glob("captioner-*.whl")
    return built


def test_the_wheel_carries_every_module_the_types_and_the_models(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {str(p.relative_to(ROOT)) for p in (ROOT / "captioner").rglob("*.py")}
    assert modules <= names
    assert "captioner/py.typed" in names
    data = {str(p.relative_to(ROOT)) for folder in ("static", "viewer") for p in ROOT.glob(f"captioner/**/{folder}/*")}
    assert "captioner/export/web/static/worker.js" in data
    assert data <= names
    models = {f"captioner/checkpoints/{p.name}" for p in (ROOT / "checkpoints").glob("*.safetensors")}
    assert "captioner/checkpoints/transformer.safetensors" in models
    assert models <= names
    assert "captioner/checkpoints/README.md" in names


def test_an_installation_captions_from_any_folder(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    code = (
        "import captioner, numpy, captioner.shipped as c\n"
        "print(c.shipped_models()['transformer'])\n"
        "print(captioner.load().caption(numpy.zeros((40, 60, 3), 'uint8')).text)\n"
    )
    environment = {"PYTHONPATH": str(site), "PATH": "/usr/bin:/bin"}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    path, text = result.stdout.splitlines()
    assert Path(path).is_relative_to(site)
    assert text


def test_every_package_is_declared() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    declared = set(config["options"]["packages"].split())
    found = {str(p.parent.relative_to(ROOT)).replace("/", ".") for p in (ROOT / "captioner").rglob("__init__.py")}
    assert declared == found | {"captioner.checkpoints"}
