"""The output: a part counts when it is whole and in its place, once; what another run made is refused."""

import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from captioner.data.writers import Provenance
from captioner.errors import CaptionerError, DataError, OptionError

pa = pytest.importorskip("pyarrow", reason="needs the extra 'parquet', which is not installed")

from pyarrow.dataset import dataset  # noqa: E402

from captioner.bulk import outcome_schema  # noqa: E402
from captioner.bulk.parts import Parts, checksum  # noqa: E402

MADE = Provenance(model="tiny", digest="1", decoding={"width": 3}, maps={"storage": "none"})


def rows(*names: str, failed: str = "") -> Any:
    values = [{"image": name, "error": f"{name}: gone" if name == failed else None} for name in names]
    return pa.Table.from_pylist(values, schema=outcome_schema())


def opened(path: Path, *, made: Provenance = MADE, source: str = "photos", **options: Any) -> tuple[Parts, Any]:
    parts = Parts(str(path), **options)
    parts.check(made, source)
    parts.lock()
    return parts, parts.begin()


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """A folder with two parts, and a third that was never committed."""
    parts, staging = opened(tmp_path / "out")
    for some in (rows("a", "b"), rows("c", "d", failed="d")):
        staging.commit(staging.write(some))
    staging.write(rows("e"))
    (tmp_path / "out" / "_staging" / "half.parquet").write_bytes(b"PAR1 half")
    os.close(parts._lock)  # as a kill does
    return tmp_path / "out"


def test_what_is_committed_counts(output: Path) -> None:
    parts, staging = opened(output)
    assert sorted(parts.done()) == [("a", False), ("b", False), ("c", False), ("d", True)]
    assert staging.write(rows("a", "b")) in parts.parts()  # a task that runs again gives the same name
    assert dataset(output).count_rows() == 4  # other readers see neither the staging nor what is beside it
    parts.close()
    assert not (output / "_staging").exists()


def test_failures_are_removed_to_be_tried_again(output: Path) -> None:
    parts, staging = opened(output)
    staging.commit(staging.write(rows("e", failed="e")))
    assert parts.remove_failures({"a", "e"}) == 1  # the failures of others stay
    assert sorted(parts.done()) == [("a", False), ("b", False), ("c", False), ("d", True)]
    assert parts.remove_failures({"d", "e"}) == 1
    assert sorted(parts.done()) == [("a", False), ("b", False), ("c", False)]
    assert len(parts.parts()) == 2


@pytest.mark.parametrize(
    ("made", "source", "value"),
    [
        (Provenance(model="best", digest="2", decoding={"width": 3}), "photos", "best"),
        (Provenance(model="tiny", digest="1", decoding={"width": 5}), "photos", "beam 3, not 5"),
        (Provenance(model="tiny", digest="1", maps={"storage": "fp16"}), "photos", "storage none, not fp16"),
        (MADE, "others", "photos"),
    ],
)
def test_an_output_of_another_run_is_refused(output: Path, made: Provenance, source: str, value: str) -> None:
    with pytest.raises(OptionError, match=value) as error:
        opened(output, made=made, source=source)
    assert "--overwrite" in error.value.remedy
    parts, staging = opened(output, made=made, source=source, overwrite=True)
    assert list(parts.done()) == []
    staging.commit(part := staging.write(rows("e")))
    assert parts.parts() == [part]


def test_what_is_no_output(output: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OptionError, match="folder"):
        Parts(str(tmp_path / "file"))
    parts, _ = opened(output)
    with pytest.raises(OptionError, match="another run"):
        opened(output)
    parts.close()
    (output / "part-damaged.parquet").write_bytes(b"PAR1")
    parts, _ = opened(output)
    with pytest.raises(DataError, match=r"part-damaged\.parquet"):
        list(parts.done())
    (output / "_run.json").write_text("{")
    with pytest.raises(OptionError, match="--overwrite"):
        Parts(str(output)).check(MADE, "photos")
    (output / "_run.json").unlink()
    with pytest.raises(OptionError, match="--output") as error:
        Parts(str(output)).check(MADE, "photos")
    assert "--overwrite" not in str(error.value)


@pytest.mark.parametrize("name", ["photos.parquet", "part-1.parquet"])
def test_overwriting_removes_nothing_of_others(output: Path, name: str) -> None:
    parts, _ = opened(output, overwrite=True)
    parts.close()
    (output / name).write_bytes(b"PAR1")
    with pytest.raises(OptionError, match=name):
        opened(output, overwrite=True)
    assert (output / name).read_bytes() == b"PAR1"
    parts = Parts(str(output), overwrite=True)
    parts._run = {}
    parts.lock()
    staging = parts.begin()  # a file that came after the check
    part = staging.write(rows("x"))
    staging.commit(part)
    assert parts.parts() == sorted([name, part])


def test_parts_are_overwritten_by_the_first_that_is_committed(output: Path) -> None:
    before, run = Parts(str(output)).parts(), (output / "_run.json").read_bytes()
    parts, staging = opened(output, overwrite=True, made=replace(MADE, digest="2"))
    name = staging.write(rows("a", "b"))  # of the same pictures, and so of the same name
    assert Parts(str(output)).parts() == before and (output / "_run.json").read_bytes() == run
    for one in (name, staging.write(rows("e")), staging.write(rows("f"))):
        staging.commit(one)
    parts.close()
    assert json.loads((output / "_run.json").read_text())["digest"] == "2"
    assert sorted(name for name, _ in opened(output, made=replace(MADE, digest="2"))[0].done()) == ["a", "b", "e", "f"]


def test_overwriting_takes_parts_without_a_run_for_those_of_others(output: Path) -> None:
    (output / "_run.json").unlink()
    with pytest.raises(OptionError, match="part-"):
        opened(output, overwrite=True)
    assert len(Parts(str(output)).parts()) == 2


@pytest.mark.parametrize("there", [False, True])
def test_a_run_that_does_not_begin_leaves_nothing(tmp_path: Path, there: bool) -> None:
    output = tmp_path / "new"
    if there:
        opened(output)[0].close()
    parts = Parts(str(output))
    parts.lock()
    parts.close()
    assert output.exists() == there


def test_a_folder_that_cannot_be_made_has_no_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = Parts(str(tmp_path / "new"))

    def refused(*_: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(parts, "_take_lock", refused)
    with pytest.raises(OptionError, match="Permission denied") as error:
        parts.lock()
    assert "parts" not in str(error.value) and "--output" in error.value.remedy


def test_a_full_disk_is_one_line_and_keeps_the_parts(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts, staging = opened(output)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("pyarrow.parquet.write_table", full)
        with pytest.raises(CaptionerError, match="No space left") as error:
            staging.write(rows("e"))
    assert str(output) in str(error.value) and "run the same command again" in error.value.remedy
    assert len(list(parts.done())) == 4


def test_a_worker_that_does_not_see_the_folder_says_so(output: Path) -> None:
    parts, staging = opened(output)
    parts.close()
    with pytest.raises(OptionError, match="not seen") as error:
        staging.write(rows("e"))
    assert "s3://" in error.value.remedy


def test_checksums_know_what_is_lost_or_twice() -> None:
    assert checksum(["a", "b", "c"]) == checksum(["c", "a", "b"])
    assert len({checksum(names) for names in (["a", "b"], ["a"], ["a", "a"], ["a", "c"], [])}) == 5
