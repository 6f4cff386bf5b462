"""``captioner caption``: steering the words, how sure, how seen."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from captioner.pipeline import load

from .conftest import Command

MakePicture = Callable[..., Path]


@pytest.fixture
def photo(make_picture: MakePicture) -> Path:
    return make_picture("photo.png")


def test_words_are_given_forbidden_and_required(command: Command, photo: Path, tiny_model: Path) -> None:
    found = command(
        "caption", photo, "--begin", "The Cat", "--forbid-words", "a, red", "--require-words", "blue", "--json"
    )
    assert found.code == 0
    line = json.loads(found.out)
    words = [word["word"] for word in line["words"]]
    assert words[:2] == ["the", "cat"]
    assert [word.get("given", False) for word in line["words"]] == [True, True] + [False] * (len(words) - 2)
    assert "blue" in words
    assert not {"a", "red"} & set(words)
    model = load(tiny_model)
    options = model.options(begin="the cat", forbid_words=["a", "red"], require_words=["blue"])
    caption = model.caption(photo, options=options)
    assert line == {**caption.as_dict(), "image": line["image"]}
    assert caption.words[0].map.sum() + caption.words[0].off_grid == pytest.approx(1, abs=1e-4)


def test_options_of_lists_may_be_repeated(command: Command, photo: Path) -> None:
    one = command("caption", photo, "--require-words", "blue, park")
    two = command("caption", photo, "--require-words", "blue", "--require-words", "park")
    assert one.out == two.out
    assert {"blue", "park"} <= set(one.out.split())


def test_the_most_and_fewest_words_have_two_names(command: Command, photo: Path) -> None:
    for most, fewest in (("--max-words", "--min-words"), ("--max-length", "--min-length")):
        assert len(command("caption", photo, most, 4, fewest, 4).out.split()) == 4


def test_diverse_groups_find_other_captions(command: Command, photo: Path) -> None:
    found = command("caption", photo, "--diverse-groups", 3, "--n-best", 3, "--diversity", 5, "--json")
    line = json.loads(found.out)
    captions = [line["caption"], *(other["caption"] for other in line["alternatives"])]
    assert len(set(captions)) == 3
    assert len({caption.split()[0] for caption in captions}) == 3


@pytest.mark.parametrize(
    ("options", "value", "remedy"),
    [
        (["--require-words", "dgo"], "'dgo'", "dog"),
        (["--require-words", "dog", "--forbid-words", "dog"], "'dog'", "leave one"),
        (["--require-words", "the dog", "--forbid-words", "dog"], "'dog'", "leave one"),
        (["--begin", "a dog in", "--max-words", "2", "--min-words", "1"], "3 words", "--max-words"),
        (["--begin", "a zebra"], "'zebra'", "another word"),
        (["--require-words", "dog, cat, ball", "--max-words", "2", "--min-words", "1"], "3 words", "--max-words"),
        (["--min-words", "5", "--max-words", "4"], "5", "--min-words"),
        (["--begin", "dog", "--forbid-words", "dog"], "'dog'", "leave one"),
        (["--require-words", ","], "','", "--require-words"),
        (["--sample", "--require-words", "dog"], "--require-words", ""),
        (["--sample", "--diverse-groups", "2"], "--diverse-groups", ""),
        (["--diversity", "2"], "--diversity", "--diverse-groups"),
        (["--beam", "4", "--diverse-groups", "3"], "4", "--beam 6"),
        (["--min-confidence", "1.5"], "1.5", ""),
        (["--min-confidence", "nan"], "nan", ""),
        (["--sort", "doubt"], "doubt", "--page"),
    ],
)
def test_bad_input_is_one_line_before_any_work(
    command: Command, photo: Path, tmp_path: Path, options: list[str], value: str, remedy: str
) -> None:
    found = command("caption", photo, *options, "--output", "captions.jsonl")
    assert (found.code, found.out) == (2, "")
    assert found.err.count("\n") == 1
    assert value in found.err
    assert remedy in found.err
    assert not (tmp_path / "captions.jsonl").exists()


def test_a_run_goes_on_with_the_same_words_alone(command: Command, photo: Path, make_picture: MakePicture) -> None:
    steered = ("--output", "captions.jsonl", "--require-words", "blue", "--begin", "the")
    assert command("caption", photo, *steered).code == 0
    assert command("caption", photo, make_picture("other.png", seed=3), *steered).code == 0
    found = command("caption", photo, "--output", "captions.jsonl", "--require-words", "park", "--begin", "the")
    assert found.code == 2
    assert "require-words" in found.err


def test_what_the_picture_did_for_each_word(command: Command, photo: Path, tiny_model: Path) -> None:
    found = command("caption", photo, "--picture-gain", "--json", "--n-best", 2, "--page", "p.html")
    assert found.code == 0
    line = json.loads(found.out)
    model = load(tiny_model)
    (caption,) = model.with_gains([model.caption(photo, options=model.options(n_best=2))])
    assert line == {**caption.as_dict(), "image": line["image"]}
    assert all("gain" in word for word in [*line["words"], *line["alternatives"][0]["words"]])
    assert '"gain":' in Path("p.html").read_text()


def names_in_order(page: Path) -> list[str]:
    return re.findall(r'"name":"([^"]+)"', page.read_text())


def test_doubtful_captions_are_named_and_marked_and_come_first(command: Command, make_picture: MakePicture) -> None:
    pictures = [make_picture(f"{i}.png", seed=i) for i in range(4)]
    first = command("caption", *pictures, "--json", "--min-confidence", "1")
    lines = [json.loads(line) for line in first.out.splitlines()]
    assert all(line["needs_review"] for line in lines)
    assert "4 of 4" in first.err
    by_doubt = sorted(lines, key=lambda line: float(line["confidence"]))
    middle = (by_doubt[1]["confidence"] + by_doubt[2]["confidence"]) / 2
    found = command("caption", *pictures, "--page", "p.html", "--sort", "doubt", "--min-confidence", middle)
    assert names_in_order(Path("p.html")) == [Path(line["image"]).name for line in by_doubt]
    assert Path("p.html").read_text().count('"needs_review":true') == 2
    for line in by_doubt:
        assert (f"{line['image']}: only" in found.err) == (line in by_doubt[:2])
    options = ("--output", "c.txt", "--min-confidence", "1")
    command("caption", *pictures[:2], *options)
    assert "2 of 2 captions" in command("caption", *pictures, *options).err  # of this run alone
    assert "less sure" not in command("caption", *pictures, "--min-confidence", "1", "--quiet").err
    command("caption", *pictures, "--page", "p.html")
    assert names_in_order(Path("p.html")) == [picture.name for picture in pictures]
    assert '"confidence"' not in Path("p.html").read_text()


def test_confidence_is_the_mean_probability_of_chosen_words(photo: Path, tiny_model: Path) -> None:
    model = load(tiny_model)
    caption = model.caption(photo, options=model.options(begin="ball ball"))
    chosen: list[Any] = [word.probability for word in caption.words[2:]]
    product = 1.0
    for p in chosen:
        product *= p
    assert caption.confidence == pytest.approx(product ** (1 / len(chosen)))
    (unknown,) = model.read(photo, ["a zebra"])
    assert unknown.confidence == 0
    assert unknown.words[1].unknown
