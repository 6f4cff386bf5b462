"""Files of results survive kills and odd names, go on where they were, and spare what others wrote."""

import csv
import errno
import json
import os
import tracemalloc
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from captioner.data.writers import (
    WRITERS,
    FailedFolder,
    FailuresFile,
    FigureFiles,
    PageFile,
    Provenance,
    ResultsFile,
    digest_of,
    open_results,
)
from captioner.errors import ImageError, OptionError
from captioner.image import Geometry
from captioner.results import Caption, Failure, Word

KINDS = [".txt", ".jsonl", ".csv"]
NAMES = [
    "photos/dog.jpg",
    "tab\tand\\backslash\\t.jpg",
    "line\nbreak.jpg",
    "carriage\rreturn.jpg",
    "comma, 'quote', \"quotes\".jpg",
    '"',
    "\n",
    os.fsdecode(b"latin-\xe9t\xe9.jpg"),  # no UTF-8
    "été 犬 🐕.jpg",
    "\u2028\x85\x0b.jpg",
    " blanks ",
]


def make_caption(image: str, text: str = "a dog, running", model: str = "tiny") -> Caption:
    map_ = np.full((2, 2), 0.25, np.float32)
    return Caption(
        text=text,
        words=tuple(Word(word, 0.5, map_) for word in text.split()),
        score=-0.5,
        finished=True,
        image=image,
        model=model,
        geometry=Geometry(size=(4, 4), side=32, grid=(2, 2)),
        source=image,
    )


TINY = Provenance(model="tiny", digest="1234", decoding={"width": 3}, maps={"explain": "attention"})


def write_all(path: Path, names: list[str], provenance: Provenance = TINY) -> None:
    with ResultsFile(path) as results:
        results.check(provenance)
        results.begin()
        for name in names:
            if name not in results:
                results.write(make_caption(name, model=provenance.model))


def known(path: Path, names: list[str]) -> list[str]:
    """Of some names, those that a file has."""
    with ResultsFile(path) as results:
        return [name for name in names if name in results]


