"""``captioner evaluate`` where a wrong guess, or a wrong order of things, would lose a file or change a figure."""

import json
import subprocess
import sys
import types
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from captioner import cli
from captioner.errors import ImageError
from captioner.results import Failure
from captioner.tokenizer import ptb


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """References, results, a table and pictures of two images; the working folder."""
    monkeypatch.chdir(tmp_path)
    images = [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}]
    texts = [(1, "a red ball lies on the grass"), (1, "a ball"), (2, "a house on green grass"), (2, "a house")]
    annotations = [{"id": i, "image_id": key, "caption": text} for i, (key, text) in enumerate(texts)]
    write("refs.json", {"images": images, "annotations": annotations})
    write("mine.json", [{"image_id": 1, "caption": "a red ball"}, {"image_id": 2, "caption": "a house"}])
    write("other.json", [{"image_id": 1, "caption": "a ball"}, {"image_id": 2, "caption": "a hut"}])
    write("df.json", {"format": "captioner document frequencies 1", "pictures": 60, "counts": {"a": 60}})
    Path("images/sub").mkdir(parents=True)
    for name in ("a.png", "b.png", "sub/c.jpg"):
        Path("images", name).write_bytes(name.encode())
    Path("link.json").symlink_to("refs.json")
    Path("hard.json").hardlink_to("mine.json")
    return tmp_path


def write(name: str, content: Any) -> None:
    Path(name).write_text(content if isinstance(content, str) else json.dumps(content))


