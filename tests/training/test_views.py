"""What is seen of a picture, and that boxes and captions stay true of it."""

import numpy as np
import pytest
from PIL import Image

from captioner.training.views import View, draw_view, may_flip


def mark(box: tuple[int, int, int, int]) -> Image.Image:
    """A black picture of 200 x 100 with one white rectangle."""
    image = Image.new("RGB", (200, 100))
    image.paste("white", box)
    return image


def seen_box(image: Image.Image) -> tuple[float, ...]:
    left, top, right, bottom = image.convert("L").getbbox() or (0, 0, 0, 0)
    return left / image.width, top / image.height, right / image.width, bottom / image.height


@pytest.mark.parametrize("seed", range(20))
def test_a_box_is_where_the_thing_is_seen(seed: int) -> None:
    view = draw_view(np.random.default_rng(seed), flip=True, crop=0.4, colour_jitter=0.0)
    box = (60, 30, 130, 80)
    found = view.of_box((60 / 200, 30 / 100, 130 / 200, 80 / 100))
    assert found == pytest.approx(seen_box(view.of(mark(box))), abs=0.02)  # a pixel is 0.017 of what is left


def test_what_is_cropped_away_has_no_area() -> None:
    left, top, right, bottom = View(crop=(0.5, 0.0, 1.0, 1.0)).of_box((0.1, 0.2, 0.4, 0.6))
    assert (right - left) * (bottom - top) == 0


def test_a_plain_view_leaves_a_picture_as_it_is() -> None:
    image = mark((3, 4, 50, 60))
    assert View().of(image).tobytes() == image.tobytes()


def test_colours_change_values_and_not_places() -> None:
    image = Image.new("RGB", (4, 4), (100, 150, 200))
    darker = np.asarray(View(colour=(0.5, 1.0, 1.0)).of(image))
    assert darker[0, 0].tolist() == [50, 75, 100]
    gray = np.asarray(View(colour=(1.0, 1.0, 0.0)).of(image))
    assert np.ptp(gray[0, 0]) <= 1


def test_crops_and_colours_stay_within_what_was_asked() -> None:
    views = [draw_view(np.random.default_rng(i), flip=True, crop=0.2, colour_jitter=0.1) for i in range(500)]
    sides = [(v.crop[2] - v.crop[0], v.crop[3] - v.crop[1]) for v in views]
    assert 0.8 <= np.min(sides) < 0.82
    assert 0.98 < np.max(sides) <= 1
    assert all(0 <= edge <= 1 for v in views for edge in v.crop)
    assert 0.9 <= np.min([v.colour for v in views]) < 0.91
    assert 0.4 < np.mean([v.flip for v in views]) < 0.6


def test_options_do_not_shift_one_anothers_luck() -> None:
    plain = [draw_view(np.random.default_rng(i), flip=True, crop=0.0, colour_jitter=0.0).flip for i in range(50)]
    rich = [draw_view(np.random.default_rng(i), flip=True, crop=0.3, colour_jitter=0.3).flip for i in range(50)]
    assert plain == rich


def test_captions_with_a_side_forbid_the_mirror() -> None:
    assert may_flip(["a dog runs", "bright lights"])
    assert not may_flip(["a dog runs", "a dog on the Left"])
