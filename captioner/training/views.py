"""How a picture is looked at in one epoch: mirrored, cut, in another light. Captions and boxes stay true."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance

from captioner.data.records import Box

_SIDED = re.compile(r"\b(left|right)\b", re.IGNORECASE)


@dataclass(frozen=True)
class View:
    """One way to look at a picture.

    Attributes:
        flip: mirrored.
        cut: the part that is seen, (left, top, right, bottom) as fractions of the picture.
        light: factors of brightness, contrast and saturation.
    """

    flip: bool = False
    cut: Box = (0.0, 0.0, 1.0, 1.0)
    light: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def of(self, image: Image.Image) -> Image.Image:
        """The picture as it is seen."""
        if self.cut != (0.0, 0.0, 1.0, 1.0):
            width, height = image.size
            left, top, right, bottom = self.cut
            image = image.crop(
                (
                    round(left * width),
                    round(top * height),
                    max(round(right * width), round(left * width) + 1),
                    max(round(bottom * height), round(top * height) + 1),
                )
            )
        if self.flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        for enhance, factor in zip(
            (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color), self.light, strict=True
        ):
            if factor != 1.0:
                image = enhance(image).enhance(factor)
        return image

    def of_box(self, box: Box) -> Box:
        """Where a box of the picture lies in what is seen, in fractions of it; of no area if it was cut away."""
        left, top, right, bottom = self.cut
        across, down = right - left, bottom - top
        x0, x1 = (min(max((x - left) / across, 0.0), 1.0) for x in (box[0], box[2]))
        y0, y1 = (min(max((y - top) / down, 0.0), 1.0) for y in (box[1], box[3]))
        return (1 - x1, y0, 1 - x0, y1) if self.flip else (x0, y0, x1, y1)


def may_flip(captions: Sequence[str]) -> bool:
    """Whether captions stay true of the mirrored picture: none says left or right."""
    return not any(_SIDED.search(caption) for caption in captions)


def draw_view(random: np.random.Generator, *, flip: bool, cut: float, light: float) -> View:
    """A view at random.

    Args:
        random: draws as many numbers whatever the options, so that options do not shift one another's luck.
        flip: mirror half of the time.
        cut: largest share of each side that is cut off, half of it at either end on average.
        light: brightness, contrast and saturation vary by up to this share.
    """
    numbers = random.random(8)
    width, height = 1 - cut * numbers[1], 1 - cut * numbers[2]
    left, top = (1 - width) * numbers[3], (1 - height) * numbers[4]
    factors = 1 + light * (2 * numbers[5:8] - 1)
    return View(
        flip=bool(flip and numbers[0] < 0.5),
        cut=(float(left), float(top), float(left + width), float(top + height)) if cut else (0.0, 0.0, 1.0, 1.0),
        light=(float(factors[0]), float(factors[1]), float(factors[2])) if light else (1.0, 1.0, 1.0),
    )
