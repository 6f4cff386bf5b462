"""Tiny models with graphs beside them and as folders, opened by each backend."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from captioner import checkpoint
from captioner.export.folder import export_folder
from captioner.export.graphs import write_graphs
from captioner.pipeline import Captioner, load


@pytest.fixture(scope="session")
def exported(
    tmp_path_factory: pytest.TempPathFactory, make_checkpoint: Callable[..., checkpoint.Checkpoint]
) -> Callable[[str], Path]:
    """The file of a tiny model with graphs: "lstm", "transformer", "lstm-padded", "transformer-padded"."""

    @cache
    def make(kind: str) -> Path:
        decoder, _, pad = kind.partition("-")
        path: Path = tmp_path_factory.mktemp("exported") / f"{kind}.safetensors"
        checkpoint.save(path, make_checkpoint(decoder, pad=bool(pad)))
        write_graphs(path)
        return path

    return make


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, exported: Callable[[str], Path]) -> Callable[[str], Path]:
    """A model of `exported` as a folder, made of the graphs beside it."""

    @cache
    def make(kind: str) -> Path:
        path: Path = tmp_path_factory.mktemp("folder") / kind
        export_folder(exported(kind), path)
        return path

    return make


@pytest.fixture(
    scope="module",
    params=["lstm", "transformer", "lstm-padded", "transformer-padded", "lstm in a folder", "transformer in a folder"],
)
def pair(
    request: pytest.FixtureRequest, exported: Callable[[str], Path], folder: Callable[[str], Path]
) -> tuple[Captioner, Captioner]:
    """A tiny model on torch and on ONNX Runtime, with the graphs beside its file or as an exported folder."""
    kind, _, where = request.param.partition(" ")
    path = exported(kind)
    return load(path, backend="torch"), load(folder(kind) if where else path, backend="onnx", threads=1)
