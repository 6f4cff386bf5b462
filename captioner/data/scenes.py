"""Drawn scenes: small pictures with a caption and the exact box of every noun.

Unlike photographs, scenes have captions that are right or wrong, and places that are known to the pixel. A model
learns them from random weights within a minute, so they test the whole chain. ``captioner scenes`` writes them.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from captioner.data import drawing
from captioner.data.drawing import COATS, COLOURS, Colour, Pen
from captioner.partial import written_whole

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Scene:
    """A picture, its caption, and where its nouns are.

    Attributes:
        image: RGB.
        words: the caption.
        boxes: for each noun, by its place in ``words``, (left, top, right, bottom) in pixels, as tight as the
            drawing. The box of a place ("park") is the whole picture.
    """

    image: Image.Image
    words: tuple[str, ...]
    boxes: dict[int, Box]

    @property
    def caption(self) -> str:
        return " ".join(self.words)

    def things(self) -> dict[int, Box]:
        """The boxes of nouns that are not the whole picture."""
        return {i: box for i, box in self.boxes.items() if box != (0, 0, *self.image.size)}


def draw_scene(seed: int, *, size: tuple[int, int] = (320, 240)) -> Scene:
    """The scene of a seed; the same one every time.

    Args:
        seed: any non-negative whole number.
        size: (width, height) in pixels.
    """
    random = np.random.default_rng((seed, 20))
    kind = _KINDS[int(random.integers(len(_KINDS)))]
    return kind(_Canvas(size, random), random)


def draw_scenes(count: int, *, first_seed: int = 0, size: tuple[int, int] = (320, 240)) -> list[Scene]:
    """``count`` scenes of successive seeds."""
    return [draw_scene(first_seed + i, size=size) for i in range(count)]


def dog_frisbee_park(*, size: tuple[int, int] = (480, 360)) -> Scene:
    """The scene of the README: "a brown dog chasing a red frisbee in a park"."""
    random = np.random.default_rng(7)
    canvas = _Canvas(size, random)
    return _chase_of(canvas, random, "dog", "brown", "frisbee", "red", "park")


class _Canvas:
    """A picture that is being drawn, in fractions of its size, and the boxes of what is on it."""

    def __init__(self, size: tuple[int, int], random: np.random.Generator) -> None:
        self.size = size
        self.random = random
        self.image = Image.new("RGBA", size)

    def backdrop(self, sky: Colour, ground: Colour, horizon: float) -> None:
        """A sky that grows paler towards the horizon over a ground with some grain."""
        width, height = self.size
        rows = np.linspace(0, 1, height)[:, None, None]
        colours = np.array(sky) * (1 - 0.35 * rows) + 255 * 0.35 * rows  # (h, 1, 3)
        line = round(height * horizon)
        colours[line:] = np.array(ground) * (0.9 + 0.2 * rows[line:])
        pixels = colours + self.random.normal(0, 3, (height, width, 1))
        self.image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).convert("RGBA")

    def put(
        self,
        thing: Callable[[Pen, Colour], None],
        colour: Colour,
        *,
        centre: tuple[float, float],
        size: tuple[float, float],
        mirrored: bool = False,
    ) -> Box:
        """Draw a thing; its exact box. Sizes are fractions of the picture's height, both of them."""
        width, height = self.size
        x, y = centre[0] * width, centre[1] * height
        w, h = size[0] * height, size[1] * height
        x, y = min(max(x, w / 2), width - w / 2), min(max(y, h / 2), height - h / 2)
        frame = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
        layer = drawing.layer(self.size, frame, thing, self._vary(colour), mirrored=mirrored)
        box = layer.getbbox()
        assert box is not None  # every thing covers some pixels
        self.image.alpha_composite(layer.crop(box), box[:2])
        return box

    def _vary(self, colour: Colour) -> Colour:
        r, g, b = (int(min(255, max(0, c + d))) for c, d in zip(colour, self.random.integers(-9, 10, 3), strict=True))
        return r, g, b

    def scene(self, parts: Sequence[str | tuple[str, Box | None]]) -> Scene:
        """The finished scene; each part is words, or a noun with its box, None for the whole picture."""
        words: list[str] = []
        boxes: dict[int, Box] = {}
        for part in parts:
            if isinstance(part, str):
                words += part.split()
            else:
                boxes[len(words)] = part[1] or (0, 0, *self.size)
                words.append(part[0])
        return Scene(self.image.convert("RGB"), tuple(words), boxes)


_PLACES: dict[str, tuple[str, Colour, Colour]] = {  # its phrase, sky, ground
    "park": ("in a", (126, 186, 238), (104, 170, 72)),
    "beach": ("on a", (130, 196, 240), (232, 208, 150)),
    "snow": ("in the", (178, 200, 222), (238, 243, 248)),
}


