"""What the tests of figures and pages share: captions with maps that are known."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import captioner.show.drawings  # noqa: F401 (registers what draws the results)
from captioner.data.scenes import Scene
from captioner.image import Geometry
from captioner.results import Alternative, Caption, Word

Maps = Sequence[NDArray[np.float32]]


def even(geometry: Geometry) -> NDArray[np.float32]:
    return (geometry.mask / geometry.mask.sum()).astype(np.float32)


def box_map(geometry: Geometry, box: tuple[float, float, float, float]) -> NDArray[np.float32]:
    """A map of what a box covers, and of little else; the box in pixels."""
    width, height = geometry.size
    map_ = geometry.coverage((box[0] / width, box[1] / height, box[2] / width, box[3] / height)) + 0.01 * geometry.mask
    return (map_ / map_.sum()).astype(np.float32)


@pytest.fixture
def make_caption() -> Callable[..., Caption]:
    """A caption of these words; `maps` are even if none are given, and the picture is noise."""

    def make(
        texts: Sequence[str],
        maps: Maps | None = None,
        *,
        geometry: Geometry | None = None,
        others: Sequence[Sequence[str]] = (),
        image: str = "",
        source: Image.Image | str | None = None,
        finished: bool = True,
    ) -> Caption:
        geometry = geometry or Geometry(size=(120, 90), side=64, grid=(4, 4))
        width, height = geometry.size
        noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)

        def words(texts: Sequence[str], maps: Maps | None) -> tuple[Word, ...]:
            maps = [even(geometry)] * len(texts) if maps is None else maps
            chances = [round(0.95 - 0.07 * (i % 12), 2) for i in range(len(texts))]
            return tuple(map(Word, texts, chances, maps))

        return Caption(
            text=" ".join(texts),
            words=words(texts, maps),
            score=-0.25,
            finished=finished,
            image=image,
            model="tiny",
            geometry=geometry,
            alternatives=tuple(
                Alternative(text=" ".join(other), words=words(other, None), score=-0.5 - i, finished=True)
                for i, other in enumerate(others)
            ),
            source=Image.fromarray(noise) if source is None else source,
        )

    return make


@pytest.fixture
def scene_caption(make_caption: Callable[..., Caption]) -> Callable[..., Caption]:
    """The caption of a drawn scene; each noun's map is its box, and other words looked evenly."""

    def make(scene: Scene, *, grid: tuple[int, int] = (8, 8), pad: bool = False, **rest: object) -> Caption:
        geometry = Geometry(size=scene.image.size, side=256, grid=grid, pad=pad)
        things = scene.things()
        maps = [box_map(geometry, things[i]) if i in things else even(geometry) for i, _ in enumerate(scene.words)]
        return make_caption(scene.words, maps, geometry=geometry, source=scene.image, **rest)

    return make
