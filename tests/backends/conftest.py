"""Tiny models, opened by each backend."""

from collections.abc import Callable
from pathlib import Path

import pytest

from captioner.pipeline import Captioner, load


@pytest.fixture(scope="module", params=["lstm-padded", "transformer-padded"])
def pair(request: pytest.FixtureRequest, exported: Callable[[str], Path]) -> tuple[Captioner, Captioner]:
    """A tiny model on torch and on ONNX Runtime. Its pictures are padded; those of the shipped models are not."""
    path = exported(request.param)
    return load(path, backend="torch"), load(path, backend="onnx", threads=1)
