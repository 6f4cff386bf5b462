"""Things that scenes are drawn of, each in a unit square and in its own layer, so that its box is exact."""

from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image, ImageDraw

Colour = tuple[int, int, int]

COLOURS: dict[str, Colour] = {
    "red": (214, 40, 40),
    "blue": (36, 84, 200),
    "green": (22, 140, 60),
    "yellow": (246, 208, 36),
    "orange": (244, 128, 24),
    "purple": (128, 52, 170),
    "pink": (246, 130, 180),
}
COATS: dict[str, Colour] = {
    "black": (36, 34, 36),
    "white": (244, 242, 236),
    "brown": (134, 84, 44),
    "gray": (136, 138, 144),
}
SKINS: tuple[Colour, ...] = ((244, 204, 172), (198, 146, 104), (120, 78, 52))
_SCALE = 4  # things are drawn so many times larger, then reduced, for smooth edges


@dataclass(frozen=True)
class Pen:
    """Draws in unit coordinates, (0, 0) top left, mirrored where the thing faces left."""

    draw: ImageDraw.ImageDraw
    width: int
    height: int
    mirrored: bool = False

    def _points(self, *points: float) -> list[tuple[float, float]]:
        pairs = list(zip(points[::2], points[1::2], strict=True))
        return [((1 - x if self.mirrored else x) * self.width, y * self.height) for x, y in pairs]

    def ellipse(self, left: float, top: float, right: float, bottom: float, fill: Colour) -> None:
        (x0, y0), (x1, y1) = self._points(left, top, right, bottom)
        self.draw.ellipse((min(x0, x1), y0, max(x0, x1), y1), fill)

    def rectangle(self, left: float, top: float, right: float, bottom: float, fill: Colour) -> None:
        self.polygon(left, top, right, top, right, bottom, left, bottom, fill=fill)

    def polygon(self, *points: float, fill: Colour) -> None:
        self.draw.polygon(self._points(*points), fill)

    def line(self, *points: float, thickness: float, fill: Colour) -> None:
        stroke = max(1, round(thickness * min(self.width, self.height)))
        self.draw.line(self._points(*points), fill, stroke, joint="curve")


def layer(
    size: tuple[int, int],
    box: tuple[float, float, float, float],
    thing: Callable[[Pen, Colour], None],
    colour: Colour,
    *,
    mirrored: bool = False,
) -> Image.Image:
    """A thing alone on a transparent layer of the picture's size; ``getbbox`` of it is the thing's exact box.

    Args:
        size: (width, height) of the picture.
        box: (left, top, right, bottom) in pixels, in which the thing is drawn.
        thing: draws it in unit coordinates.
        colour: of its main part.
        mirrored: whether it faces left.
    """
    left, top = round(box[0]), round(box[1])
    width, height = max(4, round(box[2]) - left), max(4, round(box[3]) - top)
    big = Image.new("RGBA", (width * _SCALE, height * _SCALE))
    thing(Pen(ImageDraw.Draw(big), width * _SCALE - 1, height * _SCALE - 1, mirrored), colour)
    result = Image.new("RGBA", size)
    result.paste(big.reduce(_SCALE), (left, top))
    return result


def shade(colour: Colour, factor: float) -> Colour:
    """Darker below 1, lighter above."""
    r, g, b = (max(0, min(255, round(channel * factor))) for channel in colour)
    return r, g, b


def dog(pen: Pen, coat: Colour) -> None:
    dark = shade(coat, 0.72)
    pen.line(0.14, 0.5, 0.02, 0.24, thickness=0.07, fill=coat)
    for x in (0.2, 0.32, 0.6, 0.7):
        pen.line(
            x,
            0.62,
            x + (0.05 if x > 0.5 else -0.05),
            0.97,
            thickness=0.09,
            fill=dark if x in (0.2, 0.7) else coat,
        )
    pen.ellipse(0.1, 0.38, 0.78, 0.74, coat)
    pen.polygon(0.58, 0.5, 0.7, 0.2, 0.84, 0.36, 0.74, 0.62, fill=coat)
    pen.ellipse(0.64, 0.1, 0.92, 0.42, coat)
    pen.ellipse(0.82, 0.24, 1.0, 0.4, coat)
    pen.ellipse(0.6, 0.1, 0.72, 0.46, dark)
    pen.ellipse(0.94, 0.24, 1.0, 0.31, (10, 10, 10))
    pen.ellipse(0.79, 0.18, 0.84, 0.25, (10, 10, 10) if sum(coat) > 200 else (240, 240, 240))