def _outdoors(canvas: _Canvas, random: np.random.Generator, place: str) -> float:
    """Paint a place; the height of its horizon."""
    _, sky, ground = _PLACES[place]
    horizon = float(random.uniform(0.36, 0.46))
    canvas.backdrop(sky, ground, horizon)
    if place == "park":
        for x in np.linspace(0.05, 0.95, 4):
            height = float(random.uniform(0.2, 0.3))
            at = (float(x + random.uniform(-0.08, 0.08)), horizon - height * 0.4)
            canvas.put(drawing.tree, (46, 124, 52), centre=at, size=(height * 0.7, height))
    elif place == "beach":
        width, height = canvas.size
        top = round(height * (horizon - 0.1))
        ImageDraw.Draw(canvas.image).rectangle((0, top, width, round(height * horizon)), (52, 132, 190))
    else:
        for x in np.linspace(0.1, 0.9, 4):
            at = (float(x + random.uniform(-0.08, 0.08)), horizon - 0.08)
            canvas.put(_fir, (52, 92, 78), centre=at, size=(0.13, 0.22))
    return horizon


def _fir(pen: Pen, colour: Colour) -> None:
    pen.rectangle(0.44, 0.8, 0.56, 1.0, (90, 64, 44))
    pen.polygon(0.5, 0.0, 0.8, 0.45, 0.2, 0.45, fill=colour)
    pen.polygon(0.5, 0.25, 1.0, 0.85, 0.0, 0.85, fill=colour)


def _pick(random: np.random.Generator, names: Sequence[str]) -> str:
    return names[int(random.integers(len(names)))]


def _chase(canvas: _Canvas, random: np.random.Generator) -> Scene:
    return _chase_of(
        canvas,
        random,
        _pick(random, ("dog", "cat")),
        _pick(random, list(COATS)),
        _pick(random, ("frisbee", "ball")),
        _pick(random, list(COLOURS)),
        _pick(random, list(_PLACES)),
    )


def _chase_of(
    canvas: _Canvas, random: np.random.Generator, animal: str, coat: str, toy: str, colour: str, place: str
) -> Scene:
    horizon = _outdoors(canvas, random, place)
    leftwards = bool(random.random() < 0.5)
    x = float(random.uniform(0.2, 0.36))
    tall = float(random.uniform(0.34, 0.46))
    animal_at = (1 - x if leftwards else x, float(random.uniform(horizon + 0.22, 0.8)))
    drawn, shape_of = {"dog": (drawing.dog, 1.25), "cat": (drawing.cat, 0.8)}[animal]
    animal_box = canvas.put(drawn, COATS[coat], centre=animal_at, size=(tall * shape_of, tall), mirrored=leftwards)
    across = float(random.uniform(0.76, 0.9))
    wide = float(random.uniform(0.18, 0.24))
    toy_at = (1 - across if leftwards else across, float(random.uniform(0.2, 0.8)))
    shape, size = (
        (drawing.frisbee, (wide * 1.3, wide * 0.55)) if toy == "frisbee" else (drawing.ball, (wide * 0.8, wide * 0.8))
    )
    toy_box = canvas.put(shape, COLOURS[colour], centre=toy_at, size=size)
    how = _PLACES[place][0]
    article = "an" if colour == "orange" else "a"
    return canvas.scene(
        [f"a {coat}", (animal, animal_box), f"chasing {article} {colour}", (toy, toy_box), how, (place, None)]
    )


_TABLE: dict[str, tuple[Callable[[Pen, Colour], None], float]] = {  # thing, width over height
    "ball": (drawing.ball, 1.0),
    "box": (drawing.box, 1.1),
    "star": (drawing.star, 1.0),
    "cup": (drawing.cup, 1.0),
}


def _relation(canvas: _Canvas, random: np.random.Generator) -> Scene:
    wall = 225 + int(random.integers(-12, 20))
    canvas.backdrop((wall, wall - 6, wall - 14), (wall - 34, wall - 44, wall - 58), float(random.uniform(0.7, 0.9)))
    first, second = (_pick(random, list(_TABLE)) for _ in range(2))
    one, other = (str(name) for name in random.choice(list(COLOURS), 2, replace=False))
    relation = _pick(random, ("left of", "right of", "above", "below"))
    near, far = float(random.uniform(0.18, 0.3)), float(random.uniform(0.7, 0.82))
    level = float(random.uniform(0.35, 0.65))
    places = {
        "left of": ((near, level), (far, level)),
        "right of": ((far, level), (near, level)),
        "above": ((level, near), (level, far)),
        "below": ((level, far), (level, near)),
    }[relation]
    boxes = []
    # The larger thing is named first: either order would be true, and a caption could then not be wrong.
    for name, colour, at, low in ((first, one, places[0], 0.32), (second, other, places[1], 0.18)):
        shape, ratio = _TABLE[name]
        height = float(random.uniform(low, low + 0.06))
        boxes.append(canvas.put(shape, COLOURS[colour], centre=at, size=(height * ratio, height)))
    a, b = ("an" if colour == "orange" else "a" for colour in (one, other))
    return canvas.scene([f"{a} {one}", (first, boxes[0]), f"{relation} {b} {other}", (second, boxes[1])])