@pytest.mark.parametrize("kind", KINDS)
def test_every_name_is_known_again(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "new" / f"captions{kind}"
    write_all(path, NAMES)
    before = path.read_bytes()
    assert known(path, [*NAMES, "other.jpg"]) == NAMES
    write_all(path, NAMES)
    assert path.read_bytes() == before


def test_other_programs_can_read_the_files(tmp_path: Path) -> None:
    for kind in KINDS:
        write_all(tmp_path / f"captions{kind}", NAMES)
    readable = {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}
    with (tmp_path / "captions.csv").open(**readable) as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == NAMES
    assert rows[0] == {"image": NAMES[0], "caption": "a dog, running", "score": "-0.500000", "model": "tiny"}
    with (tmp_path / "captions.jsonl").open(**readable) as file:
        objects = [json.loads(line) for line in file.read().split("\n")[:-1]]
    assert objects == [json.loads(json.dumps(make_caption(name).as_dict())) for name in NAMES]
    with (tmp_path / "captions.txt").open(**readable) as file:
        lines = file.read().split("\n")[:-1]
    assert len(lines) == len(NAMES)
    assert lines[0] == "photos/dog.jpg\ta dog, running"
    assert all(line.count("\t") == 1 for line in lines)


@pytest.mark.parametrize("kind", KINDS)
def test_a_kill_at_any_byte_loses_one_line_at_most(tmp_path: Path, kind: str) -> None:
    """Cut anywhere after the first line, the file is completed to what it would have been."""
    whole_path, path = tmp_path / f"whole{kind}", tmp_path / f"captions{kind}"
    names = ["first.jpg", *NAMES[1:7]]
    write_all(whole_path, names)
    whole = whole_path.read_bytes()
    sizes = [0]
    for count in range(1, len(names) + 1):
        write_all(path, names[:count])
        sizes.append(path.stat().st_size)
    # A text file whose only line is cut cannot be told from a note of the user's: it is refused, not cut. Of further
    # lines, what has a tab and a text is whole, since a line without a line feed may have been written by hand.
    start = sizes[1] if kind == ".txt" else 0
    # JSON lines are long: of them every ninth byte, and those about the ends of lines.
    near_ends = {size + step for size in sizes for step in (-2, -1, 0, 1, 2)}
    ends = [e for e in range(start, len(whole)) if kind != ".jsonl" or e % 9 == 0 or e < 12 or e in near_ends]
    for end in ends:
        path.write_bytes(whole[:end])
        tail = whole[max(size for size in sizes if size <= end) : end]
        complete = any(end + 1 == size for size in sizes) or (kind == ".txt" and bool(tail.partition(b"\t")[2].strip()))
        finished = sum(size <= end for size in sizes[1:]) + complete
        assert known(path, names) == names[:finished]
        write_all(path, names)
        if kind != ".txt" or not complete:
            assert path.read_bytes() == whole
        else:
            assert len(path.read_bytes().splitlines()) == len(whole.splitlines())


@pytest.mark.parametrize("kind", KINDS)
def test_every_caption_is_on_disk_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"captions{kind}"
    with ResultsFile(path) as results:
        for count, name in enumerate(NAMES[:3], 1):
            results.write(make_caption(name))
            other = tmp_path / f"copy-{count}{kind}"
            other.write_bytes(path.read_bytes())
            assert known(other, NAMES) == NAMES[:count]


# What else may be in a file of that name; none may be touched.
FOREIGN = {
    "notes": ("captions.txt", b"buy milk\nfeed the dog\n"),
    "a note without a line break": ("captions.txt", b"buy milk"),
    "a note at the end of captions": ("captions.txt", b"a.jpg\ta dog\nbuy milk\nfeed the dog"),
    "a Flickr token file": ("captions.txt", b"a.jpg#0\ta dog\na.jpg#1\ta hound\n"),
    "a Flickr token file without a line break": ("captions.txt", b"a.jpg#0\ta dog"),
    "a table of references": ("captions.txt", b"a.jpg\ta dog\na.jpg\ta hound\n"),
    "another table": ("captions.csv", b"name,age\nann,3\n"),
    "a table without a line break": ("captions.csv", b"name,age"),
    "a table of captions of another program": ("captions.csv", b"image,caption\na.jpg,a dog\n"),
    "a table with another separator": ("captions.csv", b"image;caption;score;model\r\na.jpg;a dog;0;tiny\r\n"),
    "a quote that is not closed": (
        "captions.csv",
        b'image,caption,score,model\na.jpg,a dog,0,tiny\nb.jpg,"a dog,0,tiny\nc.jpg,a cat,0,tiny\n',
    ),
    "a row of one column": ("captions.csv", b"image,caption,score,model\na.jpg\n"),
    "a table with an open quote": ("captions.csv", b'name,"age\n3\n'),
    "numbers": ("captions.jsonl", b"1\n2\n"),
    "JSON lines of another program": ("captions.jsonl", b'{"text": "a dog"}\n'),
    "labels that a model is trained on": ("captions.jsonl", b'{"image": "a.jpg", "caption": "a dog"}\n'),
    "a JSON file of one line": ("captions.jsonl", b'{"images": [], "annotations": []}'),
    "a JSON file of many lines": ("captions.jsonl", b'{\n  "image": "a.jpg"\n}'),
    "a picture": ("captions.csv", b"\x89PNG\r\n\x1a\n\x00\x00"),
}


def test_a_name_that_is_no_text_is_known_again_in_a_table(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="needs pyarrow (captioner[parquet])")
    name = os.fsdecode(b"\xff\xfe.jpg")
    with open_results(tmp_path / "captions.parquet") as results:
        results.begin()
        results.write(make_caption(name))
    with open_results(tmp_path / "captions.parquet") as results:
        assert name in results


def test_a_table_of_other_columns_is_no_damaged_one(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason="needs pyarrow (captioner[parquet])")
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"image": ["a.jpg"], "text": ["a dog"]}), tmp_path / "captions.parquet")
    with pytest.raises(OptionError, match="other columns") as raised:
        open_results(tmp_path / "captions.parquet")
    assert "damaged" not in str(raised.value) and str(raised.value).count("--output") == 1


