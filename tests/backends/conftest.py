"""Tiny models, opened by each backend."""

from collections.abc import Callable
from pathlib import Path

import pytest

from captioner.export.folder import export_folder
from captioner.pipeline import Captioner, load

FOREIGN = ["vit-gpt2", "git", "blip-2 opt", "qwen2.5-vl"]
"""One of each kind of attention: cross-attention, self-attention, both in turn, and within a conversation."""

KINDS = ["lstm-padded", "transformer-padded", "transformer-padded in a folder"]  # a folder holds the same graphs


@pytest.fixture(scope="module", params=[*KINDS, *FOREIGN])
def pair(
    request: pytest.FixtureRequest,
    exported: Callable[[str], Path],
    for_all_processes: Callable[[str, Callable[[Path], object]], Path],
) -> tuple[Captioner, Captioner]:
    """A tiny model on torch and on ONNX Runtime: with the graphs beside its file, and as an exported folder.

    Its pictures are padded; those of the shipped models are not. Of foreign models, which run on transformers alone,
    the first has no cache and reads the whole caption at each step.
    """
    if request.param in FOREIGN:
        model = request.getfixturevalue("foreign")(request.param)
        from tests.backends.rereading import Rereading

        return Captioner(Rereading(model.backend), name=model.name), model  # type: ignore[arg-type]
    kind, _, in_folder = request.param.partition(" ")
    path = exported(kind)
    if in_folder:
        folder = for_all_processes(f"folder-{kind}", lambda target: export_folder(path, target))
        return load(path, backend="torch"), load(folder, backend="onnx", threads=1)
    return load(path, backend="torch"), load(path, backend="onnx", threads=1)
