"""POST /v1/answers: answers as the command line's, formats, and requests that cannot be answered."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import httpx2
import pytest

from captioner.asking import load_answering
from captioner.serve import answers, schemas
from captioner.serve.asking import Asking
from captioner.serve.problems import Problem
from captioner.serve.settings import Limits
from captioner.serve.workers import Wanted

from .conftest import PLAIN, EndlessDrawing, Running, Serve, problem_of, run


@pytest.fixture(autouse=True)
def _tiny(tiny_answers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("captioner.asking.find_model", lambda name, answering: tiny_answers)


def _ask(server: Running, *files: tuple[str, bytes], **fields: Any) -> httpx2.Response:
    data = {name: str(value) for name, value in fields.items()}
    sent = [("file", one) for one in files]
    return httpx2.post(f"{server.url}/v1/answers", data=data, files=sent, timeout=60, **PLAIN)


def test_answers_are_those_of_the_command_line(server: Running, tiny_answers: Path, picture: bytes) -> None:
    response = _ask(server, ("photo.png", picture), question="what is the dog doing?\nhow many", n_best=2)
    assert response.status_code == 200
    lines = response.json()["answers"]
    expected = load_answering(tiny_answers).ask(picture, ["what is the dog doing?", "how many"], n_best=2)
    assert [line["answer"] for line in lines] == [answer.text for answer in expected]
    assert lines[0]["image"] == "photo.png" and len(lines[0]["alternatives"]) == 1
    described = schemas.Answers.model_validate(response.json()).answers[0]
    assert lines[0].keys() == schemas.AnswerLine.model_fields.keys() - {"viewer"}, "what /docs says is what comes"
    assert described.words[3].word == "dog"


def test_page_figure_and_viewer(server: Running, picture: bytes) -> None:
    file = ("photo.png", picture)
    assert _ask(server, file, question="the dog", format="html").text.startswith("<!DOCTYPE html>")
    assert _ask(server, file, question="the dog", format="png").content[:4] == b"\x89PNG"
    (line,) = _ask(server, file, question="the dog", viewer="true").json()["answers"]
    assert [word["word"] for word in line["viewer"]["question"]["words"]] == ["the", "dog"]


def test_what_cannot_be_answered_is_a_problem(server: Running, picture: bytes) -> None:
    file = ("photo.png", picture)
    assert "question" in problem_of(_ask(server, file), 422)["detail"]
    assert "empty" in problem_of(_ask(server, file, question="  "), 422)["detail"]
    assert "zzz" in problem_of(_ask(server, file, question="zzz"), 422)["detail"]
    assert "'1_0'" in problem_of(_ask(server, file, question="the dog", n_best="1_0"), 422)["detail"]
    many = "\n".join(["the dog"] * 11)
    assert "at most 10" in problem_of(_ask(server, file, question=many, format="png"), 422)["detail"]
    assert "not an image" in problem_of(_ask(server, ("a.txt", b"text"), question="the dog"), 422)["detail"]
    assert "not about 2" in problem_of(_ask(server, file, file, question="the dog"), 422)["detail"]
    assert "beam" in problem_of(_ask(server, file, question="the dog", beam=3), 422)["detail"]


def test_an_answer_has_a_largest_size(tiny_answers: Path, picture: bytes) -> None:
    found = load_answering(tiny_answers).ask(picture, ["the dog", "how many"])
    for whole in (answers.json_answer(found, True, 10**9, Wanted()), answers.page(found, 10**9, Wanted())):
        assert len(whole) > 1000
    for make in (lambda: answers.json_answer(found, True, 1000, Wanted()), lambda: answers.page(found, 1000, Wanted())):
        with pytest.raises(Problem) as problem:
            make()
        assert problem.value.status == 413


def test_what_nobody_waits_for_is_not_made(
    serve: Serve, tiny_model: Path, picture: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawing = EndlessDrawing()
    with serve(tiny_model, timeout=1) as running:
        with monkeypatch.context() as patch:
            patch.setattr(answers, "figure", drawing)
            problem_of(_ask(running, ("photo.png", picture), question="the dog", format="png"), 503)
            assert drawing.stopped.wait(10)
        running.wait_until(lambda running: running.service.batcher.places == running.service.held.bytes == 0)


def test_the_model_is_loaded_once_however_many_leave(tiny_answers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads, go = [], threading.Event()

    def slowly(**how: Any) -> Any:
        loads.append(how)
        assert go.wait(30)
        return load_answering(tiny_answers)

    monkeypatch.setattr("captioner.asking.load_answering", slowly)

    async def impatient() -> str:
        asking = Asking(Limits())
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asking._load(), 0.05)
        go.set()
        asker = await asking._load()
        asking.close()
        return asker.name

    assert run(impatient()) == "tiny-answers"
    assert len(loads) == 1