@pytest.mark.parametrize("what", FOREIGN)
def test_what_others_wrote_is_refused_and_left_as_it_is(tmp_path: Path, what: str) -> None:
    name, content = FOREIGN[what]
    path = tmp_path / name
    path.write_bytes(content)
    for overwrite in (False, True):
        with pytest.raises(OptionError, match=rf"{name}: holds lines .*give another --output"):
            ResultsFile(path, overwrite=overwrite)
    assert path.read_bytes() == content
    assert [file.name for file in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_file_is_begun(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"captions{kind}"
    path.touch()
    write_all(path, ["a.jpg"])
    assert known(path, ["a.jpg"]) == ["a.jpg"]


@pytest.mark.parametrize("name", ["captions.docx", "captions", ".csv"])
def test_other_endings_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(OptionError, match=r"results end in .txt, .jsonl, .csv or .parquet"):
        ResultsFile(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(OptionError, match=r"folder.csv.*directory"):
        ResultsFile(tmp_path / "folder.csv")
    (tmp_path / "file").touch()
    with pytest.raises(OptionError, match=r"captions.csv: cannot be written"):
        ResultsFile(tmp_path / "file" / "captions.csv")

    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "null.txt").symlink_to(os.devnull)
    for name in ("pipe.csv", "null.txt"):  # opening the pipe would wait for ever
        with pytest.raises(OptionError, match=rf"{name}: cannot be written \(not a regular file\)"):
            ResultsFile(tmp_path / name)


def test_formats_are_registered(tmp_path: Path) -> None:
    assert list(WRITERS) == KINDS_IN_ORDER

    @WRITERS.register(".tsv")
    class TabFormat(WRITERS[".txt"]):  # type: ignore[misc]
        """A format of another package."""

    try:
        write_all(tmp_path / "captions.TSV", ["a.jpg"])
        assert known(tmp_path / "captions.TSV", ["a.jpg"]) == ["a.jpg"]
    finally:
        WRITERS.unregister(".tsv")


KINDS_IN_ORDER = [".txt", ".jsonl", ".csv"]


# Going on.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"digest": "5678", "model": "other"}, "model tiny, not other"),
        ({"digest": "5678"}, "another file of model tiny"),
        ({"decoding": {"width": 5}}, "beam 3, not 5"),
        ({"maps": {"explain": "gradient"}}, "explain attention, not gradient"),
    ],
)
def test_other_models_and_options_are_refused(tmp_path: Path, kind: str, changes: dict[str, object], part: str) -> None:
    path = tmp_path / f"captions{kind}"
    write_all(path, ["a.jpg"])
    before = path.read_bytes()
    other = replace(TINY, **changes)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match=rf"captions{kind}.*{part}.*--overwrite.*--output"):
        write_all(path, ["b.jpg"], other)
    assert path.read_bytes() == before
    with ResultsFile(path, overwrite=True) as results:
        results.check(other)
        results.begin()
        assert "a.jpg" not in results
        results.write(make_caption("b.jpg", model=other.model))
    assert known(path, ["a.jpg", "b.jpg"]) == ["b.jpg"]
    write_all(path, ["c.jpg"], other)
    # An option that is new in a later version is not compared, and a renamed copy is the same model.
    write_all(path, ["d.jpg"], replace(other, decoding={**other.decoding, "new": 1}, model="renamed"))


