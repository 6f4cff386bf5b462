"""Pictures inside tar files and Parquet tables."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from captioner.data.packed import PACKED
from captioner.data.pictures import find_pictures
from captioner.data.readers import read
from captioner.errors import DataError

pa = pytest.importorskip("pyarrow", reason="needs pyarrow (captioner[parquet])")
import pyarrow.parquet as pq  # noqa: E402


def table(file: Path, **columns: object) -> Path:
    pq.write_table(pa.table(columns), file, row_group_size=50)
    return file


def test_rows_of_bytes_are_read_in_any_order(tmp_path: Path) -> None:
    values = [f"picture {i}".encode() for i in range(300)]
    path = table(tmp_path / "a.parquet", id=list(range(300)), image=values)
    found = list(PACKED[".parquet"]().pictures(path, column=None))
    assert [str(one) for one in found][:2] == [f"{path}/00000000", f"{path}/00000001"]
    for row in (0, 1, 299, 5, 130, 129):
        assert found[row].read_bytes() == values[row]  # type: ignore[union-attr]


def test_columns_of_datasets_and_of_paths(tmp_path: Path) -> None:
    form = PACKED[".parquet"]()
    structs = table(tmp_path / "hf.parquet", image=[{"bytes": b"x", "path": "a.jpg"}], caption=["a dog"])
    assert next(form.pictures(structs, column=None)).read_bytes() == b"x"  # type: ignore[union-attr]
    paths = table(tmp_path / "paths.parquet", path=["sub/a.jpg", "/b.jpg"], caption=["x", "y"])
    assert list(form.pictures(paths, column=None)) == [tmp_path / "sub/a.jpg", Path("/b.jpg")]
    null = table(tmp_path / "null.parquet", image=pa.array([None], pa.binary()))
    with pytest.raises(OSError, match="row 0 of the column 'image' is null"):
        next(form.pictures(null, column=None)).read_bytes()  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_links_in_an_archive_are_named(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, of in (("a.jpg", tarfile.REGTYPE), ("b.jpg", kind), ("notes.txt", kind)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = of, "" if of == tarfile.REGTYPE else "a.jpg"
            tar.addfile(member, io.BytesIO())
    pictures = PACKED[".tar"]().pictures(tmp_path / "a.tar", column=None)
    assert str(next(pictures)).endswith("a.jpg")
    with pytest.raises(DataError, match=r"a\.tar: .*1 link .*b\.jpg.*dereference"):
        next(pictures)


@pytest.mark.parametrize(
    ("columns", "column", "parts"),
    [
        ({"image": [b"x"]}, "picture", ("picture", "image (binary)")),
        ({"number": [1], "text": ["a"]}, None, ("no column holds pictures", "--column", "number (int64)")),
        ({"number": [1], "image": [b"x"]}, "number", ("neither bytes nor paths", "int64")),
        ({"one": [b"x"], "two": [b"x"]}, None, ("several columns", "--column")),
        ({"image": pa.array([], pa.binary())}, None, ("no rows",)),
    ],
)
def test_a_table_without_pictures(tmp_path: Path, columns: object, column: str | None, parts: tuple[str, ...]) -> None:
    path = table(tmp_path / "a.parquet", **columns)  # type: ignore[arg-type]
    with pytest.raises(DataError) as error:
        list(PACKED[".parquet"]().pictures(path, column=column))
    assert all(part in str(error.value) for part in ("a.parquet", *parts))


@pytest.mark.parametrize("ending", [".parquet", ".tar"])
@pytest.mark.parametrize("content", [b"", b"something else", b"PAR1" + b"\0" * 600])
def test_a_damaged_file_is_a_failure(tmp_path: Path, ending: str, content: bytes) -> None:
    path = tmp_path / f"a{ending}"
    path.write_bytes(content)
    (failure,) = find_pictures([str(path)]).failures
    assert failure.error.startswith(f"{path}: ")


def test_members_of_a_shard(tmp_path: Path, make_picture: Callable[..., Path]) -> None:
    picture = make_picture("a.png")
    shard = tmp_path / "shard.tar"
    with tarfile.open(shard, "w") as tar:
        tar.add(picture, "0001.png")
        tar.add(picture, "sub/0002.PNG")
        info = tarfile.TarInfo("0001.json")
        info.size = 2
        tar.addfile(info, io.BytesIO(b"{}"))
    found = find_pictures([str(shard)])
    assert [str(one) for one in found.pictures] == [f"{shard}/0001.png", f"{shard}/sub/0002.PNG"]
    assert found.pictures[1].read_bytes() == picture.read_bytes()
    assert (found.several, found.containers, found.files) == (True, [shard], [])
    with tarfile.open(shard, "a") as tar:
        tar.add(picture, "0001.png")
        tar.add(picture, "0003.png")
    found = find_pictures([str(shard)])
    assert [one.place for one in found.pictures] == ["0001.png", "sub/0002.PNG", "0003.png"]  # type: ignore[union-attr]
    (failure,) = found.failures
    assert "0001.png twice" in failure.error


CUTS = {  # bytes from where the data of the third picture begin
    "in a header": -412,
    "after a header": 0,
    "in a picture": 100,
    "before a header": -512,
    "a damaged header": None,
}


@pytest.mark.parametrize("cut", CUTS)
def test_a_shard_that_is_cut_off_is_named_and_its_whole_pictures_are_read(
    cut: str, tmp_path: Path, make_picture: Callable[..., Path]
) -> None:
    picture = make_picture("a.png")
    shard = tmp_path / "shard.tar"
    with tarfile.open(shard, "w") as tar:
        for i in range(3):
            tar.add(picture, f"{i}.png")
            tar.addfile(tarfile.TarInfo(f"{i}.txt"))
    place = find_pictures([str(shard)]).pictures[2].offset  # type: ignore[union-attr]
    whole = bytearray(shard.read_bytes())
    if CUTS[cut] is None:
        whole[place - 500] ^= 1  # of the header's name
    else:
        del whole[place + CUTS[cut] :]
    shard.write_bytes(whole)
    found = find_pictures([str(shard)])
    assert [str(one) for one in found.pictures] == [f"{shard}/0.png", f"{shard}/1.png"]
    assert all(one.read_bytes() == picture.read_bytes() for one in found.pictures)
    (failure,) = found.failures
    assert failure.error.startswith(f"{shard}: ") and "cut off" in failure.error and failure.remedy
    with pytest.raises(DataError, match="cut off"):
        read(shard)


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
)
@pytest.mark.parametrize("name", ["path", "image"])
def test_paths_are_read_in_every_form_of_text(tmp_path: Path, kind: object, name: str) -> None:
    paths = pa.array(["sub/a.jpg"], pa.string()).cast(kind)
    path = table(tmp_path / "a.parquet", number=[7], **{name: paths})
    for column in (None, name):
        assert list(PACKED[".parquet"]().pictures(path, column=column)) == [tmp_path / "sub/a.jpg"]


def test_a_column_of_numbers_holds_no_paths(tmp_path: Path) -> None:
    path = table(tmp_path / "a.parquet", path=[7], file_name=["a.jpg"])
    assert list(PACKED[".parquet"]().pictures(path, column=None)) == [tmp_path / "a.jpg"]


def test_bytes_may_be_views(tmp_path: Path) -> None:
    path = table(tmp_path / "a.parquet", image=pa.array([b"x"], pa.binary_view()))
    assert next(PACKED[".parquet"]().pictures(path, column=None)).read_bytes() == b"x"  # type: ignore[union-attr]


def test_a_member_whose_name_is_not_utf_8_has_a_split(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "shard-0.tar", "w", encoding="latin-1", format=tarfile.GNU_FORMAT) as tar:
        for name, content in (("caf\xe9.jpg", b"x"), ("caf\xe9.json", b'{"caption": "a dog"}')):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    (record,) = read(tmp_path / "shard-0.tar")
    assert record.split in ("train", "dev") and record.captions == ("a dog",)
