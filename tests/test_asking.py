"""Asking: answers, lists of questions, pictures that are encoded once, and questions that cannot be read."""

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import captioner
from captioner import checkpoint, prepared
from captioner.asking import Asker, load_answering
from captioner.errors import CheckpointError, OptionError
from captioner.results import Answer, Failure

MakePicture = Callable[..., Path]


@pytest.fixture(scope="module")
def asker(tiny_answers: Path) -> Asker:
    return load_answering(tiny_answers)


def test_an_answer_has_a_map_and_the_weights_of_the_words(asker: Asker, make_picture: MakePicture) -> None:
    picture = make_picture()
    answer = asker.ask(picture, "What is the dog doing?", n_best=3)
    assert isinstance(answer, Answer) and str(answer) == answer.text
    assert answer.text in asker.answers and len(answer.alternatives) == 2
    probabilities = [answer.probability, *(other.probability for other in answer.alternatives)]
    assert probabilities == sorted(probabilities, reverse=True) and sum(probabilities) < 1
    assert answer.map.shape == (8, 8) and answer.map.sum() == pytest.approx(1, abs=1e-5)
    assert [word.text for word in answer.words] == ["what", "is", "the", "dog", "doing"]
    assert sum(word.weight for word in answer.words) == pytest.approx(1, abs=1e-5)
    assert answer.image == str(picture) and answer.geometry.size == (40, 30)
    line = answer.as_dict()
    assert line["answer"] == answer.text and np.shape(line["map"]) == (8, 8) and len(line["words"]) == 5


def test_answers_compare_and_hash(asker: Asker, make_picture: MakePicture) -> None:
    picture = make_picture()
    first, same, other = (asker.ask(picture, text, n_best=2) for text in ("the dog", "the dog", "the cat"))
    pickled = pickle.loads(pickle.dumps(first))
    assert first == same == pickled and first != other and first != "the dog"
    assert {first, same, pickled, other} == {first, other}