@pytest.mark.parametrize("kind", [".jsonl", ".csv", ".txt"])
def test_a_picture_with_two_rows_is_named(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"captions{kind}"
    write_all(path, ["a.jpg", "b.jpg"])
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines, lines[-2]]))
    with ResultsFile(path) as results:
        (note,) = results.notes
        assert "a.jpg" in note and "keep one row" in note
    with ResultsFile(path, overwrite=True) as results:
        assert not results.notes


def test_a_file_without_provenance_is_compared_by_what_it_holds(tmp_path: Path) -> None:
    for kind in KINDS:
        path = tmp_path / f"captions{kind}"
        write_all(path, ["a.jpg"])
        (tmp_path / f".captions{kind}.run.json").unlink()
        other = replace(TINY, model="other")
        with ResultsFile(path) as results:
            results.check(TINY)
            assert len(results.notes) == 1
            assert "tiny" in results.notes[0]
        with ResultsFile(path) as results:
            if kind == ".txt":
                results.check(other)
                assert "other" in results.notes[0]
            else:
                with pytest.raises(OptionError, match="model tiny, not other"):
                    results.check(other)
    write_all(tmp_path / "captions.csv", ["b.jpg"])
    (tmp_path / ".captions.csv.run.json").write_text("no JSON")
    with ResultsFile(tmp_path / "captions.csv") as results:
        results.check(TINY)
        results.begin()
        assert ".captions.csv.run.json" in results.notes[0]
    assert json.loads((tmp_path / ".captions.csv.run.json").read_text())["digest"] == "1234"


def test_the_provenance_of_a_file_that_was_replaced_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "captions.csv"
    write_all(path, ["a.jpg"])
    path.write_text("image,caption,score,model\na.jpg,a dog,-1,other\n")
    with ResultsFile(path) as results, pytest.raises(OptionError, match="model other, not tiny"):
        results.check(TINY)
    path.unlink()  # started again by hand
    write_all(path, ["a.jpg"], replace(TINY, digest="5678"))


def test_a_file_whose_rows_are_gone_has_the_provenance_of_what_follows(tmp_path: Path) -> None:
    path = tmp_path / "captions.csv"
    write_all(path, ["a.jpg"])
    path.write_text(path.read_text().splitlines()[0] + "\n")  # the header stays
    other = replace(TINY, decoding={**TINY.decoding, "width": 9})
    write_all(path, ["a.jpg"], other)
    with pytest.raises(OptionError, match="another run"):
        write_all(path, ["b.jpg"])
    write_all(path, ["b.jpg"], other)


def test_rows_of_pictures_that_were_moved_through_a_link_stay(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.jpg").write_bytes(b"")
    link = tmp_path / "bad"
    link.symlink_to(tmp_path / "real")
    for _ in range(2):
        table = FailuresFile(tmp_path / "failures.csv", moved_to=link)
        table.begin()
        rows = list(csv.reader((tmp_path / "failures.csv").open(newline="")))[1:]
        if not rows:
            table.write(Failure(str(link / "a.jpg"), "damaged", "get it again"))
        table.close()
    assert rows == [[str(link / "a.jpg"), "damaged", "get it again"]]


@pytest.mark.parametrize("name", ["photo#5", "photo\\#5", "\ufeffphoto"])
def test_names_like_those_of_token_files_are_known_again(name: str, tmp_path: Path) -> None:
    write_all(tmp_path / "r.txt", [name])
    write_all(tmp_path / "r.txt", [name, "b.jpg"])
    assert len((tmp_path / "r.txt").read_text().splitlines()) == 2


def test_a_byte_order_mark_that_an_editor_wrote_hides_no_picture(tmp_path: Path) -> None:
    write_all(tmp_path / "r.txt", ["a.jpg"])
    (tmp_path / "r.txt").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "r.txt").read_bytes())
    write_all(tmp_path / "r.txt", ["a.jpg", "b.jpg"])
    assert len((tmp_path / "r.txt").read_text().splitlines()) == 2