def cat(pen: Pen, coat: Colour) -> None:
    """Sitting, with its tail up."""
    dark = shade(coat, 0.72)
    pen.line(0.2, 0.9, 0.04, 0.7, 0.08, 0.34, thickness=0.09, fill=dark)
    pen.ellipse(0.16, 0.42, 0.8, 1.0, coat)
    for x in (0.5, 0.66):
        pen.line(x, 0.66, x, 0.96, thickness=0.12, fill=dark)
    pen.polygon(0.36, 0.3, 0.38, 0.0, 0.62, 0.18, fill=dark)
    pen.polygon(0.98, 0.3, 0.96, 0.0, 0.72, 0.18, fill=dark)
    pen.ellipse(0.34, 0.12, 1.0, 0.54, coat)
    for x in (0.54, 0.8):
        pen.ellipse(x - 0.05, 0.24, x + 0.07, 0.36, (110, 190, 60))
        pen.ellipse(x - 0.01, 0.25, x + 0.03, 0.35, (10, 10, 10))
    pen.polygon(0.63, 0.4, 0.71, 0.4, 0.67, 0.45, fill=(230, 130, 140))


def _person(pen: Pen, *, legs: Colour, skin: Colour, hair: Colour, long_hair: bool) -> None:
    pen.line(0.42, 0.6, 0.36, 0.97, thickness=0.16, fill=legs)
    pen.line(0.58, 0.6, 0.64, 0.97, thickness=0.16, fill=legs)
    pen.line(0.36, 0.34, 0.08, 0.52, thickness=0.11, fill=skin)
    pen.line(0.64, 0.34, 0.94, 0.16, thickness=0.11, fill=skin)
    pen.rectangle(0.36, 0.26, 0.64, 0.6, skin)
    if long_hair:
        pen.ellipse(0.24, 0.02, 0.76, 0.36, hair)
    pen.ellipse(0.32, 0.04, 0.68, 0.28, skin)
    pen.ellipse(0.3, 0.0, 0.7, 0.12, hair)
    for x in (0.44, 0.56):
        pen.ellipse(x - 0.025, 0.14, x + 0.025, 0.165, (20, 20, 20))


def boy(pen: Pen, skin: Colour) -> None:
    _person(pen, legs=(54, 60, 92), skin=skin, hair=(62, 42, 28), long_hair=False)


def girl(pen: Pen, skin: Colour) -> None:
    _person(pen, legs=skin, skin=skin, hair=(96, 56, 24), long_hair=True)


def shirt(pen: Pen, colour: Colour) -> None:
    """In the unit square of the boy who wears it."""
    pen.rectangle(0.3, 0.28, 0.7, 0.62, colour)


def dress(pen: Pen, colour: Colour) -> None:
    """In the unit square of the girl who wears it."""
    pen.polygon(0.34, 0.28, 0.66, 0.28, 0.82, 0.74, 0.18, 0.74, fill=colour)


def ball(pen: Pen, colour: Colour) -> None:
    pen.ellipse(0, 0, 1, 1, colour)
    pen.ellipse(0.2, 0.14, 0.46, 0.4, shade(colour, 1.5))


def frisbee(pen: Pen, colour: Colour) -> None:
    pen.ellipse(0, 0.1, 1, 1, shade(colour, 0.7))
    pen.ellipse(0, 0, 1, 0.84, colour)
    pen.ellipse(0.2, 0.16, 0.8, 0.64, shade(colour, 1.25))


def box(pen: Pen, colour: Colour) -> None:
    pen.rectangle(0, 0.2, 1, 1, colour)
    pen.polygon(0, 0.2, 0.12, 0, 0.88, 0, 1, 0.2, fill=shade(colour, 1.3))
    pen.rectangle(0.42, 0.2, 0.58, 1, shade(colour, 0.75))