def _child(canvas: _Canvas, random: np.random.Generator) -> Scene:
    place = _pick(random, list(_PLACES))
    horizon = _outdoors(canvas, random, place)
    child, toy = _pick(random, ("boy", "girl")), _pick(random, ("balloon", "kite"))
    shirt, colour = (str(name) for name in random.choice(list(COLOURS), 2, replace=False))
    leftwards = bool(random.random() < 0.5)
    tall = float(random.uniform(0.5, 0.6))
    x, y = float(random.uniform(0.25, 0.5)), max(horizon + 0.2, 0.92 - tall / 2)
    at, size = (1 - x if leftwards else x, y), (tall * 0.56, tall)
    figure, cloth, dressed = {
        "boy": (drawing.boy, "shirt", drawing.shirt),
        "girl": (drawing.girl, "dress", drawing.dress),
    }[child]
    skin = drawing.SKINS[int(random.integers(len(drawing.SKINS)))]
    child_box = canvas.put(figure, skin, centre=at, size=size, mirrored=leftwards)
    cloth_box = canvas.put(dressed, COLOURS[shirt], centre=at, size=size, mirrored=leftwards)
    high = float(random.uniform(0.32, 0.4))
    beyond = x + float(random.uniform(0.26, 0.32))
    toy_box = canvas.put(
        {"balloon": drawing.balloon, "kite": drawing.kite}[toy],
        COLOURS[colour],
        centre=(1 - beyond if leftwards else beyond, float(random.uniform(0.2, 0.3))),
        size=(high * 0.62, high),
    )
    a, b = ("an" if name == "orange" else "a" for name in (shirt, colour))
    return canvas.scene(
        [
            "a",
            (child, child_box),
            f"in {a} {shirt}",
            (cloth, cloth_box),
            f"holding {b} {colour}",
            (toy, toy_box),
            _PLACES[place][0],
            (place, None),
        ]
    )


def _vehicle(canvas: _Canvas, random: np.random.Generator) -> Scene:
    colour = _pick(random, list(COLOURS))
    article = "an" if colour == "orange" else "a"
    leftwards = bool(random.random() < 0.5)
    if random.random() < 0.5:
        canvas.backdrop((140, 200, 244), (40, 110, 176), 0.5)
        tall = float(random.uniform(0.4, 0.55))
        at = (float(random.uniform(0.25, 0.75)), float(random.uniform(0.42, 0.6)))
        boat = canvas.put(drawing.boat, COLOURS[colour], centre=at, size=(tall, tall), mirrored=leftwards)
        return canvas.scene([f"{article} {colour}", ("boat", boat), "on the", ("water", None)])
    canvas.backdrop((150, 200, 240), (112, 114, 120), 0.6)
    beside = _pick(random, ("tree", "house"))
    x = float(random.uniform(0.2, 0.28))
    tall = float(random.uniform(0.5, 0.62))
    shape, tint = {"tree": (drawing.tree, (50, 134, 58)), "house": (drawing.house, (222, 196, 160))}[beside]
    beside_box = canvas.put(shape, tint, centre=(1 - x if leftwards else x, 0.66 - tall / 2), size=(tall * 0.8, tall))
    wide = float(random.uniform(0.44, 0.54))
    at = (x + 0.44, 0.74)
    car = canvas.put(
        drawing.car,
        COLOURS[colour],
        centre=(1 - at[0] if leftwards else at[0], at[1]),
        size=(wide, wide * 0.48),
        mirrored=leftwards,
    )
    return canvas.scene(
        [f"{article} {colour}", ("car", car), "next to a", (beside, beside_box), "on a", ("road", None)]
    )


_KINDS: tuple[Callable[[_Canvas, np.random.Generator], Scene], ...] = (_chase, _relation, _child, _vehicle)


def write_scenes(
    folder: str | Path,
    *,
    count: int,
    dev: int = 0,
    first_seed: int = 0,
    size: tuple[int, int] = (320, 240),
    suffix: str = ".png",
) -> Path:
    """Write scenes as a data set: pictures, and ``captions.jsonl`` with the boxes of the things.

    Args:
        folder: made if need be.
        count: scenes of the split train.
        dev: further scenes of the split dev.
        first_seed: of the first scene.
        size: (width, height) in pixels.
        suffix: of the pictures' files; ".bmp" for larger ones that are written and read in a tenth of the time.

    Returns:
        The path of ``captions.jsonl``.
    """
    folder = Path(folder)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    lines = []
    for i in range(count + dev):
        scene = draw_scene(first_seed + i, size=size)
        name = f"{first_seed + i:06}{suffix}"
        scene.image.save(folder / "images" / name, compress_level=1)
        split = "train" if i < count else "dev"
        width, height = scene.image.size
        boxes = {
            str(place): [[round(edge / side, 5) for edge, side in zip(box, (width, height) * 2, strict=True)]]
            for place, box in scene.things().items()
        }
        lines.append(json.dumps({"image": name, "caption": scene.caption, "split": split, "boxes": boxes}))
    captions = folder / "captions.jsonl"
    with written_whole(captions) as partial:  # last: where it is, all is
        partial.write_text("\n".join(lines) + "\n")
    return captions
