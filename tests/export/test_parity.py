"""What the comparison of an export with torch tells its author."""

from pathlib import Path

import numpy as np
import pytest

from captioner.errors import OptionError
from captioner.export.parity import parity
from captioner.pipeline import load


def test_a_graph_of_one_size_is_no_damaged_graph(quick_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = load(quick_model, backend="onnx").backend

    class Session:  # as of a decoder whose number of pictures was traced as a constant
        def run(self, outputs: list[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
            raise RuntimeError("Got invalid dimensions for input: tokens Got: 1 Expected: 2")

    monkeypatch.setattr(backend, "session", lambda graph: Session())
    with pytest.raises(OptionError, match="1 pictures of 1 rows") as error:
        parity(backend, backend)
    assert "tensor.shape" in str(error.value)
    assert "damaged" not in str(error.value)
