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
from captioner.asking import load_answering
from captioner.errors import CaptionerError, CheckpointError, ImageError, OptionError, TooManyPixelsError
from captioner.options import MapOptions, Sampling
from captioner.pipeline import load
from captioner.results import Caption, Failure
from captioner.show.page import page as page_of

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


@pytest.mark.parametrize(("what", "remedy"), [(io.BytesIO(b"x"), "read()"), ([GRAY], "one picture"), ((GRAY,), "list")])
def test_the_remedy_fits_what_was_given(model: Captioner, what: Any, remedy: str) -> None:
    with pytest.raises(ImageError) as error:
        model.prepare(what)
    assert remedy in error.value.remedy


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


def test_numbers_of_numpy_are_numbers(model: Captioner, tiny_answers: Path) -> None:
    given = model.options(width=np.int64(3), length_penalty=np.float32(0.5), max_words=np.int16(4), n_best=np.uint8(2))
    assert given == model.options(width=3, length_penalty=0.5, max_words=4, n_best=2)
    assert {type(value) for value in (given.width, given.length_penalty, given.min_length)} <= {int, float}
    numbers: dict[str, Any] = {"temperature": np.float32(0.5), "seed": np.int64(3)}
    assert type(Sampling(**numbers).seed) is int
    assert MapOptions(block=np.int64(3)) == MapOptions()  # type: ignore[arg-type]
    asker = load_answering(tiny_answers)
    assert len(asker.ask(GRAY, "the dog", n_best=np.int64(2)).alternatives) == 1  # type: ignore[call-overload]
    for wrong in (np.float64("nan"), np.array([1.0]), np.True_):
        with pytest.raises(OptionError, match="0 to 5"):
            model.options(length_penalty=wrong)


def test_a_result_is_not_saved_onto_its_picture(model: Captioner, tiny_answers: Path, tmp_path: Path) -> None:
    picture, link, page = tmp_path / "a.png", tmp_path / "link.png", tmp_path / "page.html"
    picture.write_bytes(whole := file_of(GRAY))
    link.symlink_to(picture)
    page.hardlink_to(picture)
    (kept,) = model.caption_all([str(picture)], keep=20)
    assert isinstance(kept, Caption)
    for result in (model.caption(picture), kept, load_answering(tiny_answers).ask(picture, "the dog")):
        saves: list[tuple[Callable[[Path], object], Path]] = [(result.figure, picture), (result.figure, link)]
        for save, path in [*saves, (result.page, page)]:
            with pytest.raises(OptionError, match=path.name) as error:
                save(path)
            assert error.value.remedy
    assert picture.read_bytes() == whole


def test_failures_among_captions_stay_failures(model: Captioner) -> None:
    outcomes = model.caption([b"no picture", GRAY])
    gained = model.with_gains(outcomes)
    assert gained[0] is outcomes[0] and isinstance(gained[1], Caption)
    assert gained[1].words[0].gain is not None
    with pytest.raises(OptionError, match="not an image"):
        page_of(outcomes)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="list"):
        model.with_gains(gained[1])  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="'a dog'"):
        model.with_gains(["a dog"])  # type: ignore[type-var]


def test_what_is_out_of_its_range_or_kind_is_named(model: Captioner, tiny_model: Path, tiny_answers: Path) -> None:
    caption = model.caption(GRAY)
    for value in (1.5, float("nan"), "a"):
        with pytest.raises(OptionError, match=str(value)):
            caption.reviewed(value)  # type: ignore[arg-type]
    for name in (None, 5, b"default"):
        with pytest.raises(CheckpointError, match="name or a path"):
            load(name)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="map_heads"):
        load(tiny_model, map_heads=5)  # type: ignore[arg-type]
    for threads in (0, True, "2"):
        with pytest.raises(OptionError, match="threads"):
            load_answering(tiny_answers, backend="torch", threads=threads)  # type: ignore[arg-type]