def star(pen: Pen, colour: Colour) -> None:
    right = (0.5, 0.0, 0.62, 0.36, 1.0, 0.38, 0.7, 0.6, 0.81, 1.0)
    left = (0.5, 0.76, 0.19, 1.0, 0.3, 0.6, 0.0, 0.38, 0.38, 0.36)
    pen.polygon(*right, *left, fill=colour)


def cup(pen: Pen, colour: Colour) -> None:
    pen.ellipse(0.6, 0.2, 1.0, 0.76, shade(colour, 0.75))
    pen.ellipse(0.7, 0.32, 0.9, 0.64, (232, 228, 220))
    pen.polygon(0.0, 0.08, 0.76, 0.08, 0.66, 1.0, 0.1, 1.0, fill=colour)
    pen.ellipse(0.0, 0.0, 0.76, 0.18, shade(colour, 0.6))


def balloon(pen: Pen, colour: Colour) -> None:
    pen.line(0.5, 0.68, 0.44, 0.84, 0.5, 1.0, thickness=0.03, fill=(90, 90, 90))
    pen.ellipse(0.06, 0, 0.94, 0.68, colour)
    pen.ellipse(0.24, 0.1, 0.44, 0.3, shade(colour, 1.5))
    pen.polygon(0.42, 0.72, 0.58, 0.72, 0.5, 0.64, fill=colour)


def kite(pen: Pen, colour: Colour) -> None:
    pen.line(0.5, 0.7, 0.4, 0.84, 0.56, 0.92, 0.46, 1.0, thickness=0.03, fill=(90, 90, 90))
    pen.polygon(0.5, 0, 0.94, 0.3, 0.5, 0.74, 0.06, 0.3, fill=colour)
    pen.polygon(0.5, 0, 0.94, 0.3, 0.5, 0.3, fill=shade(colour, 1.4))
    pen.polygon(0.5, 0.3, 0.06, 0.3, 0.5, 0.74, fill=shade(colour, 0.7))


def car(pen: Pen, colour: Colour) -> None:
    pen.polygon(0.2, 0.45, 0.32, 0.05, 0.7, 0.05, 0.84, 0.45, fill=colour)
    pen.polygon(0.27, 0.42, 0.36, 0.13, 0.5, 0.13, 0.5, 0.42, fill=(186, 222, 240))
    pen.polygon(0.54, 0.42, 0.54, 0.13, 0.67, 0.13, 0.77, 0.42, fill=(186, 222, 240))
    pen.rectangle(0.02, 0.42, 0.98, 0.8, colour)
    for x in (0.14, 0.66):
        pen.ellipse(x, 0.6, x + 0.2, 1.0, (30, 30, 34))
        pen.ellipse(x + 0.06, 0.72, x + 0.14, 0.88, (170, 170, 176))


def boat(pen: Pen, colour: Colour) -> None:
    pen.line(0.5, 0.02, 0.5, 0.72, thickness=0.03, fill=(96, 66, 40))
    pen.polygon(0.54, 0.04, 0.9, 0.64, 0.54, 0.64, fill=(250, 248, 240))
    pen.polygon(0.46, 0.12, 0.46, 0.64, 0.2, 0.64, fill=(236, 232, 222))
    pen.polygon(0.0, 0.7, 1.0, 0.7, 0.84, 1.0, 0.16, 1.0, fill=colour)


def tree(pen: Pen, leaves: Colour) -> None:
    pen.rectangle(0.43, 0.55, 0.57, 1.0, (104, 72, 42))
    pen.ellipse(0.0, 0.2, 0.6, 0.68, shade(leaves, 0.9))
    pen.ellipse(0.4, 0.2, 1.0, 0.68, leaves)
    pen.ellipse(0.16, 0.0, 0.84, 0.5, shade(leaves, 1.1))


def house(pen: Pen, wall: Colour) -> None:
    pen.rectangle(0.08, 0.42, 0.92, 1.0, wall)
    pen.polygon(0.0, 0.44, 0.5, 0.0, 1.0, 0.44, fill=(120, 60, 48))
    pen.rectangle(0.42, 0.64, 0.6, 1.0, (92, 62, 40))
    for x in (0.18, 0.68):
        pen.rectangle(x, 0.54, x + 0.16, 0.74, (190, 224, 240))
