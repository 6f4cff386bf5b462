"""Files of results survive kills and odd names, go on where they were, and spare what others wrote."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest

from captioner.data.writers import FigureFiles, ResultsFile
from captioner.errors import OptionError
from captioner.image import Geometry
from captioner.results import Caption, Word

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


def make_caption(image: str, text: str = "a dog, running") -> Caption:
    map_ = np.full((2, 2), 0.25, np.float32)
    return Caption(
        text=text,
        words=tuple(Word(word, 0.5, map_) for word in text.split()),
        score=-0.5,
        finished=True,
        image=image,
        model="tiny",
        geometry=Geometry(size=(4, 4), side=32, grid=(2, 2)),
        source=image,
    )


def write_all(path: Path, names: list[str]) -> None:
    results = ResultsFile(path)
    for name in names:
        if name not in results.done:
            results.write(make_caption(name))
    results.close()


@pytest.mark.parametrize("kind", KINDS)
def test_every_name_is_known_again(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "new" / f"captions{kind}"
    write_all(path, NAMES)
    before = path.read_bytes()
    assert ResultsFile(path).done == set(NAMES)
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
    # A text file whose only line is cut cannot be told from a note of the user's: it is refused, not cut.
    start = sizes[1] if kind == ".txt" else 0
    # JSON lines are long: of them every ninth byte, and those about the ends of lines.
    near_ends = {size + step for size in sizes for step in (-2, -1, 0, 1, 2)}
    ends = [e for e in range(start, len(whole)) if kind != ".jsonl" or e % 9 == 0 or e < 12 or e in near_ends]
    for end in ends:
        path.write_bytes(whole[:end])
        finished = sum(size <= end for size in sizes[1:])
        results = ResultsFile(path)
        assert results.done == set(names[:finished])
        results.close()
        write_all(path, names)
        assert path.read_bytes() == whole


@pytest.mark.parametrize("kind", KINDS)
def test_every_caption_is_on_disk_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"captions{kind}"
    results = ResultsFile(path)
    for count, name in enumerate(NAMES[:3], 1):
        results.write(make_caption(name))
        other = tmp_path / f"copy-{count}{kind}"
        other.write_bytes(path.read_bytes())
        assert ResultsFile(other).done == set(NAMES[:count])


# What else may be in a file of that name; none may be touched.
FOREIGN = {
    "notes": ("captions.txt", b"buy milk\nfeed the dog\n"),
    "a note without a line break": ("captions.txt", b"buy milk"),
    "a note at the end of captions": ("captions.txt", b"a.jpg\ta dog\nbuy milk\nfeed the dog"),
    "another table": ("captions.csv", b"name,age\nann,3\n"),
    "a table without a line break": ("captions.csv", b"name,age"),
    "a table of captions of another program": ("captions.csv", b"image,caption\na.jpg,a dog\n"),
    "a table with an open quote": ("captions.csv", b'name,"age\n3\n'),
    "numbers": ("captions.jsonl", b"1\n2\n"),
    "JSON lines of another program": ("captions.jsonl", b'{"text": "a dog"}\n'),
    "labels that a model is trained on": ("captions.jsonl", b'{"image": "a.jpg", "caption": "a dog"}\n'),
    "a JSON file of one line": ("captions.jsonl", b'{"images": [], "annotations": []}'),
    "a JSON file of many lines": ("captions.jsonl", b'{\n  "image": "a.jpg"\n}'),
    "a picture": ("captions.csv", b"\x89PNG\r\n\x1a\n\x00\x00"),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_what_others_wrote_is_refused_and_left_as_it_is(tmp_path: Path, what: str) -> None:
    name, content = FOREIGN[what]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(OptionError, match=rf"{name}: holds lines that are no captions of this program"):
        ResultsFile(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_file_is_begun(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"captions{kind}"
    path.touch()
    write_all(path, ["a.jpg"])
    assert ResultsFile(path).done == {"a.jpg"}


@pytest.mark.parametrize("name", ["captions.docx", "captions", ".csv"])
def test_other_endings_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(OptionError, match=r"results end in .txt, .jsonl or .csv"):
        ResultsFile(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(OptionError, match=r"folder.csv: cannot be written \(Is a directory\)"):
        ResultsFile(tmp_path / "folder.csv")
    (tmp_path / "file").touch()
    with pytest.raises(OptionError, match=r"captions.csv: cannot be written"):
        ResultsFile(tmp_path / "file" / "captions.csv")


def written(figures: FigureFiles, caption: Caption, monkeypatch: pytest.MonkeyPatch) -> Path:
    paths: list[Path] = []
    monkeypatch.setattr(Caption, "figure", lambda self, path, smooth: paths.append(path))
    figures.write(caption, smooth=True)
    return paths[0]


def test_figures_of_one_name_do_not_overwrite_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = [Path(name) for name in ("a/x.jpg", "b/x.jpg", "x-2.png", "b/y.jpg")]
    figures = FigureFiles(Path("figures"), pictures, several=True)
    names = [written(figures, make_caption(str(picture)), monkeypatch) for picture in pictures]
    assert len(set(names)) == 4
    assert {name.parent for name in names} == {Path("figures")}
    assert {name.suffix for name in names} == {".png"}
    # A run that goes on after a kill has the same names for what is left.
    resumed = FigureFiles(Path("figures"), pictures, several=True)
    assert written(resumed, make_caption("b/x.jpg"), monkeypatch) == names[1]


def test_one_picture_has_one_figure_file(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = FigureFiles(Path("out/words.svg"), [Path("a.jpg")], several=False)
    assert written(figures, make_caption("a.jpg"), monkeypatch) == Path("out/words.svg")
    for name in ("words", "words.docx", "words.txt"):
        with pytest.raises(OptionError, match=rf"--figure {name}: name a file that ends in .png"):
            FigureFiles(Path(name), [Path("a.jpg")], several=False)
    with pytest.raises(OptionError, match=r"words.png is one file for several pictures"):
        FigureFiles(Path("words.png"), [Path("a.jpg"), Path("b.jpg")], several=True)
