"""Augmentation of a picture: horizontal flip, crop, colour jitter. Captions and boxes stay true."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance

from captioner.data.records import Box

_SIDED = re.compile(r"\b(left|right)\b", re.IGNORECASE)


@dataclass(frozen=True)
class View:
    """One augmentation of a picture.

    Attributes:
        flip: mirrored.
        crop: the part that is kept, (left, top, right, bottom) as fractions of the picture.
        colour: factors of brightness, contrast and saturation.
    """

    flip: bool = False
    crop: Box = (0.0, 0.0, 1.0, 1.0)
    colour: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def of(self, image: Image.Image) -> Image.Image:
        """The augmented picture."""
        if self.crop != (0.0, 0.0, 1.0, 1.0):
            width, height = image.size
            left, top, right, bottom = self.crop
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
            (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color), self.colour, strict=True
        ):
            if factor != 1.0:
                image = enhance(image).enhance(factor)
        return image

    def of_box(self, box: Box) -> Box:
        """A box of the picture in the augmented one, in fractions of it; its area is 0 if it was cropped away."""
        left, top, right, bottom = self.crop
        across, down = right - left, bottom - top
        x0, x1 = (min(max((x - left) / across, 0.0), 1.0) for x in (box[0], box[2]))
        y0, y1 = (min(max((y - top) / down, 0.0), 1.0) for y in (box[1], box[3]))
        return (1 - x1, y0, 1 - x0, y1) if self.flip else (x0, y0, x1, y1)


def may_flip(captions: Sequence[str]) -> bool:
    """Whether captions stay true of the mirrored picture: none contains "left" or "right"."""
    return not any(_SIDED.search(caption) for caption in captions)


def draw_view(random: np.random.Generator, *, flip: bool, crop: float, colour_jitter: float) -> View:
    """A random view.

    Args:
        random: the same number of values is drawn whatever the options, so that one option does not change the others'
            values.
        flip: mirror half of the time.
        crop: largest share of each side that is removed, half of it at either end on average.
        colour_jitter: brightness, contrast and saturation vary by up to this share.
    """
    numbers = random.random(8)
    width, height = 1 - crop * numbers[1], 1 - crop * numbers[2]
    left, top = (1 - width) * numbers[3], (1 - height) * numbers[4]
    factors = 1 + colour_jitter * (2 * numbers[5:8] - 1)
    return View(
        flip=bool(flip and numbers[0] < 0.5),
        crop=(float(left), float(top), float(left + width), float(top + height)) if crop else (0.0, 0.0, 1.0, 1.0),
        colour=(float(factors[0]), float(factors[1]), float(factors[2])) if colour_jitter else (1.0, 1.0, 1.0),
    )
