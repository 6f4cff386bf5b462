"""Drawn scenes: the boxes are exact, the captions true, and a seed always gives the same picture."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from captioner.cli import main
from captioner.data import drawing, scenes
from captioner.data.readers import read
from captioner.data.scenes import Scene, dog_frisbee_park, draw_scene, draw_scenes, write_scenes

SOME = range(0, 120)
COLOUR = f"(?:{'|'.join(drawing.COLOURS)})"
ARTICLE_AND_COLOUR = f"(?:an orange|a (?!orange){COLOUR})"
SENTENCES = re.compile(
    "|".join(
        (
            f"a (?:{'|'.join(drawing.COATS)}) (?:dog|cat) chasing {ARTICLE_AND_COLOUR} (?:frisbee|ball) PLACE",
            f"{ARTICLE_AND_COLOUR} THING (?:left of|right of|above|below) {ARTICLE_AND_COLOUR} THING",
            f"a (?:boy in {ARTICLE_AND_COLOUR} shirt|girl in {ARTICLE_AND_COLOUR} dress)"
            f" holding {ARTICLE_AND_COLOUR} (?:balloon|kite) PLACE",
            f"{ARTICLE_AND_COLOUR} (?:boat on the water|car next to a (?:tree|house) on a road)",
        )
    )
    .replace("PLACE", "(?:in a park|on a beach|in the snow)")
    .replace("THING", "(?:ball|box|star|cup)")
)


@pytest.fixture(scope="module")
def some() -> list[Scene]:
    return [draw_scene(seed) for seed in SOME]


def test_a_seed_always_gives_the_same_scene(some: list[Scene]) -> None:
    for seed in (0, 7, 31):
        again = draw_scene(seed)
        assert again.words == some[seed].words
        assert again.boxes == some[seed].boxes
        assert again.image.tobytes() == some[seed].image.tobytes()
    (third,) = draw_scenes(1, first_seed=2)
    assert third.image.tobytes() == some[2].image.tobytes()


def test_seeds_differ(some: list[Scene]) -> None:
    assert len({scene.image.tobytes() for scene in some}) == len(some)
    assert len({scene.caption for scene in some}) > len(some) / 2


def test_every_caption_is_one_of_the_known_sentences(some: list[Scene]) -> None:
    kinds = set()
    for scene in some:
        assert SENTENCES.fullmatch(scene.caption), scene.caption
        kinds.add(scene.words[2] if scene.words[2] in ("chasing", "in") else scene.words[3])
    assert {"chasing", "in", "above", "left", "on", "next"} <= kinds | {scene.words[3] for scene in some}


def test_every_noun_has_a_box_inside_the_picture(some: list[Scene]) -> None:
    nouns = {"dog", "cat", "frisbee", "ball", "box", "star", "cup", "boy", "girl", "shirt", "dress", "balloon"}
    nouns |= {"kite", "boat", "water", "car", "tree", "house", "road", "park", "beach", "snow"}
    for scene in some:
        assert [scene.words[place] for place in scene.boxes] == [word for word in scene.words if word in nouns]
        for left, top, right, bottom in scene.boxes.values():
            assert 0 <= left < right <= scene.image.width
            assert 0 <= top < bottom <= scene.image.height
        for place in scene.boxes.keys() - scene.things().keys():
            assert scene.words[place] in {"park", "beach", "snow", "water", "road"}


def test_boxes_are_exactly_what_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """What drawing a thing changes in the picture lies in its box and reaches each of its sides."""
    put = scenes._Canvas.put
    checked = []

    def watched(canvas: Any, *args: Any, **options: Any) -> Any:
        before = np.asarray(canvas.image.convert("RGB")).astype(int)
        box = put(canvas, *args, **options)
        changed = (np.asarray(canvas.image.convert("RGB")).astype(int) != before).any(2)
        rows, columns = changed.any(1).nonzero()[0], changed.any(0).nonzero()[0]
        found = np.array((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
        # An edge pixel that is covered by a sixteenth may round to the colour behind it.
        assert (np.abs(found - box) <= 1).all(), (found, box)
        assert found[0] >= box[0]
        assert found[1] >= box[1]
        assert found[2] <= box[2]
        assert found[3] <= box[3]
        checked.append(box)
        return box

    monkeypatch.setattr(scenes._Canvas, "put", watched)
    for seed in range(40):
        scene = draw_scene(seed)
        assert set(scene.things().values()) <= set(checked)
    assert len(checked) > 80


def centre(box: tuple[int, int, int, int]) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def test_relations_are_true_and_the_larger_thing_is_named_first() -> None:
    """Otherwise "a ball left of a box" and "a box right of a ball" would both be right."""
    seen = set()
    for seed in range(300):
        scene = draw_scene(seed, size=(160, 120))
        relation = next((word for word in scene.words if word in ("left", "right", "above", "below")), None)
        if relation is None:
            continue
        seen.add(relation)
        first, second = scene.boxes.values()
        (x0, y0), (x1, y1) = centre(first), centre(second)
        apart = {"left": x1 - x0, "right": x0 - x1, "above": y1 - y0, "below": y0 - y1}[relation]
        aside = abs(y1 - y0) if relation in ("left", "right") else abs(x1 - x0)
        assert apart > 2 * aside, scene.caption
        assert first[3] - first[1] > second[3] - second[1], scene.caption
        # They do not touch, so that neither hides the other.
        assert first[2] <= second[0] or second[2] <= first[0] or first[3] <= second[1] or second[3] <= first[1]
    assert seen == {"left", "right", "above", "below"}


def test_things_have_the_colour_that_is_said(some: list[Scene]) -> None:
    """In the box of "red ball" the commonest of the named colours is red."""
    named = {**drawing.COLOURS, **drawing.COATS}
    checked = 0
    for scene in some:
        pixels = np.asarray(scene.image).astype(int)
        for place, (left, top, right, bottom) in scene.things().items():
            said = scene.words[place - 1]
            if said not in drawing.COLOURS:
                continue
            inside = pixels[top:bottom, left:right].reshape(-1, 3)
            close = {n: (np.abs(inside - colour).max(1) <= 14).sum() for n, colour in named.items()}
            assert max((close[n], n) for n in drawing.COLOURS)[1] == said, scene.caption
            checked += 1
    assert checked > 100


def test_no_thing_is_hidden_by_another(some: list[Scene]) -> None:
    for scene in some:
        things = {scene.words[place]: box for place, box in scene.things().items()}
        for name, (left, top, right, bottom) in things.items():
            for other, box in things.items():
                if other == name or {name, other} & {"shirt", "dress"}:
                    continue  # clothes are on their wearer
                wide, high = min(right, box[2]) - max(left, box[0]), min(bottom, box[3]) - max(top, box[1])
                shared = max(wide, 0) * max(high, 0)
                assert shared <= 0.5 * (right - left) * (bottom - top), (scene.caption, name, other)


@pytest.mark.parametrize("size", [(96, 96), (64, 48), (48, 64), (500, 120)])
def test_other_sizes(size: tuple[int, int]) -> None:
    for seed in range(12):
        scene = draw_scene(seed, size=size)
        assert scene.image.size == size
        for left, top, right, bottom in scene.boxes.values():
            assert 0 <= left < right <= size[0]
            assert 0 <= top < bottom <= size[1]


def test_a_layers_box_is_tight_and_mirroring_turns_it_round() -> None:
    layer = drawing.layer((60, 40), (10, 5, 50, 35), drawing.dog, (0, 0, 0))
    mirrored = drawing.layer((60, 40), (10, 5, 50, 35), drawing.dog, (0, 0, 0), mirrored=True)
    alpha = np.asarray(layer)[:, :, 3]
    assert alpha[:, :10].max() == alpha[:, 50:].max() == alpha[:5].max() == alpha[35:].max() == 0
    difference = np.abs(alpha[:, ::-1].astype(int) - np.asarray(mirrored)[:, :, 3])
    assert difference.mean() < 4  # of 255: edges may round otherwise
    assert difference.mean() < np.abs(alpha.astype(int) - np.asarray(mirrored)[:, :, 3]).mean() / 5


def test_the_scene_of_the_readme() -> None:
    scene = dog_frisbee_park()
    assert scene.caption == "a brown dog chasing a red frisbee in a park"
    assert scene.image.tobytes() == dog_frisbee_park().image.tobytes()


def test_written_scenes_are_read_again_with_their_boxes(tmp_path: Path) -> None:
    file = write_scenes(tmp_path / "scenes", count=4, dev=2, first_seed=50)
    records = read(file)
    assert [record.split for record in records] == ["train"] * 4 + ["dev"] * 2
    for seed, record in enumerate(records, 50):
        scene = draw_scene(seed)
        with Image.open(record.image) as image:
            assert image.tobytes() == scene.image.tobytes()
        assert record.captions == (scene.caption,)
        width, height = scene.image.size
        (boxes,) = record.boxes
        assert boxes.keys() == scene.things().keys()
        for place, box in scene.things().items():
            (read_again,) = boxes[place]
            back = np.array(read_again) * (width, height, width, height)
            assert np.abs(back - box).max() < 0.01


def test_the_command_draws(tmp_path: Path) -> None:
    assert main(["scenes", str(tmp_path / "scene.png"), "--example"]) == 0
    with Image.open(tmp_path / "scene.png") as image:
        assert image.tobytes() == dog_frisbee_park().image.tobytes()
    assert main(["scenes", str(tmp_path / "set"), "--count", "3", "--dev", "1"]) == 0
    assert len(list((tmp_path / "set" / "images").glob("*.png"))) == 4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--count", "-1"], "--count must be at least 0, not -1"),
        (["--count", "0", "--dev", "0"], "--count and --dev"),
        (["--first-seed", "-3"], "not -3"),
        (["--example", "--count", "7"], "--count 7"),
        (["--example", "--first-seed", "0"], "--first-seed 0"),
        ([], "is not empty"),
    ],
)
def test_what_the_command_cannot_draw_is_one_line(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "captions.jsonl"
    kept.write_text("mine")
    assert main(["scenes", str(tmp_path), *arguments]) == 2
    line = capsys.readouterr().err
    assert said in line
    assert line.count("\n") == 1
    assert kept.read_text() == "mine"


@pytest.mark.parametrize("name", ["scene.xyz", "file/below.png", "photo.png"])
def test_an_example_that_cannot_be_written_is_one_line(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for kept in ("file", "photo.png"):
        (tmp_path / kept).write_text("mine")
    assert main(["scenes", str(tmp_path / name), "--example"]) == 2
    line = capsys.readouterr().err
    assert name in line
    assert line.count("\n") == 1
    assert (tmp_path / "photo.png").read_text() == "mine"