def test_a_list_encodes_the_picture_once(
    asker: Asker, make_picture: MakePicture, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = []
    encode = asker.backend.encode
    monkeypatch.setattr(asker.backend, "encode", lambda *given: encoded.append(1) or encode(*given))
    picture, questions = make_picture(), ["what is the dog doing", "how many", "the color of the cat"]
    several = asker.ask(picture, questions)
    assert len(encoded) == 1 and [answer.question for answer in several] == questions
    kept = asker.encode(picture)
    for question, answer in zip(questions, several, strict=True):
        again = asker.ask(kept, question)
        assert again.text == answer.text
        assert again.probability == pytest.approx(answer.probability, abs=1e-6), "questions do not see one another"
    assert len(encoded) == 2 and asker.ask(picture, []) == []


@pytest.mark.parametrize(
    ("question", "named"),
    [
        ("", "no words"),
        (" ?! ", "no words"),
        ("zxqv blorp", "zxqv"),
        ("dog " * 500, "500 words"),
        (3, "3"),
        ("the dog \udcff", "udcff"),  # a byte that is no UTF-8, as the command line gives it
    ],
)
def test_a_question_that_cannot_be_read_is_refused_before_the_picture_is_opened(
    asker: Asker, question: str, named: str
) -> None:
    with pytest.raises(OptionError, match=named):
        asker.ask("no-such-picture.png", question)
    with pytest.raises(OptionError, match=r"n_best.*not 9"):
        asker.ask("no-such-picture.png", "the dog", n_best=9)


def test_unknown_words_are_marked(asker: Asker, make_picture: MakePicture) -> None:
    answer = asker.ask(make_picture(), "what is the zxqv")
    assert [word.known for word in answer.words] == [True, True, True, False]
    assert answer.as_dict()["words"][3]["known"] is False


def test_a_model_of_the_other_kind_is_refused(tiny_model: Path, tiny_answers: Path) -> None:
    with pytest.raises(CheckpointError, match="captioner caption"):
        load_answering(tiny_model)
    with pytest.raises(CheckpointError, match="captioner ask"):
        captioner.load(tiny_answers)
    with pytest.raises(CheckpointError, match="captioner ask"):
        checkpoint.load(tiny_answers)
    with pytest.raises(CheckpointError, match="'default' makes captions"):
        load_answering("default")
    with pytest.raises(CheckpointError, match="'answers' answers questions"):
        captioner.load("answers")


def test_a_captioner_asks_the_model_that_ships(
    tiny_model: Path, tiny_answers: Path, make_picture: MakePicture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("captioner.asking.find_model", lambda name, answering: tiny_answers)
    model = captioner.load(tiny_model, device="cpu")
    kept = model.encode(make_picture())
    assert model.ask(kept, "what is the dog doing").text == model.ask(make_picture(), "what is the dog doing").text


@pytest.mark.parametrize("pad", [False, True])
def test_a_kept_picture_serves_captions_readings_and_answers(
    pad: bool,
    tiny_model: Path,
    make_answering: Callable[..., checkpoint.AnswerCheckpoint],
    make_picture: MakePicture,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answering = tmp_path / "answering.safetensors"
    checkpoint.save(answering, make_answering(pad=pad))
    monkeypatch.setattr("captioner.asking.find_model", lambda name, **_: answering)
    model, other = captioner.load(tiny_model, device="cpu"), captioner.load(tiny_model, device="cpu")
    picture, question, sentence = make_picture(), "what is the dog doing", "a dog in the park"
    caption, (reading,), answer = model.caption(picture), model.read(picture, [sentence]), other.ask(picture, question)
    opened: list[object] = []
    open_it = prepared.open_with_orientation
    monkeypatch.setattr(prepared, "open_with_orientation", lambda *a, **k: opened.append(a) or open_it(*a, **k))
    captions, answers = counted(monkeypatch, model.backend), counted(monkeypatch, model.asker().backend)
    kept = model.encode(picture)
    assert (len(captions), len(answers)) == (1, 0), "the answering model encodes at the first question"
    for _ in range(2):
        assert model.caption(kept).as_dict() == caption.as_dict()
        assert model.read(kept, [sentence])[0].as_dict() == reading.as_dict()
        again = model.ask(kept, [question, "how many"])[0]
        assert (again.text, again.image, again.geometry) == (answer.text, str(picture), answer.geometry)
        assert again.probability == pytest.approx(answer.probability, abs=1e-6)
    assert (len(captions), len(answers)) == (1, 1)
    assert len(opened) == (2 if pad else 1), "models of one input share the pixels"
    for use in (other.caption, lambda one: other.read(one, [sentence]), lambda one: other.ask(one, question)):
        with pytest.raises(CheckpointError, match="another model"):
            use(kept)


def counted(monkeypatch: pytest.MonkeyPatch, backend: Any) -> list[int]:
    """A list that grows at each encoding."""
    calls: list[int] = []
    encode = backend.encode
    monkeypatch.setattr(backend, "encode", lambda *given: calls.append(1) or encode(*given))
    return calls


def test_figure_and_page_show_question_and_answer(asker: Asker, make_picture: MakePicture, tmp_path: Path) -> None:
    answer = asker.ask(make_picture(), "what is the $5 dog <b>", n_best=2)
    answer.figure(tmp_path / "answer.png")
    assert (tmp_path / "answer.png").stat().st_size > 5000
    page = answer.page(tmp_path / "answer.html")
    assert "what is the $5 dog &lt;b&gt;" in page and '"weight":' in page and "<b>" not in page
    assert "iframe" in (answer._repr_html_() or "") and (answer._repr_jpeg_() or b"")[:2] == b"\xff\xd8"


@pytest.mark.parametrize("threads", [1, 2])
def test_buffers_that_are_filled_again_are_encoded_as_they_were(
    asker: Asker, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asker.backend, "threads", threads)
    buffer = np.zeros((48, 64, 3), np.uint8)

    def filled() -> Iterator[np.ndarray]:
        for level in range(0, 240, 40):
            buffer[:] = level
            yield buffer
        raise RuntimeError("the caller's own")

    found = []
    with pytest.raises(RuntimeError, match="own"):
        for one in asker.encode_all(filled()):
            assert not isinstance(one, Failure)
            found.append(int(one.prepared.pixels.mean()))
    assert found == [0, 40, 80, 120, 160, 200]
