"""What a source holds, and what workers read of it; a file that cannot be read is a row."""

import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from captioner.errors import DataError, OptionError

pa = pytest.importorskip("pyarrow", reason="needs the extra 'parquet', which is not installed")
import pyarrow.parquet as pq  # noqa: E402

from captioner.bulk.plan import plan  # noqa: E402
from captioner.bulk.sources import Row, Source  # noqa: E402
from captioner.data.selection import Selection  # noqa: E402


@pytest.fixture
def photos(make_picture: Callable[..., Path]) -> Path:
    for i, name in enumerate(("a.png", "sub/b.png", "sub/deep/c.png")):
        path = make_picture(f"photos/{name}", seed=i)
    return path.parents[2]


def read(source: Source, done: Any = (), **options: Any) -> dict[str, Row]:
    found = [row for chunk in plan(source.chunks(**options), done).chunks for row in chunk.rows(source.filesystem)]
    assert len({row.image for row in found}) == len(found)
    return {row.image: row for row in found}


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_a_folder_of_pictures(photos: Path, prefix: str) -> None:
    (photos / "notes.txt").write_text("notes")
    (photos / "broken.png").symlink_to("nowhere.png")
    source = Source.of(f"{prefix}{photos}")
    notes: list[str] = []
    found = read(source, notes=notes)
    assert set(found) == {"a.png", "sub/b.png", "sub/deep/c.png", "broken.png"}
    assert found["sub/b.png"].data == (photos / "sub" / "b.png").read_bytes()
    assert found["broken.png"].data is None and "nowhere" in str(found["broken.png"].error)
    assert "1 .txt" in notes[0]
    assert set(read(source, selection=Selection(exclude=("deep", "broken*")))) == {"a.png", "sub/b.png"}
    assert set(read(source, done=[("a.png", False), ("broken.png", True)])) == {"sub/b.png", "sub/deep/c.png"}
    assert set(read(Source.of(str(photos / "a.png")))) == {"a.png"}


def test_a_remote_folder_is_listed_alike(photos: Path) -> None:
    local = Source.of(str(photos))
    (photos / "out").mkdir()
    (photos / "out" / "d.png").write_bytes(b"")
    (photos / ".hidden.png").write_bytes(b"")
    remote = Source("s3://bucket/photos", local.filesystem, local.path, local=False)
    left_out = [str(photos / "out")]
    assert set(read(remote, leave_out=left_out)) == set(read(local, leave_out=left_out))
    assert set(read(remote, selection=Selection(recursive=False))) == {"a.png"}
    assert set(read(remote, selection=Selection(exclude=("sub", "out")))) == {"a.png"}


def test_a_file_that_goes_or_may_not_be_read_is_a_row(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source.of(str(photos))
    chunks = list(source.chunks())
    (photos / "a.png").unlink()
    monkeypatch.setattr("captioner.bulk.sources._LARGEST", 10)
    rows = {row.image: row for chunk in chunks for row in chunk.rows(source.filesystem)}
    assert "no such file" in str(rows["a.png"].error)
    assert "too many" in str(rows["sub/b.png"].error)


def test_shards(photos: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    shards.mkdir()
    for name, some in (("0.tar", ["a.png", "sub/b.png"]), ("1.tar", ["sub/deep/c.png"])):
        with tarfile.open(shards / name, "w") as tar:
            for one in some:
                tar.add(photos / one, one)
    (shards / "2.tar").write_bytes(b"no tar")
    found = read(Source.of(str(shards)), done=[("0.tar/a.png", False)])
    assert set(found) == {"0.tar/sub/b.png", "1.tar/sub/deep/c.png", "2.tar"}
    assert found["1.tar/sub/deep/c.png"].data == (photos / "sub/deep/c.png").read_bytes()
    assert "2.tar" in str(found["2.tar"].error)


@pytest.fixture
def tables(photos: Path, tmp_path: Path) -> Path:
    """A table of bytes in two row groups, and one of paths."""
    folder = tmp_path / "tables"
    folder.mkdir()
    data = [(photos / name).read_bytes() for name in ("a.png", "sub/b.png", "sub/deep/c.png")]
    table = pa.table({"key": ["x", "y", "z"], "picture": [data[0], None, data[2]]})
    pq.write_table(table, folder / "bytes.parquet", row_group_size=2)
    pq.write_table(
        pa.table({"path": [os.path.relpath(photos / "a.png", folder), "gone.png"]}), folder / "paths.parquet"
    )
    return folder


def test_tables(tables: Path, photos: Path) -> None:
    source = Source.of(str(tables))
    found = read(source, done=[("bytes.parquet/00000000", False)])
    assert list(found) == [
        f"{name}.parquet/{row:08}" for name, row in [("bytes", 1), ("bytes", 2), ("paths", 0), ("paths", 1)]
    ]
    assert "picture" in str(found["bytes.parquet/00000001"].error)
    assert found["bytes.parquet/00000002"].data == (photos / "sub/deep/c.png").read_bytes()
    assert found["paths.parquet/00000000"].data == (photos / "a.png").read_bytes()
    assert "no such file" in str(found["paths.parquet/00000001"].error)


def test_keys_of_tables(tables: Path) -> None:
    source = Source.of(str(tables / "bytes.parquet"))
    assert set(read(source, key="key")) == {"x", "y", "z"}
    pq.write_table(pa.table({"key": ["x", "x"], "picture": [b"a", b"b"]}), tables / "twice.parquet")
    with pytest.raises(DataError, match=r"'x'.*--key"):
        read(Source.of(str(tables / "twice.parquet")), key="key")
    pq.write_table(pa.table({"key": ["x", None], "picture": [b"a", b"b"]}), tables / "null.parquet")
    with pytest.raises(OptionError, match="'key'"):
        read(Source.of(str(tables / "null.parquet")), key="key")


def test_a_table_that_is_cut_off_is_a_row(tables: Path) -> None:
    whole = (tables / "bytes.parquet").read_bytes()
    (tables / "bytes.parquet").write_bytes(whole[: len(whole) // 2])
    found = read(Source.of(str(tables)))
    assert "bytes.parquet" in str(found["bytes.parquet"].error) and "paths.parquet/00000000" in found


@pytest.mark.parametrize(
    ("options", "value", "remedy"),
    [
        ({"column": "image"}, "'image'", "--column"),
        ({"column": "picture", "key": "name"}, "'name'", "--key"),
    ],
)
def test_a_table_without_the_column(tables: Path, options: dict[str, str], value: str, remedy: str) -> None:
    with pytest.raises(DataError) as error:
        read(Source.of(str(tables / "bytes.parquet")), **options)
    assert value in str(error.value) and remedy in error.value.remedy


def test_sources_that_are_none(tmp_path: Path, tables: Path, photos: Path) -> None:
    with pytest.raises(OptionError, match=r"gone"):
        Source.of(str(tmp_path / "gone"))
    with pytest.raises(OptionError, match="zip://"):
        Source.of("zip://bucket/photos")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no pictures"):
        read(Source.of(str(tmp_path / "empty")))
    (tables / "a.png").write_bytes((photos / "a.png").read_bytes())
    with pytest.raises(DataError, match=r"1 pictures.*--include"):
        read(Source.of(str(tables)))
    assert set(read(Source.of(str(tables)), selection=Selection(include=("*.png",)))) == {"a.png"}
    with pytest.raises(OptionError, match="--key"):
        read(Source.of(str(photos)), key="name")
