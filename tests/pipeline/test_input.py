"""What programs give to a model: odd pictures, lists, iterators and options, and processes that were forked."""

import copy
import gc
import io
import os
import pickle
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from captioner import Captioner
from captioner.errors import CaptionerError, ImageError, OptionError, TooManyPixelsError
from captioner.pipeline import load
from captioner.results import Caption, Failure

GRAY = Image.new("RGB", (40, 30), "gray")
PIXELS = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Captioner:
    return load(tiny_model)


class Raises:
    """A file whose every method raises."""

    def read_bytes(self) -> bytes:
        raise KeyError("mine")

    def __str__(self) -> str:
        raise RuntimeError


class NoPath:
    def __fspath__(self) -> Any:
        return 3


def file_of(image: Image.Image, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


def closed() -> Image.Image:
    image = GRAY.copy()
    image.close()
    return image


NO_PICTURES: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "number": lambda: 3,
    "tuple": lambda: (GRAY, GRAY),
    "list": lambda: [GRAY],
    "failure": lambda: Failure("a.png", "gone"),
    "no rows": lambda: np.zeros((0, 5, 3), np.uint8),
    "no axes": lambda: np.array(3, np.uint8),
    "objects": lambda: np.array([[None]]),
    "NaN": lambda: np.full((4, 4), np.nan),
    "closed": closed,
    "cut off": lambda: Image.open(io.BytesIO(file_of(Image.fromarray(PIXELS))[:900])),
    "no pixels": lambda: Image.new("RGB", (0, 5)),
    "raises": Raises,
    "no path": NoPath,
    "surrogate": lambda: "\ud800.png",
    "zero": lambda: "a\0b",
    "long name": lambda: "x" * 5000,
    "bytes": lambda: b"",
    "strided bytes": lambda: memoryview(file_of(GRAY))[::2],
}


@pytest.mark.parametrize("what", NO_PICTURES)
def test_what_is_no_picture_is_an_image_error_or_a_failure(model: Captioner, what: str) -> None:
    if what != "list":
        with pytest.raises(ImageError):
            model.caption(NO_PICTURES[what]())
    first, failure, last = model.caption([GRAY, NO_PICTURES[what](), GRAY])
    assert isinstance(failure, Failure)
    assert str(failure)
    assert failure.as_dict()["error"]
    assert isinstance(first, Caption)
    assert first == last


SAME = {
    "read-only": lambda a: np.frombuffer(a.tobytes(), np.uint8).reshape(a.shape),
    "negative strides": lambda a: np.ascontiguousarray(a[::-1, ::-1])[::-1, ::-1],
    "strides": lambda a: np.repeat(a, 2, 1)[:, ::2],
    "Fortran": np.asfortranarray,
    "big-endian": lambda a: (a.astype(np.uint16) * 257).astype(">u2"),
    "big-endian float": lambda a: (a / 255).astype(">f4"),
    "float16": lambda a: (a / 255).astype(np.float16),
    "long double": lambda a: (a / 255).astype(np.longdouble),
}


@pytest.mark.parametrize("how", SAME)
def test_however_an_array_lies_in_memory_its_picture_is_the_same(model: Captioner, how: str) -> None:
    caption = model.caption(SAME[how](PIXELS))
    assert caption.text == model.caption(PIXELS).text
    assert np.abs(np.asarray(caption.picture).astype(int) - PIXELS).max() <= (how == "float16")


@pytest.mark.parametrize("address", ["https://example.org/a.jpg", Path("https://example.org/a.jpg"), "s3://b/a.jpg"])
def test_a_url_is_named_whole_with_what_to_do(model: Captioner, address: str | Path) -> None:
    with pytest.raises(ImageError, match=r"://(example.org|b)/a.jpg.*fetch"):
        model.caption(address)


@pytest.mark.parametrize("what", ["a.png", b"a", GRAY, None, 3])
def test_one_picture_where_several_are_due_is_refused(model: Captioner, what: Any) -> None:
    with pytest.raises(OptionError, match=r"list"):
        model.caption_all(what)


def test_a_sequence_without_an_iterator_is_taken(model: Captioner) -> None:
    class Dataset:  # as torch has them
        def __getitem__(self, place: int) -> Image.Image:
            if place >= 3:
                raise IndexError
            return GRAY

    assert len(list(model.caption_all(Dataset()))) == 3  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "value"),
    [
        ({"batch": 0}, "0"),
        ({"batch": 2.5}, "2.5"),
        ({"batch": None}, "None"),
        ({"max_pixels": 0}, "0"),
        ({"max_pixels": "9"}, "'9'"),
        ({"options": {"width": 3}}, "dict"),
        ({"explain": 3}, "3"),
    ],
)
def test_options_of_another_kind_are_refused(model: Captioner, options: dict[str, Any], value: str) -> None:
    for work in (model.caption, lambda picture, **given: list(model.caption_all([picture], **given))):
        with pytest.raises(OptionError, match=value):
            work(GRAY, **options)


@pytest.mark.parametrize("captions", [None, 3, b"a dog", [3], "a dog"])
def test_captions_to_read_are_a_list_of_texts(model: Captioner, captions: Any) -> None:
    with pytest.raises(OptionError, match="list"):
        model.read(GRAY, captions)


@pytest.mark.parametrize("batch", [1, 2, 3, 16])
def test_what_an_iterator_raises_comes_after_the_pictures_before(model: Captioner, batch: int) -> None:
    def pictures() -> Iterator[Image.Image]:
        yield from [GRAY] * 3
        raise KeyError("mine")

    outcomes = []
    with pytest.raises(KeyError, match="mine"):
        outcomes.extend(outcome for outcome in model.caption_all(pictures(), batch=batch) if outcomes.append(outcome))
    assert len(outcomes) == 3


def test_a_generator_that_is_left_early_leaves_no_threads(model: Captioner) -> None:
    before = threading.active_count()
    captions = model.caption_all((GRAY for _ in range(1000)), batch=2)
    next(captions)
    captions.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
    captions = model.caption_all((GRAY for _ in range(1000)), batch=2)
    next(captions)
    del captions
    gc.collect()
    assert threading.active_count() == before


def test_errors_travel_between_processes() -> None:
    for error in (ImageError("a", remedy="b"), OptionError("a"), TooManyPixelsError("a", (3, 4), remedy="b")):
        for other in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
            assert type(other) is type(error)
            assert str(other) == str(error)
            assert vars(other) == vars(error)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_captions_that_a_forked_process_goes_on_with_are_an_error_and_no_hang(model: Captioner) -> None:
    captions = model.caption_all((GRAY for _ in range(6)), batch=2)
    next(captions)
    child = os.fork()
    if not child:
        code = 1
        try:
            list(captions)
        except CaptionerError:
            code = 0
        finally:
            os._exit(code)
    for _ in range(200):
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        time.sleep(0.05)
    else:
        os.kill(child, 9)
        os.waitpid(child, 0)
        pytest.fail("the child hangs")
    assert os.waitstatus_to_exitcode(status) == 0
    assert len(list(captions)) == 5


def test_odd_pictures_do_not_warn(model: Captioner) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.caption([make() for make in NO_PICTURES.values()])