@pytest.fixture
def captioned(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A captioner that says what a file holds; the pictures that it was given."""
    seen: list[Path] = []

    class Pretend:
        def options(self, **changes: int) -> dict[str, int]:
            return changes

        def caption_all(self, pictures: list[Path], *, options: Any) -> Iterator[Any]:
            for path in pictures:
                seen.append(path)
                text = path.read_text()
                bad = text == "broken"
                yield Failure.of(path, ImageError(f"{path}: damaged")) if bad else types.SimpleNamespace(text=text)

    module = types.ModuleType("captioner.pipeline")
    module.load = lambda name, **_: Pretend()  # type: ignore[attr-defined]
    monkeypatch.setattr("captioner.shipped.shipped_models", dict)
    monkeypatch.setitem(sys.modules, "captioner.pipeline", module)
    return seen


def evaluate(*arguments: object) -> int:
    return cli.main(["evaluate", *map(str, arguments)])


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


RESULTS = ("--results", "mine.json")
IMAGES = ("--images", "images")
OVERWRITING = [
    ("--save-document-frequencies", "refs.json"),
    ("--save-document-frequencies", "link.json"),
    (*RESULTS, "--save-document-frequencies", "images/../mine.json"),
    (*RESULTS, "--per-image", "mine.json"),
    (*RESULTS, "--per-image", "hard.json"),
    (*RESULTS, "--per-image", "link.json"),
    (*RESULTS, "--compare", "other.json", "--per-image", "other.json"),
    (*RESULTS, "--document-frequencies", "df.json", "--per-image", "df.json"),
    (*RESULTS, "--document-frequencies", "df.json", "--save-document-frequencies", "df.json"),
    (*RESULTS, "--split", "names.txt", "--per-image", "names.txt"),
    (*IMAGES, "--save-results", "refs.json"),
    (*IMAGES, "--save-results", "images/a.png"),
    (*IMAGES, "--save-results", "images/sub/c.jpg"),
    (*IMAGES, "--per-image", "images/b.png"),
    (*IMAGES, "--model", "model.safetensors", "--save-results", "model.safetensors"),
    (*RESULTS, "--per-image", "new.csv", "--save-document-frequencies", "images/../new.csv"),
    (*IMAGES, "--per-image", "new.csv", "--save-results", "new.csv"),
]


@pytest.mark.parametrize("arguments", OVERWRITING, ids=" ".join)
def test_no_output_is_an_input(
    folder: Path, captioned: list[Path], arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    write("names.txt", "a.png\nb.png\n")
    write("model.safetensors", "weights")
    before = contents(folder)
    assert evaluate("--annotations", "refs.json", *arguments) == 2
    printed = capsys.readouterr()
    assert (printed.out, printed.err.count("\n")) == ("", 1)
    assert arguments[-1] in printed.err
    assert contents(folder) == before
    assert captioned == []


def test_outputs_of_their_own_are_written(folder: Path, captioned: list[Path]) -> None:
    write("images/old.json", [{"image_id": 1, "caption": "from a run before"}])
    more = ("--per-image", "p.csv", "--save-document-frequencies", "d.json")
    assert evaluate("--annotations", "refs.json", *IMAGES, "--save-results", "images/old.json", *more) == 0
    assert json.loads(Path("images/old.json").read_text())[0] == {"image_id": 1, "caption": "a.png"}
    assert Path("p.csv").is_file()
    assert Path("d.json").is_file()


# Which file is a picture's


def annotated(*names: str) -> None:
    images = [{"id": i, "file_name": name} for i, name in enumerate(names)]
    annotations = [{"image_id": i, "caption": "a ball"} for i in range(len(names))]
    write("refs.json", {"images": images, "annotations": annotations})


def pictures(*names: str) -> None:
    for name in names:
        path = Path("flat", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def run_on_flat(*more: object) -> int:
    return evaluate("--annotations", "refs.json", "--images", "flat", "--save-results", "out.json", *more)


def saved() -> dict[int, str]:
    return {row["image_id"]: row["caption"] for row in json.loads(Path("out.json").read_text())}


def test_the_path_of_the_annotation_goes_before_the_base_name(folder: Path, captioned: list[Path]) -> None:
    annotated("left/1.png", "right/1.png")
    pictures("1.png", "left/1.png", "right/1.png")
    assert run_on_flat() == 0
    assert saved() == {0: "left/1.png", 1: "right/1.png"}


def test_a_base_name_serves_where_it_can_only_mean_one_picture(folder: Path, captioned: list[Path]) -> None:
    annotated("train/1.png", "train/2.png")
    pictures("1.png", "2.png")
    assert run_on_flat() == 0
    assert saved() == {0: "1.png", 1: "2.png"}


@pytest.mark.parametrize(
    ("names", "files", "named"),
    [
        (["left/1.png", "right/1.png"], ["1.png"], ["left/1.png", "right/1.png"]),
        (["left/1.png", "right/1.png"], ["1.png", "left/1.png"], ["left/1.png", "right/1.png"]),
        (["right/1.png"], ["1.png", "left/1.png"], ["flat/1.png", "flat/left/1.png"]),
    ],
)
def test_an_ambiguous_base_name_is_refused_before_captioning(
    folder: Path, captioned: list[Path], names: list[str], files: list[str], named: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    annotated(*names)
    pictures(*files)
    for more in ((), ("--partial",)):
        assert run_on_flat(*more) == 2
        error = capsys.readouterr().err
        assert all(name in error for name in named)
    assert captioned == []
    assert not Path("out.json").exists()


@pytest.mark.parametrize("name", ["../images/a.png", "{folder}/images/a.png"])
def test_a_path_out_of_the_folder_is_not_followed(
    folder: Path, captioned: list[Path], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    annotated(name.format(folder=folder))
    pictures("other.png")
    assert run_on_flat() == 2
    assert "a.png" in capsys.readouterr().err
    assert captioned == []


def test_two_ids_of_one_file_are_both_scored(folder: Path, captioned: list[Path]) -> None:
    annotated("1.png", "1.png")
    pictures("1.png")
    assert run_on_flat() == 0
    assert saved() == {0: "1.png", 1: "1.png"}


def test_a_picture_that_fails_is_named(folder: Path, captioned: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    Path("images/b.png").write_text("broken")
    assert evaluate("--annotations", "refs.json", *IMAGES, "--partial") == 1
    printed = capsys.readouterr()
    assert "images/b.png: damaged" in printed.err
    assert "1 of 2 pictures scored" in printed.out


# References without words


def test_blank_references_are_left_out_with_their_pictures(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = [(1, "a red ball"), (1, "  "), (2, "."), (2, "")]
    images = [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}]
    annotations = [{"id": i, "image_id": key, "caption": text} for i, (key, text) in enumerate(texts)]
    write("refs.json", {"images": images, "annotations": annotations})
    assert evaluate("--annotations", "refs.json", *RESULTS, "--json") == 0
    printed = capsys.readouterr()
    assert "3 captions have no words and are left out" in printed.err
    assert "b.png" in printed.err
    assert "pictures 1 | references 1 " in json.loads(printed.out)["signature"]
    assert evaluate("--annotations", "refs.json", "--save-document-frequencies", "t.json") == 0
    assert json.loads(Path("t.json").read_text())["pictures"] == 1


# A reader that stops early


@pytest.mark.parametrize("json_option", [[], ["--json"]])
@pytest.mark.parametrize("reader", ["head -1", "true"])
def test_a_reader_that_stops_early_is_no_failure(folder: Path, reader: str, json_option: list[str]) -> None:
    command = [sys.executable, "-m", "captioner", "evaluate", "--annotations", "refs.json", *RESULTS]
    command += ["--per-image", "p.csv", *json_option]
    script = f'"$@" | {reader} >/dev/null; echo "${{PIPESTATUS[0]}}"'
    found = subprocess.run(["bash", "-c", script, "bash", *command], capture_output=True, text=True, check=True)
    assert found.stdout == "0\n"
    assert "Broken" not in found.stderr
    assert Path("p.csv").read_text().count("\n") == 3


# Each caption is tokenised once


def test_each_caption_is_tokenised_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = range(60)
    texts = {key: [f"a dog number {key} runs by {i}" for i in range(5)] for key in keys}
    write(
        "refs.jsonl", "".join(json.dumps({"image_id": key, "captions": group}) + "\n" for key, group in texts.items())
    )
    write("mine.json", [{"image_id": key, "caption": f"a cat number {key}"} for key in keys])
    counts: Counter[str] = Counter()
    tokenize = ptb.tokenize

    def counted(caption: str, *, following: str = "") -> list[str]:
        counts[caption] += 1
        return tokenize(caption, following=following)

    monkeypatch.setattr(ptb, "tokenize", counted)
    assert evaluate("--annotations", "refs.jsonl", *RESULTS, "--save-document-frequencies", "t.json") == 0
    assert len(counts) == 60 * 6
    assert set(counts.values()) == {1}
