"""What sessions of ONNX Runtime change of the process that they are in."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from captioner.backends import sessions
from captioner.errors import OptionError

VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


@pytest.fixture
def set_parameters(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The parameters of malloc that are set while a session is made, in place of setting them."""
    found: list[tuple[int, int]] = []
    monkeypatch.setattr(sessions, "_set_malloc", lambda *one: found.append(one))
    monkeypatch.setattr(sessions, "_LARGE", 100)
    monkeypatch.setattr(sessions, "InferenceSession", Session)
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return found


class Session:
    """In place of a session of ONNX Runtime."""

    def __init__(self, *arguments: Any, **options: Any) -> None: ...

    def get_providers(self) -> list[str]:
        return ["CPUExecutionProvider"]


def make(size: int) -> None:
    weights = {"w": np.zeros(size, np.uint8)}
    sessions.make_session(Path("g.onnx"), b"", weights, device="cpu")


def test_large_models_return_freed_blocks_and_small_ones_do_not(set_parameters: list[tuple[int, int]]) -> None:
    make(99)
    assert not set_parameters
    make(100)
    assert len(set_parameters) == 3, "one while the session starts, and both after it"
    assert set_parameters[0][1] < set_parameters[1][1]


@pytest.mark.parametrize("name", VARIABLES)
def test_who_has_set_them_keeps_them(
    name: str, set_parameters: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "glibc.malloc.mmap_threshold=4096" if name == "GLIBC_TUNABLES" else "4096")
    make(100)
    assert not set_parameters


def test_other_settings_of_glibc_do_not_matter(
    set_parameters: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.pthread.rseq=0")
    make(100)
    assert set_parameters


@pytest.mark.parametrize("device", ["cpu:", "cpu:0", "cuda:", "cuda:\u00b2", "cuda:x", "tpu"])
def test_a_device_that_does_not_exist_is_refused(device: str) -> None:
    with pytest.raises(OptionError, match="no device"):
        sessions.find_provider(device)
