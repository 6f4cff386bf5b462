"""The nouns whose maps lie least on their objects, drawn for a page."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from captioner.errors import ImageError
from captioner.grounding.grounded import GroundedCaption
from captioner.grounding.region import Region
from captioner.results import Caption

_OUTLINE_COLOUR = (0, 200, 255)


def worst_cases(grounded: Iterable[GroundedCaption], count: int) -> list[Caption]:
    """The captions of the nouns with the least mass on their objects, the regions drawn on their pictures.

    Only nouns whose peak misses a region that can be hit. Each picture comes once, and pictures whose file is gone
    are left out.

    Args:
        grounded: captions with their scores.
        count: the most captions to return.

    Returns:
        Captions whose ``image`` also names the noun and the mass.
    """
    captions = list(grounded)
    cases = sorted(
        (score.map.mass, i, j)
        for i, caption in enumerate(captions)
        for j, score in enumerate(caption.scores)
        if score.reachable and score.map.pointing < 1
    )
    found: dict[str, Caption] = {}
    for mass, i, j in cases:
        if len(found) == count:
            break
        case = captions[i]
        noun = case.nouns[j]
        if case.record.id in found:
            continue
        try:
            picture = draw_outline(case.caption.picture, noun.region)
        except ImageError:
            continue
        word = case.caption.words[noun.position].text
        name = f"{Path(case.caption.image).name}: '{word}', {mass:.0%} of its map inside"
        found[case.record.id] = replace(case.caption, image=name, source=picture)
    return list(found.values())


def draw_outline(picture: Image.Image, region: Region) -> Image.Image:
    """A copy of the picture with the borders of a region drawn on it."""
    picture = picture.copy()
    draw = ImageDraw.Draw(picture)
    width = max(2, round(max(picture.size) / 150))
    x, y = region.x * picture.width, region.y * picture.height
    # The border between inside and outside, edge by edge.
    padded = np.pad(region.inside, 1)
    for r, c in np.argwhere(padded[1:-1, 1:] != padded[1:-1, :-1]):
        draw.line((x[c], y[r], x[c], y[r + 1]), fill=_OUTLINE_COLOUR, width=width)
    for r, c in np.argwhere(padded[1:, 1:-1] != padded[:-1, 1:-1]):
        draw.line((x[c], y[r], x[c + 1], y[r]), fill=_OUTLINE_COLOUR, width=width)
    return picture
