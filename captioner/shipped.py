"""The models that ship, and any model's file by name or path."""

from __future__ import annotations

import os
from functools import cache

from captioner.errors import CheckpointError
from captioner.foreign import PREFIX, fetch, is_foreign
from captioner.header import EXPORTED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

DEFAULT_MODEL = "default"
"""A name for `SHIPPED_DEFAULT`, whichever that is."""
SHIPPED_DEFAULT = "transformer"
DEFAULT_ANSWERING_MODEL = "answers"


def find_model(model: str | os.PathLike[str], *, answering: bool | None = False) -> Path:
    """The file of a model that is given by name or path.

    Args:
        model: a name, a path, or "hf:owner/name", which is fetched; see `captioner.foreign.fetch`.
        answering: a name is one of the models that answer questions, not of those that make captions; None for any.

    Raises:
        CheckpointError: there is none; the message lists the names.
    """
    from pathlib import Path

    if not isinstance(model, (str, os.PathLike)) or not isinstance(text := os.fspath(model), str):
        raise CheckpointError(f"a model is a name or a path, not {model!r:.60}")
    if text.startswith(PREFIX):
        if answering:
            raise CheckpointError(f"{text}: models of the hub make captions here, and answer no questions")
        return _fetched(text)
    if "://" in text:
        raise CheckpointError(f"{text}: models are files", remedy="fetch it first")
    if text.endswith(".safetensors") or os.sep in text:
        path = Path(os.path.expanduser(text))  # noqa: PTH111 - which leaves "~nobody" as it is
        if os.path.isfile(path) or os.path.isfile(path / EXPORTED):  # noqa: PTH113 - also names that are too long
            return path
        is_folder = os.path.isdir(path)  # noqa: PTH112
        raise _not_exported(path) if is_folder else CheckpointError(f"{path}: no such model file")
    captioning, others = shipped_models(), shipped_answering_models()
    models, names = with_default(captioning), ", ".join(captioning)
    if answering is None:
        models, others, names = {**models, **others}, {}, ", ".join((*captioning, *others))
    elif answering:
        models, others, names = others, models, ", ".join(others)
    if text in models:
        return models[text]
    if os.path.isfile(Path(text) / EXPORTED):  # noqa: PTH113
        return Path(text)
    names = names or "none"
    if text in others:
        what = "makes captions, and answers no questions" if answering else "answers questions, and makes no captions"
        raise CheckpointError(f"the model '{text}' {what}; shipped for this: {names}")
    if text and os.path.isdir(text):  # noqa: PTH112
        raise _not_exported(Path(text))
    raise CheckpointError(f"no model is called '{text}'; shipped: {names}", remedy="a .safetensors file works too")


def _not_exported(folder: Path) -> CheckpointError:
    remedy = "'captioner export MODEL --output FOLDER' writes a whole one"
    return CheckpointError(f"{folder}: a folder without {EXPORTED}, so not an exported model", remedy=remedy)


@cache
def _fetched(name: str) -> Path:
    folder = fetch(name)
    ours = folder / "model.safetensors"  # in a folder that `captioner.hub` wrote
    return ours if ours.is_file() and not is_foreign(folder) else folder


def shipped_models() -> dict[str, Path]:
    """The captioning models in ``checkpoints/`` by name, the default first."""
    from pathlib import Path

    return {name: Path(file) for name, file in shipped_files().items()}


def with_default(models: Mapping[str, Path]) -> dict[str, Path]:
    """Captioning models by name, and the default one also as `DEFAULT_MODEL`."""
    default = {DEFAULT_MODEL: models[SHIPPED_DEFAULT]} if SHIPPED_DEFAULT in models else {}
    return {**default, **models}


def shipped_answering_models() -> dict[str, Path]:
    """The answering models in ``checkpoints/answering/`` by name, the default first."""
    from pathlib import Path

    return {name: Path(file) for name, file in shipped_answering_files().items()}


def shipped_files() -> dict[str, str]:
    """As `shipped_models`, without `pathlib`, whose import takes longer."""
    return _files_in(_checkpoints(), SHIPPED_DEFAULT)


def shipped_answering_files() -> dict[str, str]:
    """As `shipped_answering_models`, without `pathlib`."""
    return _files_in(f"{_checkpoints()}/answering", DEFAULT_ANSWERING_MODEL)


def _checkpoints() -> str:
    folder = f"{os.path.dirname(os.path.abspath(__file__))}/checkpoints"  # noqa: PTH100, PTH120
    if not os.path.isdir(folder):  # noqa: PTH112 - a checkout: the folder stands beside the package
        folder = os.path.normpath(f"{folder}/../../checkpoints")
    return folder


def _files_in(folder: str, default: str) -> dict[str, str]:
    names = os.listdir(folder) if os.path.isdir(folder) else []  # noqa: PTH112, PTH208
    stems = [name.removesuffix(".safetensors") for name in names if name.endswith(".safetensors") and name[0] != "."]
    ordered = sorted(stems, key=lambda stem: (stem != default, stem))
    return {stem: os.path.join(folder, f"{stem}.safetensors") for stem in ordered}  # noqa: PTH118
