"""The page of ``captioner review``: its answers, and by keyboard in a browser that goes away, as the program does."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from captioner.pipeline import load

from .conftest import PATIENCE, problem_of

if TYPE_CHECKING:
    from playwright.sync_api import Page

MakePicture = Callable[..., Path]
Review = Callable[..., Any]


@pytest.fixture
def pictures(make_picture: MakePicture, tmp_path: Path) -> list[Path]:
    """Three pictures, the second of them broken."""
    found = [make_picture(f"photos/{name}.png", seed=i, size=(60, 40)) for i, name in enumerate("abc")]
    found[1].write_bytes(b"no picture")
    return found


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "edits.jsonl"


def rows(path: Path) -> list[tuple[str, str, str]]:
    lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return [(Path(row["image"]).name, row["status"], row["caption"]) for row in lines]


def decide(client: Any, number: int, status: str, caption: str, **options: Any) -> Any:
    """The answer to a decision, as the page sends it."""
    path = f"/api/pictures/{number}"
    body = {"key": client.get(path).json()["key"], "status": status, "caption": caption}
    return client.put(path, json=body, **options)


def read(client: Any, number: int, text: str) -> Any:
    path = f"/api/pictures/{number}"
    return client.post(f"{path}/reading", json={"key": client.get(path).json()["key"], "text": text})


def test_pictures_are_captioned_decided_and_gone_on_with(
    reviewing: Review, pictures: list[Path], output: Path, tiny_model: Path
) -> None:
    caption = load(tiny_model).caption(pictures[0]).text
    with reviewing(pictures, output) as running, running.client() as client:
        assert client.get("/api/review").json()["start"] == 0
        shown = client.get("/api/pictures/0").json()
        assert (shown["caption"], shown["status"], shown["next_open"]) == (caption, "", 1)
        assert [one["word"] for one in shown["viewer"]["captions"][0]["words"]]
        answer = decide(client, 0, "accepted", caption).json()
        assert answer == {
            "progress": {"pictures": 3, "done": 1, "accepted": 1, "edited": 0, "flagged": 0},
            "next_open": 1,
        }
        assert rows(output) == [("a.png", "accepted", caption)]  # at once
        assert "photos/b.png" in client.get("/api/pictures/1").json()["problem"]
        decide(client, 1, "flagged", "")
        decide(client, 2, "draft", "a  dog ")
    assert rows(output) == [("a.png", "accepted", caption), ("b.png", "flagged", ""), ("c.png", "draft", "a dog")]
    with reviewing(pictures, output) as running, running.client() as client:
        state = client.get("/api/review").json()
        assert (state["start"], state["progress"]["done"]) == (2, 2)
        again = client.get("/api/pictures/2").json()
        assert (again["caption"], again["status"], again["next_open"]) == ("a dog", "draft", 2)
        decide(client, 2, "edited", "A dog.")
        assert client.get("/api/pictures/2").json()["next_open"] is None
    assert rows(output)[2] == ("c.png", "edited", "A dog.")


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file system that takes names of any bytes")
def test_names_that_are_not_utf8_are_shown(reviewing: Review, pictures: list[Path], tmp_path: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/b\xe4.png"))
    odd.write_bytes(pictures[0].read_bytes())
    broken = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xe4.png"))
    broken.write_bytes(b"no picture")
    output = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xe4.jsonl"))
    with reviewing([odd, broken], output) as running, running.client() as client:
        assert client.get("/api/review").json()["output"].endswith("\ufffd.jsonl")
        found = client.get("/api/pictures/0").json()
        assert found["name"].endswith("b\ufffd.png") and found["caption"]
        assert "\ufffd.png" in client.get("/api/pictures/1").json()["problem"]
        problem = problem_of(read(client, 1, "a dog"), 422)
        assert "?.png" in problem["detail"]


def test_what_is_typed_is_read(reviewing: Review, pictures: list[Path], output: Path, tiny_model: Path) -> None:
    with reviewing(pictures, output) as running, running.client() as client:
        answer = read(client, 0, "A dog in Oslo").json()
        (expected,) = load(tiny_model).read(pictures[0], ["a dog in oslo"])
        words = answer["viewer"]["captions"][0]["words"]
        assert [one["word"] for one in words] == ["a", "dog", "in", "oslo"]
        assert [one["probability"] for one in words] == pytest.approx([w.probability for w in expected.words], abs=1e-4)
        assert answer["unknown"] == ["oslo"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "named"),
    [
        ("PUT", "/api/pictures/0", {"status": "good", "caption": "a"}, 422, "status"),
        ("PUT", "/api/pictures/0", {"status": "accepted", "caption": " "}, 422, "words"),
        ("PUT", "/api/pictures/3", {"status": "accepted", "caption": "a"}, 422, "less than 3"),
        ("POST", "/api/pictures/0/reading", {"text": "..."}, 422, "..."),
        ("POST", "/api/pictures/0/reading", {"text": "dog " * 101}, 422, "101"),
        ("POST", "/api/pictures/1/reading", {"text": "a dog"}, 422, "b.png"),
        ("GET", "/static/../edits.jsonl", None, 404, "edits"),
    ],
)
def test_bad_requests_are_named_and_change_nothing(
    reviewing: Review,
    pictures: list[Path],
    output: Path,
    method: str,
    path: str,
    body: Any,
    status: int,
    named: str,
) -> None:
    with reviewing(pictures, output) as running, running.client() as client:
        if body is not None and path != "/api/pictures/3":
            body = {"key": client.get(path.removesuffix("/reading")).json()["key"], **body}
        problem = problem_of(client.request(method, path, json=body), status)
        assert named in problem["detail"]
        elsewhere = {"Origin": "http://example.org"}
        problem_of(decide(client, 0, "flagged", "", headers=elsewhere), 403)
        assert output.read_bytes() == b""


def test_a_page_of_other_pictures_changes_nothing(reviewing: Review, pictures: list[Path], output: Path) -> None:
    with reviewing(pictures, output) as running, running.client() as client:
        keys = [client.get(f"/api/pictures/{i}").json()["key"] for i in range(3)]
    with reviewing(pictures[1:], output) as running, running.client() as client:  # the first is gone
        for key in keys[0], keys[2], "":
            body = {"key": key, "status": "accepted", "caption": "of another"}
            assert "load the page" in problem_of(client.put("/api/pictures/0", json=body), 409)["detail"]
            problem_of(client.post("/api/pictures/0/reading", json={"key": key, "text": "a dog"}), 409)
        body = {"key": keys[2], "status": "accepted", "caption": "of c"}
        assert client.put("/api/pictures/1", json=body).status_code == 200
    with reviewing(pictures, output.with_name("others.jsonl")) as running, running.client() as client:
        body = {"key": keys[0], "status": "accepted", "caption": "of another review"}
        problem_of(client.put("/api/pictures/0", json=body), 409)
    assert rows(output) == [("c.png", "accepted", "of c")]


def test_the_models_caption_is_written_by_a_page_that_stayed_open(
    reviewing: Review, pictures: list[Path], output: Path, tiny_model: Path
) -> None:
    with reviewing(pictures, output) as running, running.client() as client:
        body = {"key": client.get("/api/pictures/0").json()["key"], "status": "edited", "caption": "a dog"}
    with reviewing(pictures, output) as running, running.client() as client:
        client.put("/api/pictures/0", json=body)
    (row,) = map(json.loads, output.read_text(encoding="utf-8").splitlines())
    assert row["original"] == load(tiny_model).caption(pictures[0]).text


def test_a_file_that_cannot_be_written_is_told(
    reviewing: Review, pictures: list[Path], output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with reviewing(pictures, output) as running, running.client() as client:
        decide(client, 0, "flagged", "a")
        with monkeypatch.context() as patch:
            patch.setattr("captioner.data.writers.edits.os.fsync", full)
            answer = decide(client, 2, "flagged", "b")
        assert "No space left" in problem_of(answer, 507)["detail"]
        assert client.get("/api/review").json()["progress"]["done"] == 1
        assert rows(output) == [("a.png", "flagged", "a")]


def test_a_folder_is_walked_by_keyboard_and_nothing_is_lost(
    reviewing: Review, pictures: list[Path], output: Path, open_page: "Callable[..., Page]", tiny_model: Path
) -> None:
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright, which is not installed")
    caption = load(tiny_model).caption(pictures[0]).text

    async def fault(number: int) -> None:
        raise RuntimeError(f"picture {number}")

    def at(page: "Page", number: int) -> None:
        sync_api.expect(page.locator("#place")).to_have_text(f"{number} of 3", timeout=PATIENCE)
        page.locator(".card[aria-busy=false]").wait_for()

    with reviewing(pictures, output) as running:
        page = open_page(running)
        at(page, 1)
        assert page.locator("#text").input_value() == caption
        page.keyboard.press("Enter")
        at(page, 2)
        assert "b.png" in page.locator("#problem").inner_text()
        page.keyboard.press("f")
        at(page, 3)
        page.keyboard.press("p")
        at(page, 2)
        assert page.locator("#status").inner_text() == "flagged"
        page.keyboard.press("p")
        at(page, 1)
        page.keyboard.press("e")  # a picture that was decided stays so while its text is changed
        page.keyboard.type("s")
        sync_api.expect(page.locator("#status")).to_have_text("edited", timeout=PATIENCE)
        page.keyboard.press("Backspace")
        sync_api.expect(page.locator("#status")).to_have_text("accepted", timeout=PATIENCE)
        page.keyboard.press("Escape")
        with pytest.MonkeyPatch.context() as patch:
            # In the program itself: a page's requests may pass by a route that the browser was given just before.
            patch.setattr(running.review, "opened", fault)
            page.keyboard.press("n")
            page.get_by_text("a fault of the server").wait_for()
            at(page, 2)  # and the keys work on
        page.keyboard.press("n")
        at(page, 3)
        assert page.locator("#notice").is_hidden()
        page.keyboard.press("e")
        page.keyboard.type(" in Oslo")
        page.locator(".cv-unknown").wait_for()
        sync_api.expect(page.locator("#status")).to_have_text("draft", timeout=PATIENCE)
        page.context.close()  # the browser is gone
        port = int(running.url.rpartition(":")[2])
    assert [row[1] for row in rows(output)] == ["accepted", "flagged", "draft"]
    with reviewing(pictures, output, port=port) as running:
        page = open_page(running)
        at(page, 3)  # what is open
        assert page.locator("#text").input_value().endswith(" in Oslo")
        assert page.locator("#counts").inner_text().startswith("2 of 3 done")
    page.keyboard.press("e")  # the program is gone
    page.keyboard.type(" park")
    page.get_by_text("The program does not answer").wait_for()
    page.keyboard.press("Enter")
    with reviewing(pictures, output, port=port):
        sync_api.expect(page.locator("#counts")).to_have_text("3 of 3 done, 1 edited, 1 flagged", timeout=PATIENCE)
    assert rows(output)[2][1:] == ("edited", rows(output)[2][2])
    assert rows(output)[2][2].endswith(" in Oslo park")
