"""A tiny model with graphs beside it, so that no test traces it again."""

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def model_file(exported: Callable[[str], Path]) -> Path:
    return exported("lstm-padded")