def test_a_failure_with_a_carriage_return_in_its_name_is_one_row(tmp_path: Path) -> None:
    path = tmp_path / "failures.csv"
    moved = tmp_path / "moved"
    moved.mkdir()
    (moved / "a\rb.jpg").write_bytes(b"")
    for _ in range(2):  # the second run keeps the row of a picture that was moved
        table = FailuresFile(path, moved_to=moved)
        table.begin()
        rows = list(csv.reader(path.open(newline="")))[1:]
        if not rows:
            table.write(Failure(str(moved / "a\rb.jpg"), "damaged", "get it again"))
        table.close()
        assert list(csv.reader(path.open(newline="")))[1:] == [[str(moved / "a\rb.jpg"), "damaged", "get it again"]]


def test_a_picture_that_cannot_be_copied_to_another_disk_stays_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture, folder = tmp_path / "a.jpg", tmp_path / "failed"
    picture.write_bytes(b"damaged")
    failed = FailedFolder(folder)
    failed.prepare()

    def full(source: object, target: IO[bytes]) -> None:
        target.write(b"dam")
        raise OSError(errno.ENOSPC, "No space left on device")

    def another_disk(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", another_disk)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr("captioner.data.writers.failures.shutil.copyfileobj", full)
        failed.move(picture)
    assert picture.read_bytes() == b"damaged" and not list(folder.iterdir())
    assert failed.move(picture) == folder / "a.jpg" and not picture.exists()


def test_a_full_disk_leaves_whole_rows_of_failures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = FailuresFile(tmp_path / "failures.csv")
    table.begin()
    table.write(Failure("a.jpg", "damaged", ""))
    write = os.write

    def full(descriptor: int, data: bytes) -> int:
        if len(data) <= 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, bytes(data)[:4])

    with monkeypatch.context() as patch:
        patch.setattr("captioner.data.writers.failures.os.write", full)
        with pytest.raises(OptionError, match="No space left"):
            table.write(Failure("b.jpg", "damage", ""))
    table.write(Failure("c.jpg", "damaged", ""))
    table.close()
    with (tmp_path / "failures.csv").open(newline="") as file:
        assert [row[0] for row in csv.reader(file)][1:] == ["a.jpg", "c.jpg"]


def test_one_row_for_each_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    (tmp_path / "linked").symlink_to("photos")
    (tmp_path / "b.jpg").symlink_to("photos/a.jpg")
    spellings = ["photos/a.jpg", "./photos/a.jpg", "photos/../photos/a.jpg", "linked/a.jpg", "b.jpg"]
    spellings.append(str(tmp_path / "photos" / "a.jpg"))
    for kind in KINDS:
        for first in spellings:
            path = tmp_path / f"captions{kind}"
            path.unlink(missing_ok=True)
            write_all(path, [first])
            assert known(path, spellings) == spellings
            with ResultsFile(path) as results:
                for name in spellings:
                    results.write(make_caption(name))
            assert path.read_bytes().count(b"a dog, running") == 1


def test_relative_names_mean_the_same_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "project" / "photos").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project")
    write_all(Path("captions.txt"), ["photos/a.jpg"])
    monkeypatch.chdir(tmp_path)
    write_all(Path("project/captions.txt"), ["project/photos/a.jpg", "project/photos/b.jpg"])
    assert Path("project/captions.txt").read_text().splitlines() == [
        "photos/a.jpg\ta dog, running",
        "photos/b.jpg\ta dog, running",
    ]
    (tmp_path / "project" / "photos" / "a.jpg").touch()
    (tmp_path / "project").rename(tmp_path / "moved")
    assert known(Path("moved/captions.txt"), ["moved/photos/a.jpg"]) == ["moved/photos/a.jpg"]
    # The file alone is moved: its names hold in the folder of the run.
    (tmp_path / "results").mkdir()
    for name in ("captions.txt", ".captions.txt.run.json"):
        (tmp_path / "moved" / name).rename(tmp_path / "results" / name)
    monkeypatch.chdir(tmp_path / "moved")
    write_all(Path("../results/captions.txt"), ["photos/a.jpg", "photos/c.jpg"])
    assert Path("../results/captions.txt").read_text().splitlines()[2:] == ["photos/c.jpg\ta dog, running"]
    assert json.loads(Path("../results/.captions.txt.run.json").read_text())["folder"] == os.path.join("..", "moved")  # noqa: PTH118


