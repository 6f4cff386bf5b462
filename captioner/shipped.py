"""The models that ship, and any model's file by name or path."""

import os
from pathlib import Path

from captioner.errors import CheckpointError
from captioner.header import EXPORTED

DEFAULT_MODEL = "default"


def find_model(model: str | os.PathLike[str]) -> Path:
    """The file of a model that is given by name or path.

    Raises:
        CheckpointError: there is none; the message lists the names.
    """
    text = os.fspath(model)
    if "://" in text:
        raise CheckpointError(f"{text}: models are files", remedy="fetch it first")
    if text.endswith(".safetensors") or os.sep in text:
        path = Path(text).expanduser()
        if path.is_file() or (path / EXPORTED).is_file():
            return path
        if path.is_dir():
            raise CheckpointError(f"{path}: a folder without {EXPORTED}, so not an exported model")
        raise CheckpointError(f"{path}: no such model file")
    models = shipped_models()
    if text in models:
        return models[text]
    if (Path(text) / EXPORTED).is_file():
        return Path(text)
    names = ", ".join(models) or "none"
    raise CheckpointError(f"no model is called '{text}'; shipped: {names}", remedy="a .safetensors file works too")


def shipped_models() -> dict[str, Path]:
    """The models in ``checkpoints/`` by name, the default first."""
    folder = Path(__file__).parent / "checkpoints"
    if not folder.is_dir():  # a checkout: the folder stands beside the package
        folder = folder.parent.parent / "checkpoints"
    files = sorted(folder.glob("*.safetensors"), key=lambda file: (file.stem != DEFAULT_MODEL, file.stem))
    return {file.stem: file for file in files}
