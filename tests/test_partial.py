"""Files that are written beside their place: what a killed process left is removed, and nothing else."""

import fcntl
from pathlib import Path

import pytest

from captioner.partial import remove_stale

STALE = ".captioner-123-0a1b2c3d.partial"


def test_only_what_a_dead_process_left_is_removed(tmp_path: Path) -> None:
    left = [tmp_path / STALE, tmp_path / f"{STALE}.safetensors"]
    others = [tmp_path / name for name in (".captioner-notes.partial.md", "photo.partial", f"{STALE}-2")]
    for path in [*left, *others]:
        path.touch()
    (tmp_path / ".captioner-5-00000000.partial").symlink_to(others[1])
    remove_stale(tmp_path)
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in others) and len(list(tmp_path.iterdir())) == 4


def test_what_another_process_writes_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / STALE
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        remove_stale(tmp_path)
        assert path.exists()

    def without_locks(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", without_locks)
    remove_stale(tmp_path)
    assert path.exists(), "without locks nobody knows whether it is in use"