HAND_WRITTEN = {
    ".txt": b"a.jpg\tmine\nb.jpg\tmy own words",
    ".csv": b"image,caption,score,model\na.jpg,mine,0,tiny\nb.jpg,my own words,0,tiny",
    ".jsonl": b'{"image": "a.jpg", "caption": "mine", "words": []}\n{"image": "b.jpg", "caption": "my", "words": []}',
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_last_row_without_a_line_feed_gets_one(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"captions{kind}"
    for content in (HAND_WRITTEN[kind], HAND_WRITTEN[kind].replace(b"\n", b"\r\n")):
        path.write_bytes(content)
        with ResultsFile(path) as results:
            results.begin()
            results.write(make_caption("c.jpg"))
        assert path.read_bytes().startswith(content + b"\n")
        assert known(path, ["a.jpg", "b.jpg", "c.jpg"]) == ["a.jpg", "b.jpg", "c.jpg"]


def test_a_hand_written_row_may_leave_score_and_model_open(tmp_path: Path) -> None:
    path = tmp_path / "captions.csv"
    write_all(path, ["a.jpg"])
    with path.open("a") as file:
        file.write("b.jpg,my own words,,")
    assert known(path, ["b.jpg"]) == ["b.jpg"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_cut_off_is_reported(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"captions{kind}"
    write_all(path, ["a.jpg"])
    whole = path.read_bytes()
    with path.open("ab") as file:
        file.write({".txt": b"torn", ".jsonl": b'{"image": "torn', ".csv": b"torn,a dog"}[kind])
    with ResultsFile(path) as results:
        results.check(TINY)
        assert path.read_bytes() != whole  # nothing is changed before the run begins
        results.begin()
        assert len(results.notes) == 1
        assert "torn" in results.notes[0]
    assert path.read_bytes() == whole


def test_a_table_that_excel_saved_is_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "CAPTIONS.CSV"
    path.write_bytes(b'\xef\xbb\xbfimage,caption,score,model\r\n"a, b.jpg",a dog,-0.5,tiny\r\n')
    write_all(path, ["a, b.jpg", "c.jpg"])
    assert path.read_bytes().count(b"\r\n") == 3
    assert path.read_bytes().count(b"\n") == 3
    assert path.read_bytes().startswith(b"\xef\xbb\xbfimage")


def test_a_second_run_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    for kind in KINDS:
        path = tmp_path / f"captions{kind}"
        (tmp_path / f"link{kind}").symlink_to(path)
        with ResultsFile(path) as results:
            results.write(make_caption("a.jpg"))
            for name in (path, tmp_path / f"link{kind}"):
                with pytest.raises(OptionError, match="is being written by another run"):
                    ResultsFile(name)
        assert known(path, ["a.jpg"]) == ["a.jpg"]


def test_a_run_that_writes_nothing_leaves_nothing(tmp_path: Path) -> None:
    for kind in KINDS:
        with ResultsFile(tmp_path / f"captions{kind}") as results:
            results.check(TINY)
            results.begin()
    assert not list(tmp_path.iterdir())
    (tmp_path / "captions.txt").touch()
    with ResultsFile(tmp_path / "captions.txt") as results:
        results.begin()
    assert [path.name for path in tmp_path.iterdir()] == ["captions.txt"]  # it was there before


@pytest.mark.parametrize("kind", KINDS)
def test_going_on_takes_constant_memory(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"captions{kind}"
    caption = make_caption("0.jpg", text=" ".join(["dog"] * 400))
    with ResultsFile(path) as results:
        row = results._format.row(caption, "0.jpg")
        with path.open("w") as file:
            file.write(results._format.header())
            file.writelines(row.replace("0.jpg", f"{i}.jpg") for i in range(12_000_000 // len(row)))
    count = 12_000_000 // len(row)
    tracemalloc.start()
    with ResultsFile(path) as results:
        _, peak = tracemalloc.get_traced_memory()
        assert f"{count - 1}.jpg" in results
    tracemalloc.stop()
    assert peak < 2_000_000 + 400 * count


def test_a_line_without_an_end_is_refused_in_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("captioner.data.writers.formats._LONGEST_LINE", 1000)
    for kind in KINDS:
        path = tmp_path / f"captions{kind}"
        path.write_bytes(b'{"image": "' + b"x" * 5000)
        with pytest.raises(OptionError, match=r"1,000 bytes|no captions"):
            ResultsFile(path)


def test_a_folder_that_cannot_hold_the_provenance_is_no_hindrance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(place: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("captioner.data.writers.results.written_whole", refuse)
    with ResultsFile(tmp_path / "captions.txt") as results:
        results.check(TINY)
        results.begin()
        results.write(make_caption("a.jpg"))
        assert "Permission denied" in results.notes[0]
    assert known(tmp_path / "captions.txt", ["a.jpg"]) == ["a.jpg"]


def test_the_digest_of_a_model(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_text("same")
    assert digest_of(tmp_path / "a") == digest_of(tmp_path / "b")
    (tmp_path / "b" / "weights").write_text("other")
    assert digest_of(tmp_path / "a") != digest_of(tmp_path / "b")
    assert digest_of(tmp_path / "a" / "weights") != digest_of(tmp_path / "b" / "weights")


# Figures and pages.


def draw(caption: Caption, path: Path | None = None, *, smooth: bool = True) -> None:
    assert path is not None
    path.write_bytes(os.fsencode(caption.image))


def test_the_name_of_a_figure_depends_on_its_picture_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Caption, "figure", draw)
    long = "x" * 250 + ".jpg"
    pictures = [
        "a/x.jpg",
        "b/x.jpg",
        "a/x.png",
        "x-2.png",
        "b/y.jpg",
        f"b/{long}",
        os.fsdecode(b"b/\xe9.jpg"),
        "a-b/x.jpg",
    ]
    figures = FigureFiles("figures", several=True)
    figures.prepare()
    for picture in pictures:
        assert figures.missing(picture)
        figures.write(make_caption(picture), smooth=True)
        assert not figures.missing(picture)
    paths = [figures.path_of(picture) for picture in pictures]
    assert len(set(paths)) == len(pictures)
    assert [os.fsdecode(path.read_bytes()) for path in paths] == pictures
    assert all("x" in path.name for path in paths[:3])
    other = FigureFiles(str(tmp_path / "figures"), several=True)
    assert other.path_of(tmp_path / "a" / ".." / "b" / "x.jpg") == tmp_path / paths[1]
    assert sorted(path.name for path in Path("figures").iterdir()) == sorted(path.name for path in paths)


def test_what_is_a_folder_of_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("out.2024").mkdir()
    Path("there.png").mkdir()
    for name in ("maps.v2", "out.2024", "there.png", "new.png/", "plain"):
        assert FigureFiles(name, several=True).folder == Path(name)
    for name in ("out.2024", "there.png", "new.png/"):
        assert FigureFiles(name, several=False).folder == Path(name)
    with pytest.raises(OptionError, match=r"words.png.*folder"):
        FigureFiles("words.png", several=True)
    assert FigureFiles("out/words.svg", several=False).path_of("a.jpg") == Path("out/words.svg")
    with pytest.raises(OptionError, match="empty"):
        FigureFiles("", several=True)
    for name in ("words", "words.docx", "words.txt"):
        with pytest.raises(OptionError, match=rf"--figure {name}: name a file that ends in .png"):
            FigureFiles(name, several=False)


def test_a_figure_is_replaced_when_the_new_one_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "words.png"
    path.write_text("the old one")
    figures = FigureFiles(path, several=False)

    for error in (KeyboardInterrupt(), OSError(28, "No space left on device"), ImageError("gone.jpg: no such file")):

        def fail(caption: Caption, path: Path, *, smooth: bool, error: BaseException = error) -> None:
            path.write_text("half")
            raise error

        monkeypatch.setattr(Caption, "figure", fail)
        with pytest.raises((KeyboardInterrupt, OptionError, ImageError)) as caught:
            figures.write(make_caption("a.jpg"), smooth=True)
        assert "partial" not in str(caught.value)
        assert path.read_text() == "the old one"
        assert list(tmp_path.iterdir()) == [path]
    monkeypatch.setattr(Caption, "figure", draw)
    (tmp_path / "link.png").symlink_to("words.png")
    path.chmod(0o640)
    FigureFiles(tmp_path / "link.png", several=False).write(make_caption("a.jpg"), smooth=True)
    assert (tmp_path / "link.png").is_symlink()
    assert path.read_text() == "a.jpg"
    assert path.stat().st_mode & 0o777 == 0o640


def test_devices_and_folders_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "null.png").symlink_to(os.devnull)
    (tmp_path / "null.html").symlink_to(os.devnull)
    with pytest.raises(OptionError, match=r"null.png.*regular"):
        FigureFiles(tmp_path / "null.png", several=False).prepare()
    with (
        pytest.raises(OptionError, match=r"null.html.*regular"),
        PageFile(tmp_path / "null.html"),
    ):
        pass


def test_a_page_goes_on_without_a_picture_that_has_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def entry(caption: Caption, **_: object) -> str:
        if caption.image == "gone.jpg":
            raise ImageError("gone.jpg: no such file")
        return f"<p>{caption.image}</p>"

    monkeypatch.setattr("captioner.show.page.entry", entry)
    with PageFile(tmp_path / "all.html", several=True) as page:
        with pytest.raises(ImageError):
            page.write(make_caption("gone.jpg"))
        page.write(make_caption("a.jpg"))
    assert (tmp_path / "all.html").read_text().count("<p>") == 1
    assert (tmp_path / "all.html").read_text().startswith("<!DOCTYPE html>")


def whole_file(kind: str) -> bytes:
    writer = WRITERS[kind]()
    rows = [writer.row(make_caption(name), name) for name in NAMES]
    return "".join([writer.header(), *rows]).encode("utf-8", "surrogateescape")


@given(
    kind=st.sampled_from(KINDS),
    noise=st.binary(max_size=60),
    place=st.integers(0, 4000),
    length=st.integers(0, 60),
    alone=st.booleans(),
    sidecar=st.one_of(st.none(), st.binary(max_size=30), st.just(b'{"model": 1, "folder": 2, "decoding": []}')),
)
@settings(max_examples=150)
@example(kind=".txt", noise=b"\0", place=0, length=0, alone=False, sidecar=None)
@example(kind=".jsonl", noise=b"\\ud800", place=11, length=0, alone=False, sidecar=None)
def test_damaged_files_are_refused_or_gone_on_with(
    kind: str, noise: bytes, place: int, length: int, alone: bool, sidecar: bytes | None
) -> None:
    """Whatever a file holds, it is refused and stays as it is, or the new row is in it afterwards."""
    whole = whole_file(kind)
    content = noise if alone else whole[:place] + noise + whole[place + length :]
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"captions{kind}"
        path.write_bytes(content)
        if sidecar is not None:
            (Path(folder) / f".captions{kind}.run.json").write_bytes(sidecar)
        try:
            write_all(path, ["new.jpg"])
        except OptionError as error:
            assert path.name in str(error)
            assert path.read_bytes() == content
            return
        try:
            assert known(path, ["new.jpg"]) == ["new.jpg"]
        except OptionError as error:
            pytest.fail(f"what was gone on with is refused later: {error}")
