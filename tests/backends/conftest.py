"""Tiny models with graphs beside them, opened by each backend."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from captioner import checkpoint
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


@pytest.fixture(scope="module", params=["lstm", "transformer", "lstm-padded", "transformer-padded"])
def pair(request: pytest.FixtureRequest, exported: Callable[[str], Path]) -> tuple[Captioner, Captioner]:
    """A tiny model on torch and on ONNX Runtime."""
    path = exported(request.param)
    return load(path, backend="torch"), load(path, backend="onnx", threads=1)
