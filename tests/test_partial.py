"""Files that are written beside their place: what a killed process left is removed, and nothing else."""

import fcntl
import os
from pathlib import Path

import pytest

from captioner import partial
from captioner.partial import open_locked, remove_stale, rewrite_locked

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


def test_a_file_that_is_written_again_stays_locked(tmp_path: Path) -> None:
    place = tmp_path / "rows.jsonl"
    opened = open_locked(place)
    assert opened is not None and opened[1]
    assert open_locked(place) is None
    with pytest.raises(OSError):
        rewrite_locked(tmp_path / "gone" / "rows.jsonl", b"")
    new = rewrite_locked(place, b"new\n")
    os.close(opened[0])
    assert place.read_bytes() == b"new\n" and open_locked(place) is None
    os.write(new, b"more\n")
    os.close(new)
    assert place.read_bytes() == b"new\nmore\n" and [one.name for one in tmp_path.iterdir()] == ["rows.jsonl"]
    again = open_locked(place)
    assert again is not None and not again[1]
    os.close(again[0])


def test_a_file_that_was_replaced_while_it_was_opened_is_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "rows.jsonl"
    place.write_bytes(b"old\n")
    lock = partial.try_lock

    def replaced_meanwhile(descriptor: int) -> bool:
        monkeypatch.setattr(partial, "try_lock", lock)
        place.with_name("new").write_bytes(b"new\n")
        place.with_name("new").replace(place)
        return lock(descriptor)

    monkeypatch.setattr(partial, "try_lock", replaced_meanwhile)
    opened = open_locked(place)
    assert opened is not None
    assert os.read(opened[0], 10) == b"new\n"
    os.close(opened[0])
