"""The models that ship, and any model's file by name or path."""

import os
from pathlib import Path

from captioner.errors import CheckpointError
from captioner.header import EXPORTED

DEFAULT_MODEL = "default"
DEFAULT_ANSWERING_MODEL = "answers"


def find_model(model: str | os.PathLike[str], *, answering: bool = False) -> Path:
    """The file of a model that is given by name or path.

    Args:
        model: a name or a path.
        answering: a name is one of the models that answer questions, not of those that make captions.

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
    models, others = shipped_models(), shipped_answering_models()
    if answering:
        models, others = others, models
    if text in models:
        return models[text]
    if (Path(text) / EXPORTED).is_file():
        return Path(text)
    names = ", ".join(models) or "none"
    if text in others:
        what = "makes captions, and answers no questions" if answering else "answers questions, and makes no captions"
        raise CheckpointError(f"the model '{text}' {what}; shipped for this: {names}")
    raise CheckpointError(f"no model is called '{text}'; shipped: {names}", remedy="a .safetensors file works too")


def shipped_models() -> dict[str, Path]:
    """The captioning models in ``checkpoints/`` by name, the default first."""
    return _models_in(_checkpoints(), DEFAULT_MODEL)


def shipped_answering_models() -> dict[str, Path]:
    """The answering models in ``checkpoints/answering/`` by name, the default first."""
    return _models_in(_checkpoints() / "answering", DEFAULT_ANSWERING_MODEL)


def _checkpoints() -> Path:
    folder = Path(__file__).parent / "checkpoints"
    if not folder.is_dir():  # a checkout: the folder stands beside the package
        folder = folder.parent.parent / "checkpoints"
    return folder


def _models_in(folder: Path, default: str) -> dict[str, Path]:
    files = sorted(folder.glob("*.safetensors"), key=lambda file: (file.stem != default, file.stem))
    return {file.stem: file for file in files}
