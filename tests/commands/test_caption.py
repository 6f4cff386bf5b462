"""``captioner caption``: what it prints and writes, its exit codes, and one line for every mistake."""

import argparse
import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from captioner import Captioner
from captioner.commands.caption import _PACKED, _is_one_picture, add_arguments
from captioner.commands.decoding_options import add_decoding_options, decoding_options
from captioner.data.packed import PACKED
from captioner.options import Sampling
from captioner.pipeline import load
from tests.commands.conftest import PROGRAM, Command

MakePicture = Callable[..., Path]


OLD_PAGE = '<main class="cv-here">the old one</main>'
GOOD = ["photos/a.png", "photos/b.jpg", "photos/sub/a.png", "photos/z.PNG"]


def test_the_model_opens_ahead_for_one_picture_alone(make_picture: MakePicture, tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    picture = str(make_picture())
    assert _is_one_picture(parser.parse_args([picture]))
    for more in ([picture, picture], [str(tmp_path)], ["nowhere.jpg"], [picture, "--output", "c.jsonl"]):
        assert not _is_one_picture(parser.parse_args(more))
    assert set(_PACKED) == set(PACKED)
    for ending in _PACKED:
        shard = tmp_path / f"photos{ending.upper()}"
        shard.touch()
        assert not _is_one_picture(parser.parse_args([str(shard)]))


# What is printed.


def test_one_picture_gives_its_caption_alone(command: Command, make_picture: MakePicture, tiny_model: Path) -> None:
    path = make_picture()
    run = command("caption", path)
    assert (run.code, run.err) == (0, "")
    assert run.out == load(tiny_model).caption(path).text + "\n"


def test_several_pictures_give_a_line_each(command: Command, make_picture: MakePicture, tiny_model: Path) -> None:
    paths = [make_picture(f"{i}.png", seed=i) for i in range(3)]
    run = command("caption", *paths, paths[0])  # one named twice is done once
    model = load(tiny_model)
    assert run.code == 0
    assert run.out == "".join(f"{path}\t{model.caption(path).text}\n" for path in paths)


def test_names_cannot_break_lines_or_command_the_terminal(command: Command, make_picture: MakePicture) -> None:
    paths = [make_picture("a\tb\nc\x1b[2J.png"), make_picture("é 猫\u202f.png", seed=1)]
    lines = command("caption", *paths).out.splitlines()
    assert [Path(line.split("\t")[0]).name for line in lines] == ["a\\tb\\nc\\x1b[2J.png", "é 猫\u202f.png"]


def test_json_has_the_words_with_their_maps(command: Command, make_picture: MakePicture) -> None:
    run = command("caption", "--json", make_picture("a.png"), make_picture("b.png", seed=1))
    first, second = (json.loads(line) for line in run.out.splitlines())
    assert [Path(caption["image"]).name for caption in (first, second)] == ["a.png", "b.png"]
    assert first["grid"] == [8, 8]
    assert first["model"] == "tiny"
    for word in first["words"]:
        assert sum(map(sum, word["map"])) == pytest.approx(1, abs=1e-3)


def test_options_of_the_search_are_followed(command: Command, make_picture: MakePicture) -> None:
    path = make_picture()

    def said(*options: object) -> dict[str, Any]:
        run = command("caption", path, "--json", *options)
        assert (run.code, run.err) == (0, "")
        caption: dict[str, Any] = json.loads(run.out)
        return caption

    assert len(said("--max-length", 2, "--min-length", 2)["words"]) == 2
    assert len(said("--n-best", 4)["alternatives"]) == 3
    assert said("--beam", 1, "--length-penalty", 0)["score"] != said("--beam", 1, "--length-penalty", 1)["score"]
    sample = ["--sample", "--max-length", 8, "--temperature", 1.5, "--top-k", 9, "--top-p", 0.95, "--n-best", 2]
    assert said(*sample, "--seed", 5) == said(*sample, "--seed", 5)
    assert len({said(*sample, "--seed", seed)["caption"] for seed in range(5)}) > 1


# Folders and files.


def test_a_folder_skips_and_names_what_is_broken(command: Command, folder: Path) -> None:
    run = command("caption", "photos")
    assert run.code == 1
    assert [line.split("\t")[0] for line in run.out.splitlines()] == GOOD
    other, broken = run.err.splitlines()
    assert "photos: 1 file" in other
    assert "1 .txt" in other
    assert broken.startswith("captioner: photos/broken.jpg: ")


def test_a_link_to_nowhere_in_a_folder_is_named(command: Command, make_picture: MakePicture, tmp_path: Path) -> None:
    make_picture("photos/a.png")
    (tmp_path / "photos" / "gone.jpg").symlink_to("moved-away.jpg")
    (tmp_path / "photos" / "same.png").symlink_to("a.png")
    run = command("caption", "photos")
    assert run.code == 1
    assert [line.split("\t")[0] for line in run.out.splitlines()] == ["photos/a.png", "photos/same.png"]
    assert run.err.startswith("captioner: photos/gone.jpg: ")
    assert "moved-away.jpg" in run.err
    assert run.err.count("\n") == 1


# Odd pictures that are pictures all the same: a name, and how a plain one is made into it.
ODD_PICTURES: dict[str, Callable[[Image.Image, Path], None]] = {
    "gray.png": lambda image, path: image.convert("L").save(path),
    "one-bit.png": lambda image, path: image.convert("1").save(path),
    "palette.png": lambda image, path: image.convert("P").save(path),
    "transparent.png": lambda image, path: image.convert("RGBA").save(path),
    "gray-transparent.png": lambda image, path: image.convert("LA").save(path),
    "sixteen-bit.png": lambda image, path: image.convert("L").convert("I;16").save(path),
    "floating.tif": lambda image, path: image.convert("F").save(path),
    "cmyk.jpg": lambda image, path: image.convert("CMYK").save(path),
    "animated.gif": lambda image, path: image.save(path, save_all=True, append_images=[image.rotate(90)]),
    "one-pixel.png": lambda image, path: image.resize((1, 1)).save(path),
    "a-line.png": lambda image, path: image.resize((2000, 1)).save(path),
    "no-ending": lambda image, path: image.save(path, "PNG"),
    "wrong-ending.jpg": lambda image, path: image.save(path, "PNG"),
    "größe 狗.webp": lambda image, path: image.save(path),
}


def test_odd_pictures_are_captioned_all_the_same(command: Command, make_picture: MakePicture, tmp_path: Path) -> None:
    plain = Image.open(make_picture())
    for name, save in ODD_PICTURES.items():
        save(plain, tmp_path / name)
    run = command("caption", *ODD_PICTURES)
    assert (run.code, run.err) == (0, "")
    assert [line.split("\t")[0] for line in run.out.splitlines()] == list(ODD_PICTURES)
    assert all(line.split("\t")[1] for line in run.out.splitlines())


def test_what_is_missing_is_named_and_the_rest_done(command: Command, folder: Path) -> None:
    run = command("caption", "nowhere.jpg", "photos/a.png")
    assert run.code == 1
    assert run.err == "captioner: nowhere.jpg: no such file or folder\n"
    assert len(run.out.splitlines()) == 1


def read_back(path: Path) -> list[tuple[str, str]]:
    """(image, caption) of each line of a results file."""
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            return [(row["image"], row["caption"]) for row in csv.DictReader(file)]
    lines = path.read_text().splitlines()
    if path.suffix == ".jsonl":
        return [(caption["image"], caption["caption"]) for caption in map(json.loads, lines)]
    return [(line.split("\t")[0], line.split("\t")[1]) for line in lines]


@pytest.mark.parametrize("kind", [".txt", ".jsonl", ".csv"])
def test_results_go_to_a_file_and_nothing_is_made_twice(
    command: Command, folder: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "new" / f"captions{kind}"
    (folder / "broken.jpg").unlink()
    (folder / "notes.txt").unlink()
    expected = [tuple(line.split("\t")) for line in command("caption", "photos").out.splitlines()]

    first = command("caption", "photos/a.png", "photos/b.jpg", "--output", output)
    assert (first.code, first.out, first.err) == (0, "", f"{output}: 2 captions\n")
    begun = output.read_bytes()

    opened: list[str] = []
    prepare = Captioner.prepare

    def watched(self: Captioner, picture: Any, **limits: Any) -> Any:
        opened.append(str(picture))
        return prepare(self, picture, **limits)

    monkeypatch.setattr(Captioner, "prepare", watched)
    second = command("caption", "photos", "--output", output)
    assert (second.code, second.err) == (0, f"{output}: 4 captions (2 were there)\n")
    assert sorted(opened) == GOOD[2:]
    assert output.read_bytes().startswith(begun)
    assert read_back(output) == expected

    before = output.read_bytes()
    third = command("caption", "photos", "--output", output)
    assert (third.code, third.err) == (0, f"{output}: 4 captions (4 were there)\n")
    assert output.read_bytes() == before


def test_a_finished_file_loads_no_model(
    command: Command, make_picture: MakePicture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_picture()
    assert command("caption", path, "--output", "captions.txt").code == 0
    monkeypatch.setattr("captioner.pipeline.load", lambda *_, **__: pytest.fail("it loads a model"))
    assert command("caption", path, "--output", "captions.txt").code == 0


def test_one_picture_has_its_figure_in_a_file(command: Command, make_picture: MakePicture) -> None:
    path = make_picture()
    for name, magic in (("words.png", b"\x89PNG"), ("new/words.pdf", b"%PDF"), ("words.svg", b"<?xml")):
        assert command("caption", path, "--figure", name).code == 0
        assert Path(name).read_bytes().startswith(magic)
    smooth = Path("words.png").read_bytes()
    assert command("caption", path, "--figure", "words.png", "--cells").code == 0
    assert Path("words.png").read_bytes() != smooth


def test_several_pictures_have_their_figures_in_a_folder(command: Command, folder: Path) -> None:
    assert command("caption", "photos", "--figure", "figures").code == 1  # broken.jpg
    names = sorted(path.name for path in Path("figures").iterdir())
    assert [name.rpartition("-")[0] for name in names] == ["photos-a", "photos-b", "photos-z", "sub-a"]


def test_a_folder_of_one_picture_is_still_a_folder(command: Command, folder: Path) -> None:
    assert command("caption", "photos/sub", "--figure", "figures").code == 0
    assert [path.name.rpartition("-")[0] for path in Path("figures").iterdir()] == ["sub-a"]


def captions_on(page: Path | str) -> list[str]:
    """The captions on a page, in their order."""
    text = Path(page).read_text(encoding="utf-8")
    blocks = re.findall(r'<script type="application/json">(.*?)</script>', text, re.DOTALL)
    return [json.loads(block)["captions"][0]["text"] for block in blocks]


def test_one_picture_has_its_page(command: Command, make_picture: MakePicture) -> None:
    path = make_picture()
    run = command("caption", path, "--page", "new/words.html", "--n-best", 3)
    assert (run.code, run.err) == (0, "")
    best, *others = run.out.splitlines()
    assert captions_on("new/words.html") == [best]
    assert len(others) == 2
    assert all(other.startswith("\t") for other in others)
    text = Path("new/words.html").read_text(encoding="utf-8")
    assert "<title>photo.png</title>" in text
    assert text.count('"finished"') == 3
    assert '"smooth":false' not in text
    assert command("caption", path, "--page", "new/words.html", "--cells").code == 0
    assert '"smooth":false' in Path("new/words.html").read_text(encoding="utf-8")


def test_a_folder_has_one_page_for_all(command: Command, folder: Path) -> None:
    run = command("caption", "photos", "--page", "all.html")
    assert run.code == 1
    assert "photos/broken.jpg" in run.err
    assert captions_on("all.html") == [line.split("\t")[1] for line in run.out.splitlines()]
    assert "<title>photos</title>" in Path("all.html").read_text(encoding="utf-8")


def test_a_page_beside_all_other_output(command: Command, folder: Path) -> None:
    (folder / "broken.jpg").unlink()
    (folder / "notes.txt").unlink()
    everything = ["--page", "all.html", "--figure", "figures"]
    assert command("caption", "photos/a.png", "photos/b.jpg", "--output", "captions.jsonl").code == 0
    begun = Path("captions.jsonl").read_bytes()
    # A page needs the maps of all its pictures; of those that the results have nothing is written twice.
    run = command("caption", "photos", *everything, "--output", "captions.jsonl")
    assert (run.code, run.out, run.err) == (0, "", "captions.jsonl: 4 captions (2 were there)\n")
    assert Path("captions.jsonl").read_bytes().startswith(begun)
    assert [text for _, text in read_back(Path("captions.jsonl"))] == captions_on("all.html")
    assert len(list(Path("figures").iterdir())) == 4
    run = command("caption", "photos", "--json", *everything)
    assert [json.loads(line)["caption"] for line in run.out.splitlines()] == captions_on("all.html")


def test_a_page_is_written_whole_or_not_at_all(command: Command, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("all.html").write_text(OLD_PAGE)
    assert command("caption", "photos/broken.jpg", "--page", "all.html").code == 2
    assert Path("all.html").read_text() == OLD_PAGE

    caption_all = Captioner.caption_all

    def interrupted(self: Captioner, pictures: Any, **options: Any) -> Any:
        yield from caption_all(self, pictures[:1], **options)
        raise KeyboardInterrupt

    before = sorted(Path().rglob("*"))
    monkeypatch.setattr(Captioner, "caption_all", interrupted)
    assert command("caption", "photos", "--page", "all.html").code == 130
    assert Path("all.html").read_text() == OLD_PAGE
    assert sorted(Path().rglob("*")) == before


def test_pages_that_cannot_be_are_refused_before_anything_is_captioned(
    command: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Captioner, "caption_all", lambda *_, **__: pytest.fail("it began"))
    (Path() / "folder.html").mkdir()
    for name in ("photos/a.png/x.html", "folder.html", "x" * 300 + ".html"):
        run = command("caption", "photos/a.png", "--page", name)
        assert run.code == 2
        assert re.fullmatch(r"captioner: .*\.html: cannot be written \(.+\)\n", run.err)
    monkeypatch.setattr("captioner.data.writers.PageFile.MOST", 4)
    run = command("caption", "photos", "--page", "all.html")
    assert run.code == 2
    assert "--page all.html: 5 pictures" in run.err
    assert "4 at most" in run.err


def test_names_that_are_no_text(command: Command, make_picture: MakePicture, tmp_path: Path) -> None:
    name = os.fsdecode(b"\xe9t\xe9\nb.png")
    make_picture("photos/a.png").rename(tmp_path / "photos" / name)
    (tmp_path / "photos" / "no\npicture.png").write_text("no")
    run = command("caption", "photos", "--output", "captions.jsonl")
    assert run.code == 1
    assert "captioner: photos/no picture.png: " in run.err
    assert [image for image, _ in read_back(tmp_path / "captions.jsonl")] == [f"photos/{name}"]
    assert command("caption", "photos", "--output", "captions.jsonl").err.endswith("(1 was there)\n")


# Mistakes. What is wrong, the arguments, the exit code, what the line says.
# {} is a picture that is fine; the folder holds it, text.jpg, empty.jpg, cut.jpg, bomb.png and an empty folder.
BAD_INPUTS: list[tuple[str, str, int, str]] = [
    # the picture
    ("a missing picture", "caption nowhere.jpg", 2, "nowhere.jpg: no such file or folder"),
    ("a name that is too long", "caption " + "x" * 300, 2, "x: no such file or folder"),
    ("an empty name", "caption EMPTY", 2, "a picture's name is empty"),
    ("a text file", "caption text.jpg", 2, "text.jpg: not an image in a format that is known"),
    ("an empty file", "caption empty.jpg", 2, "empty.jpg: the file is empty"),
    ("a truncated picture", "caption cut.jpg", 2, "cut.jpg: truncated or damaged"),
    ("a document", "caption paper.pdf", 2, "paper.pdf: not an image in a format that is known"),
    ("a drawing", "caption drawing.svg", 2, "drawing.svg: not an image in a format that is known"),
    ("a device", "caption /dev/null", 2, "/dev/null: not an image in a format that is known"),
    ("a folder named as a picture", "caption folder.jpg", 2, "folder.jpg: no pictures in this folder"),
    ("a link to nowhere", "caption gone.jpg", 2, "gone.jpg: a link to nowhere (moved-away.jpg)"),
    ("a decompression bomb", "caption bomb.png", 2, "bomb.png: 20000 x 20000 is more than the limit of 100,000,000"),
    ("a picture above the limit", "caption {} --max-pixels 9", 2, "photo.png: 40 x 30 is more than the limit of 9 "),
    ("a limit of nothing", "caption {} --max-pixels 0", 2, "--max-pixels must be at least 1, not 0"),
    ("a folder without pictures", "caption nothing", 2, "nothing: no pictures"),
    ("one broken among several", "caption {} text.jpg", 1, "text.jpg: not an image in a format that is known"),
    ("one missing among several", "caption {} nowhere.jpg", 1, "nowhere.jpg: no such file or folder"),
    ("no picture at all", "caption", 2, "the following arguments are required: PICTURE"),
    # the model
    ("an unknown model", "caption {} --model bset", 2, "no model is called 'bset'; shipped: default"),
    ("a missing model file", "caption {} --model x/y.safetensors", 2, "x/y.safetensors: no such model file"),
    ("a model file that is none", "caption {} --model ./text.jpg", 2, "text.jpg: not a whole safetensors file"),
    ("a model file that is cut", "caption {} --model ./model.safetensors", 2, "model.safetensors: not a whole safet"),
    ("a folder as a model", "caption {} --model ./nothing", 2, "nothing: a folder without config.json"),
    ("a device that is not there", "caption {} --device gpu", 2, "there is no device 'gpu' here"),
    # the output
    (
        "results of another kind",
        "caption {} --output out.docx",
        2,
        "results end in .txt, .jsonl, .csv or .parquet, not '.docx'",
    ),
    ("results over a file of another kind", "caption {} --output notes.txt", 2, "notes.txt: holds lines that are no"),
    ("results where no file can be", "caption {} --output text.jpg/a.csv", 2, "text.jpg/a.csv: cannot be written"),
    ("a figure of another kind", "caption {} --figure out.docx", 2, "--figure out.docx: name a file that ends in .png"),
    ("a figure without an ending", "caption {} --figure out", 2, "--figure out: name a file that ends in .png"),
    ("one figure for two", "caption {} cut.jpg --figure out.png", 2, "out.png is one file for several pictures"),
    ("a page of another kind", "caption {} --page words.pdf", 2, "words.pdf: a page ends in .html, not '.pdf'"),
    ("a page where none can be", "caption {} --page text.jpg/a.html", 2, "text.jpg/a.html: cannot be written"),
    ("a figure where none can be", "caption {} --figure text.jpg/a.png", 2, "text.jpg/a.png: cannot be written"),
    # the search
    ("a beam of none", "caption {} --beam 0", 2, "beam width must be"),
    ("a beam of words", "caption {} --beam wide", 2, "argument --beam: invalid int value: 'wide'"),
    ("more captions than beams", "caption {} --beam 2 --n-best 3", 2, "(--beam)"),
    ("a beam and samples", "caption {} --sample --beam 3", 2, "--beam and --length-penalty do not go with it"),
    ("a penalty and samples", "caption {} --sample --length-penalty 1", 2, "--beam and --length-penalty do not"),
    ("a temperature without samples", "caption {} --temperature 2", 2, "--temperature is an option of sampling"),
    ("top-k without samples", "caption {} --top-k 5", 2, "--top-k is an option of sampling: add --sample"),
    ("a temperature of 0", "caption {} --sample --temperature 0", 2, "above 0, not 0.0"),
    ("top-p above 1", "caption {} --sample --top-p 1.5", 2, "--top-p must be above 0 and at most 1, not 1.5"),
    ("a length of none", "caption {} --max-length 0", 2, "--max-length must be"),
    ("lengths the wrong way round", "caption {} --min-length 9", 2, "--min-length 9 is above max_length 6"),
    ("a penalty out of range", "caption {} --length-penalty 9", 2, "--length-penalty must be from 0 to 5, not 9.0"),
    ("a column of no table", "caption {} --column image", 2, "--column image"),
    ("a batch of none", "caption {} --batch 0", 2, "--batch must be at least 1, not 0"),
    # the rest of the line
    ("an unknown option", "caption {} --bean 3", 2, "unrecognized arguments: --bean 3 (see captioner caption --help)"),
    ("a file that looks like one", "caption {} -x.png", 2, "-x.png (for the file -x.png, write ./-x.png)"),
    ("an unknown command", "captoin {}", 2, "argument COMMAND: invalid choice: 'captoin'"),
    ("training on nothing", "train --data nowhere --output run", 2, "nowhere: no such file or folder"),
    ("training without captions", "train --data nothing --output run", 2, "nothing: no captions found"),
    ("training without --output", "train --data nothing", 2, "the following arguments are required: --output"),
    ("training with a wrong recipe", "train --data nothing --output run --epochs 0", 2, "epochs must be at least 1"),
    ("training with no JSON", "train --data x --output run --decoder-options {bad", 2, "'{bad' is no JSON object"),
    ("training with a list", "train --data x --output run --decoder-options [1]", 2, "'[1]' is no JSON object"),
    ("training on a table of no captions", "train --data table.csv --output run", 2, "image,caption"),
    ("scoring without results", "evaluate --annotations nowhere.json --results x.json", 2, "nowhere.json"),
]


@pytest.fixture(scope="module")
def bomb() -> bytes:
    buffer = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(("arguments", "code", "says"), [row[1:] for row in BAD_INPUTS], ids=[b[0] for b in BAD_INPUTS])
def test_bad_input(
    command: Command,
    make_picture: MakePicture,
    tiny_model: Path,
    bomb: bytes,
    tmp_path: Path,
    arguments: str,
    code: int,
    says: str,
) -> None:
    """One line on standard error that names what is wrong, the right exit code, never a traceback."""
    make_picture()
    whole = make_picture("cut.jpg", size=(90, 90)).read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "-x.png").touch()
    (tmp_path / "bomb.png").write_bytes(bomb)
    (tmp_path / "notes.txt").write_text("buy milk\n")
    (tmp_path / "table.csv").write_text("name,age\nann,3\n")
    (tmp_path / "nothing").mkdir()
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "gone.jpg").symlink_to("moved-away.jpg")
    (tmp_path / "paper.pdf").write_bytes(b"%PDF-1.4\n")
    (tmp_path / "drawing.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    (tmp_path / "model.safetensors").write_bytes(tiny_model.read_bytes()[:-100])

    words = ["photo.png" if word == "{}" else "" if word == "EMPTY" else word for word in arguments.split()]
    run = command(*words)
    assert run.code == code
    assert says in run.err
    assert run.err.count("\n") == 1
    assert run.err.startswith("captioner")
    assert len(run.out.splitlines()) == (1 if code == 1 else 0)  # what could be done was
    assert (tmp_path / "notes.txt").read_text() == "buy milk\n"
    assert not (tmp_path / "run").exists()


def test_a_bomb_is_let_through_when_it_is_trusted(command: Command, tmp_path: Path) -> None:
    Image.new("1", (600, 500)).save(tmp_path / "large.png")
    assert command("caption", "large.png", "--max-pixels", 299_999).code == 2
    assert command("caption", "large.png", "--max-pixels", 300_000).code == 0


def test_progress_is_drawn_on_a_terminal_alone(command: Command, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b" not in command("caption", "photos").err
    assert "4/5" not in command("caption", "photos").err
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    run = command("caption", "photos")
    assert "5/5" in run.err
    assert "photos/broken.jpg: not an image" in run.err.replace("\n", " ")
    assert [line.split("\t")[0] for line in run.out.splitlines()] == GOOD  # the bar is not among the captions


def test_a_caption_that_is_interrupted_says_so(
    command: Command, make_picture: MakePicture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: Any, **options: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("captioner.pipeline.Captioner.caption_all", interrupted)
    run = command("caption", make_picture())
    assert (run.code, run.out, run.err) == (130, "", "captioner: interrupted\n")


# As a program of its own.


def test_the_program_in_a_pipe(folder: Path, quick_model: Path, tmp_path: Path) -> None:
    run = subprocess.run(
        [*PROGRAM, "caption", "photos", "--model", quick_model, "--output", "captions.csv"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (run.returncode, run.stdout) == (1, "")
    lines = run.stderr.splitlines()
    assert lines[1].startswith("captioner: photos/broken.jpg: ")
    assert lines[2:] == ["captions.csv: 4 captions"]


def test_a_reader_that_leaves_is_no_error(folder: Path, quick_model: Path) -> None:
    shell = f"'{sys.executable}' -m captioner caption '{folder}' --json --model '{quick_model}' --batch 1 | head -c 1"
    run = subprocess.run(["bash", "-c", f"set -o pipefail; {shell}"], capture_output=True, text=True)
    assert run.stdout == "{"
    assert "Error" not in run.stderr
    assert run.returncode == 0


def test_a_kill_loses_nothing_that_was_written(
    command: Command, make_picture: MakePicture, quick_model: Path, tmp_path: Path
) -> None:
    names = [str(make_picture(f"photos/{i:03}.png", seed=i).relative_to(tmp_path)) for i in range(80)]
    output = tmp_path / "captions.txt"
    line = [*PROGRAM, "caption", "photos", "--model", str(quick_model), "--output", "captions.txt", "--batch", "1"]
    process = subprocess.Popen(line, cwd=tmp_path, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (output.exists() and output.read_bytes().count(b"\n") >= 3) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = output.read_bytes()
    assert 3 <= before.count(b"\n") < 80  # it was killed at work

    assert command("caption", "photos", "--output", "captions.txt", "--model", quick_model).code == 0
    assert output.read_bytes().startswith(before[: before.rfind(b"\n") + 1])
    assert [name for name, _ in read_back(output)] == names


def test_samples_keep_what_the_file_says_of_words() -> None:
    parser = argparse.ArgumentParser()
    add_decoding_options(parser)
    about = {"decoding": {"width": 2, "no_repeat_ngram": 2, "max_length": 9, "min_length": 8}}

    def options(*words: str) -> Sampling:
        found = decoding_options(parser.parse_args(["--sample", *words]), about)
        assert isinstance(found, Sampling)
        return found

    assert (options().no_repeat_ngram, options().max_length, options().min_length) == (2, 9, 8)
    assert (options("--max-length", "5").max_length, options("--max-length", "5").min_length) == (5, 5)
    assert options("--no-repeat-ngram", "0", "--seed", "3").no_repeat_ngram == 0


def test_a_file_that_is_no_page_stays(command: Command, make_picture: MakePicture, tmp_path: Path) -> None:
    one, two = make_picture("one.png"), make_picture("two.png", seed=1)
    own = tmp_path / "own.html"
    own.write_text("<p>precious")
    run = command("caption", one, "--page", own)
    assert run.code == 2 and f"--page: {own} is no page of captioner" in run.err
    assert own.read_text() == "<p>precious"
    page = tmp_path / "new.html"
    assert command("caption", one, "--page", page).code == 0
    assert command("caption", two, "--page", page).code == 0  # a page takes the place of a page
    assert "two.png" in page.read_text()


def test_several_names_give_names_also_where_only_one_opens(command: Command, make_picture: MakePicture) -> None:
    path = make_picture("a.png")
    run = command("caption", path, path.with_name("nowhere.png"))
    assert run.code == 1 and run.out.startswith(f"{path}\t")
    run = command("caption", path.parent)
    assert run.out.startswith(f"{path}\t")
    assert not command("caption", path).out.startswith(str(path))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--picture-gain",), "--picture-gain is shown in JSON"),
        (("--picture-gain", "--output", "gains.csv"), "--picture-gain is shown in JSON"),
        (("--cells",), "--cells is of the maps"),
        (("--from", "list.png"), "is a picture, and no list"),
        (("--from", ""), "--from is empty"),
        (("--output", ""), "argument --output: is empty"),
        (("--page", ""), "argument --page: is empty"),
        (("--heads", "dog", "--min-confidence", "0"), "--heads does not go with --min-confidence"),
    ],
)
def test_options_that_would_do_nothing_are_refused(
    command: Command, make_picture: MakePicture, options: tuple[str, ...], said: str
) -> None:
    run = command("caption", make_picture("a.png"), *options)
    assert run.code == 2 and run.out == ""
    assert said in run.err and len(run.err.splitlines()) == 1


@pytest.mark.parametrize("options", [("--picture-gain",), ("--min-confidence", "0.5")])
def test_what_marks_rows_is_part_of_a_run(command: Command, folder: Path, options: tuple[str, ...]) -> None:
    assert command("caption", "photos", "--output", "o.jsonl").code == 1  # one is broken
    before = Path("o.jsonl").read_bytes()
    run = command("caption", "photos", "--output", "o.jsonl", *options)
    assert run.code == 2 and options[0].removeprefix("--") in run.err
    assert Path("o.jsonl").read_bytes() == before
    assert command("caption", "photos", "--output", "o.jsonl", *options, "--overwrite").code == 1
    key = "gain" if options[0] == "--picture-gain" else "needs_review"
    assert key.encode() in Path("o.jsonl").read_bytes()
    assert command("caption", "photos", "--output", "o.jsonl", *options).code == 1


def test_a_dry_run_says_that_rows_are_replaced(command: Command, folder: Path) -> None:
    assert command("caption", "photos", "--output", "o.jsonl").code == 1
    run = command("caption", "photos", "--output", "o.jsonl", "--dry-run", "--overwrite")
    assert "o.jsonl: replaced, 5 rows" in run.out  # that one is broken shows when it is opened
    assert command("caption", "photos", "--output", "o.jsonl", "--dry-run").out.endswith("o.jsonl: 1 more rows\n")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--n-best", "9", "--beam", "2"), "captioner: --n-best 9 is more than the beam width 2"),
        (("--min-words", "30", "--max-words", "5"), "captioner: --min-words 30 is above max_length 5"),
        (("--length-penalty=9",), "captioner: --length-penalty must be from 0 to 5"),
        (("--forbid-words", ","), "captioner: --forbid-words: ',' has no words"),
        (("--require-words", "xyzzy"), "captioner: --require-words: 'xyzzy'"),
        (("--begin", "xyzzy"), "captioner: --begin: 'xyzzy'"),
    ],
)
def test_errors_name_options_as_they_were_given(
    command: Command, make_picture: MakePicture, options: tuple[str, ...], said: str
) -> None:
    run = command("caption", make_picture("a.png"), *options)
    assert run.code == 2 and run.err.startswith(said)
