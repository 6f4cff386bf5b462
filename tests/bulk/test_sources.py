"""What a source holds, and what workers read of it; a file that cannot be read is a row."""

import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from captioner.errors import DataError, OptionError

pa = pytest.importorskip("pyarrow", reason="needs the extra 'parquet', which is not installed")
import pyarrow.parquet as pq  # noqa: E402

from captioner.bulk.chunks import Row  # noqa: E402
from captioner.bulk.plan import plan  # noqa: E402
from captioner.bulk.sources import Source  # noqa: E402
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


def test_folders_that_cannot_be_read_are_named_beside_tables(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.parquet", "sub/b.parquet", ".hidden/c.parquet", "out/d.parquet"):
        (tmp_path / "tables" / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"image": [(photos / "a.png").read_bytes()]}), tmp_path / "tables" / name)
    scandir = os.scandir

    def refused(path: str) -> Any:
        if str(path).endswith(("/sub", "/.hidden", "/out")):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    found = read(Source.of(str(tmp_path / "tables")), selection=Selection(exclude=("out",)))
    assert set(found) == {"a.parquet/00000000", "sub"}
    assert "cannot be read (Permission denied)" in str(found["sub"].error)


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
    monkeypatch.setattr("captioner.bulk.chunks._LARGEST", 10)
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


def three_in_a_shard(photos: Path, folder: Path) -> tuple[Path, tarfile.TarInfo]:
    """A shard of three pictures, and the last of its members."""
    shard = folder / "0.tar"
    with tarfile.open(shard, "w") as tar:
        for one in ("a.png", "sub/b.png", "sub/deep/c.png"):
            tar.add(photos / one, one)
    with tarfile.open(shard) as tar:
        return shard, tar.getmembers()[-1]


def test_a_shard_that_is_cut_off_gives_what_is_whole(photos: Path, tmp_path: Path) -> None:
    shard, last = three_in_a_shard(photos, tmp_path)
    whole = shard.read_bytes()
    shard.write_bytes(whole[: last.offset + 100])  # in a header
    found = read(Source.of(str(shard)))
    assert list(found) == ["0.tar/a.png", "0.tar/sub/b.png", "0.tar"]
    assert found["0.tar/sub/b.png"].data == (photos / "sub/b.png").read_bytes()
    assert "cut off" in str(found["0.tar"].error)


def test_what_fails_in_mid_shard_comes_once(photos: Path, tmp_path: Path) -> None:
    shard, last = three_in_a_shard(photos, tmp_path)
    source = Source.of(str(shard))
    (chunk,) = source.chunks()
    whole = shard.read_bytes()
    shard.write_bytes(whole[: last.offset_data + 5])  # it is written while it is read
    rows = list(chunk.rows(source.filesystem))
    assert [row.image for row in rows] == list(chunk.ids)
    assert [row.data is None for row in rows] == [False, False, True] and "5 of" in str(rows[2].error)

    class Failing:
        reads = 0

        def __enter__(self) -> "Failing":
            return self

        def __exit__(self, *_: object) -> None: ...
        def seek(self, offset: int) -> None: ...

        def read(self, size: int) -> bytes:
            self.reads += 1
            if self.reads == 2:
                raise OSError("gone")
            return bytes(size)

    filesystem: Any = SimpleNamespace(open_input_file=lambda _: Failing())
    rows = list(chunk.rows(filesystem))
    assert [(row.image, row.data is None) for row in rows] == list(zip(chunk.ids, [False, True, True], strict=True))


def test_names_that_are_not_utf8(photos: Path, tmp_path: Path) -> None:
    try:
        Path(os.fsdecode(os.fsencode(photos) + b"/\xff.png")).write_bytes(b"x")
    except OSError:
        pytest.skip("the file system takes no such names")
    found = read(Source.of(str(photos)))
    name = "\\udcff.png"
    assert set(found) == {"a.png", "sub/b.png", "sub/deep/c.png", name}
    assert "UTF-8" in str(found[name].error) and found[name].remedy
    assert name not in read(Source.of(str(photos)), done=[(name, True)])
    with pytest.raises(OptionError, match="UTF-8"):
        Source.of(os.fsdecode(os.fsencode(photos) + b"/\xff.png"))
    folder = tmp_path / "shards"
    folder.mkdir()
    for shard in (b"/\xff.tar", b"/0.tar"):
        with tarfile.open(os.fsdecode(os.fsencode(folder) + shard), "w") as tar:
            tar.add(photos / "a.png", os.fsdecode(b"\xff.png"))
    found = read(Source.of(str(folder)))
    assert set(found) == {"\\udcff.tar", "0.tar/\\udcff.png"}
    assert found["0.tar/\\udcff.png"].data == (photos / "a.png").read_bytes()


def test_folders_that_begin_with_an_underscore(photos: Path, tmp_path: Path) -> None:
    (photos / "sub").rename(photos / "_sub")
    local = Source.of(str(photos))
    remote = Source("s3://bucket/photos", local.filesystem, local.path, local=False)
    assert set(read(remote)) == set(read(local)) == {"a.png", "_sub/b.png", "_sub/deep/c.png"}
    (tmp_path / "tables" / "out" / "_staging" / "1").mkdir(parents=True)
    for name in ("a.parquet", "out/_staging/1/part.parquet"):
        pq.write_table(pa.table({"picture": [b"x"]}), tmp_path / "tables" / name)
    assert set(read(Source.of(str(tmp_path / "tables")))) == {"a.parquet/00000000"}


def test_folders_that_link_to_each_other(tables: Path) -> None:
    (tables / "again").symlink_to(tables)
    assert len(read(Source.of(str(tables)))) == 5


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


def test_structs_with_paths(photos: Path) -> None:
    values = [{"bytes": None, "path": "a.png"}, {"bytes": b"x", "path": "a.png"}, {"bytes": None, "path": None}]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"image": pa.array(values, type=kind)}), photos / "hf.parquet")
    one, two, three = read(Source.of(str(photos / "hf.parquet"))).values()
    assert (one.data, two.data, three.data) == ((photos / "a.png").read_bytes(), b"x", None)
    assert "empty" in str(three.error)


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
    with pytest.raises(DataError, match=r"1 picture\).*--include"):
        read(Source.of(str(tables)))
    assert set(read(Source.of(str(tables)), selection=Selection(include=("*.png",)))) == {"a.png"}
    with pytest.raises(OptionError, match="--key"):
        read(Source.of(str(photos)), key="name")


def test_a_single_remote_picture_is_a_source(photos: Path, tmp_path: Path) -> None:
    local = Source.of(str(photos))
    one = Source("s3://bucket/photos/a.png", local.filesystem, f"{local.path}/a.png", local=False)
    assert set(read(one)) == {"a.png"}
    (tmp_path / "photos.v2").mkdir()
    empty = Source("s3://bucket/photos.v2", local.filesystem, str(tmp_path / "photos.v2"), local=False)
    with pytest.raises(DataError, match="no pictures"):
        list(empty.chunks())
