"""The server's page in a real browser: by mouse and by keyboard, with good pictures, broken ones and hostile names."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from captioner.pipeline import load

from .conftest import PATIENCE, Running, Serve

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright, which is not installed")

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

MakePicture = Callable[..., Path]


def cards(page: "Page") -> "Locator":
    return page.locator(".result")


def wait_for(page: "Page", selector: str, count: int) -> None:
    """Until so many elements are there. (What polls inside the page, as wait_for_function, its policy forbids.)"""
    sync_api.expect(page.locator(selector)).to_have_count(count, timeout=PATIENCE)


def wait_until(page: "Page", happened: Callable[[], bool]) -> None:
    """Wait until something has happened, while the page goes on."""
    deadline = time.monotonic() + PATIENCE / 1000
    while not happened():
        assert time.monotonic() < deadline
        page.wait_for_timeout(20)


def wait_for_captions(page: "Page", count: int) -> None:
    wait_for(page, ".result[aria-busy=false] .viewer:not([hidden]) .cv-words", count)


def wait_for_failures(page: "Page", count: int) -> None:
    wait_for(page, ".result[aria-busy=false] .failed:not([hidden])", count)


def shown_words(card: "Locator") -> list[str]:
    return card.locator(".cv-word .cv-text").all_inner_texts()


def upload(page: "Page", *files: Path | dict[str, Any]) -> None:
    page.set_input_files("#files", list(files))  # type: ignore[arg-type]


def test_a_picture_comes_back_as_a_caption(
    server: Running, open_page: "Callable[..., Page]", make_picture: MakePicture, tiny_model: Path
) -> None:
    path = make_picture("my photo.png", size=(90, 60))
    page = open_page(server)
    heading = page.get_by_role("heading", name="captioner").bounding_box()
    assert heading is not None
    assert heading["width"] > 100  # the viewer's own pages hide theirs
    upload(page, path)
    wait_for_captions(page, 1)
    card = cards(page).first
    model = load(tiny_model)
    caption = model.caption(path, options=model.options(width=2, n_best=2))
    assert card.locator("h2").inner_text() == "my photo.png"
    assert shown_words(card) == [word.text for word in caption.words]
    assert card.locator(".cv-picture img").get_attribute("alt") == caption.text
    assert page.locator("#said").inner_text() == f"my photo.png: {caption.text}"  # what a screen reader says
    card.locator(".cv-word").first.hover()
    status = card.locator(".cv-status").inner_text()
    assert status.startswith(f"{caption.words[0].text}, {round(100 * caption.words[0].probability)}")
    assert card.locator(".cv-picture img").evaluate("image => image.naturalWidth") == 90


def test_what_came_back_can_be_downloaded(
    server: Running, open_page: "Callable[..., Page]", make_picture: MakePicture
) -> None:
    page = open_page(server)
    upload(page, make_picture("photo.png", size=(90, 60)))
    wait_for_captions(page, 1)
    words = shown_words(cards(page).first)

    def download(name: str) -> tuple[str, bytes]:
        with page.expect_download() as coming:
            page.get_by_role("button", name=f"Download {name} of photo.png").click()
        return coming.value.suggested_filename, Path(coming.value.path()).read_bytes()

    name, content = download("JSON")
    assert name == "photo.json"
    line = json.loads(content)
    assert [word["word"] for word in line["words"]] == words
    assert "viewer" not in line
    name, content = download("Page")
    assert name == "photo.html"
    assert content.startswith(b"<!DOCTYPE html>")
    name, content = download("Figure")
    assert name == "photo.png"
    assert content.startswith(b"\x89PNG")


def test_broken_uploads_say_what_is_wrong_beside_a_good_one(
    server: Running, open_page: "Callable[..., Page]", make_picture: MakePicture, tmp_path: Path, bomb: bytes
) -> None:
    good = make_picture("good.jpg", size=(80, 60))
    (tmp_path / "cut.jpg").write_bytes(good.read_bytes()[:700])
    (tmp_path / "notes.txt").write_text("buy milk")
    (tmp_path / "empty.png").touch()
    (tmp_path / "bomb.png").write_bytes(bomb)
    (tmp_path / "heavy.png").write_bytes(bytes(1_200_000))
    page = open_page(server)
    upload(
        page, *(tmp_path / name for name in ("good.jpg", "cut.jpg", "notes.txt", "empty.png", "bomb.png", "heavy.png"))
    )
    wait_for_failures(page, 5)
    wait_for_captions(page, 1)

    def said_of(name: str) -> list[str]:
        card = cards(page).filter(has=page.get_by_role("heading", name=name))
        return [card.locator(part).inner_text() for part in (".title", ".detail")]

    assert said_of("cut.jpg")[0] == "Not a picture"
    assert "truncated" in said_of("cut.jpg")[1]
    assert said_of("notes.txt")[0] == "Not a picture"
    assert "format" in said_of("notes.txt")[1]
    assert "notes.txt" not in said_of("notes.txt")[1]
    assert said_of("empty.png") == ["Not a picture", "has no bytes"]
    title, detail = said_of("bomb.png")
    assert title == "Too many pixels"
    assert detail.startswith("10000 x 10000 pixels are more than the 200,000")
    assert said_of("heavy.png") == ["Too large", "This file has 1.2 MB, and the server takes 1 MB."]
    assert len(shown_words(cards(page).filter(has=page.get_by_role("heading", name="good.jpg")))) >= 3


def test_two_at_once_in_two_windows(
    server: Running, open_page: "Callable[..., Page]", make_picture: MakePicture, tiny_model: Path
) -> None:
    paths = [make_picture(f"{i}.png", seed=i, size=(60, 60)) for i in range(4)]
    pages = [open_page(server), open_page(server)]
    server.gate.close()  # so that all four wait for the model together
    for page, two in zip(pages, (paths[:2], paths[2:]), strict=True):
        upload(page, *two)
    server.wait_until(lambda running: running.service.batcher.places == 4)
    server.gate.open()
    model = load(tiny_model)
    for page, two in zip(pages, (paths[:2], paths[2:]), strict=True):
        wait_for_captions(page, 2)
        for card, path in zip(cards(page).all(), reversed(two), strict=True):  # the newest stands first
            assert card.locator("h2").inner_text() == path.name
            expected = model.caption(path, options=model.options(width=2, n_best=2))
            assert shown_words(card) == [word.text for word in expected.words]


def focused(page: "Page") -> str:
    return str(page.evaluate("document.activeElement.id || document.activeElement.getAttribute('aria-label') || ''"))


def tab_until(page: "Page", wanted: Callable[[], bool]) -> None:
    for _ in range(40):
        page.keyboard.press("Tab")
        if wanted():
            return
    raise AssertionError("the tabulator does not lead there")


def test_by_keyboard_alone(server: Running, open_page: "Callable[..., Page]", make_picture: MakePicture) -> None:
    page = open_page(server)
    choosers: list[Any] = []
    page.on("filechooser", lambda chooser: choosers.append(chooser))
    page.wait_for_selector("#beam:enabled")
    tab_until(page, lambda: focused(page) == "files")
    outline = page.locator(".choose").evaluate("label => getComputedStyle(label).outlineStyle")
    assert outline == "solid"  # the focus can be seen
    page.keyboard.press("Enter")
    wait_until(page, lambda: bool(choosers))
    assert choosers[0].is_multiple()
    choosers[0].set_files(make_picture("first.png", size=(60, 60)))
    wait_for_captions(page, 1)
    tab_until(page, lambda: page.evaluate("document.activeElement.dataset.example") == "1")
    page.keyboard.press("Enter")
    wait_for_captions(page, 2)
    assert cards(page).first.locator("h2").inner_text() == "example 2.png"
    tab_until(page, lambda: focused(page) == "beam")
    before = page.locator("#beam-value").inner_text()
    answered: list[Any] = []
    page.on("requestfinished", lambda request: answered.append(request) if request.method == "POST" else None)
    page.keyboard.press("ArrowRight")
    assert int(page.locator("#beam-value").inner_text()) == int(before) + 1
    wait_until(page, lambda: len(answered) == 2)  # the wider beam's; until then the captions are of the other
    wait_for_captions(page, 2)
    tab_until(page, lambda: page.evaluate("document.activeElement.classList.contains('cv-word')"))
    words = cards(page).first.locator(".cv-word")
    words.first.focus()
    page.keyboard.press("ArrowRight")
    assert words.nth(1).get_attribute("aria-pressed") == "true"
    page.get_by_role("button", name="Remove example 2.png").focus()
    page.keyboard.press("Enter")
    assert cards(page).count() == 1
    assert focused(page) == "Remove first.png"
    page.keyboard.press("Enter")
    assert cards(page).count() == 0
    assert focused(page) == "files"


TRANSFER = """([kind, names, text]) => {
  const data = new DataTransfer();
  for (const name of names) data.items.add(new File([Uint8Array.from(window.bytes)], name, {type: "image/png"}));
  if (text) data.setData("text/plain", text);
  const options = {bubbles: true, cancelable: true, dataTransfer: data, clipboardData: data};
  const event = kind === "paste" ? new ClipboardEvent(kind, options) : new DragEvent(kind, options);
  return document.querySelector("main").dispatchEvent(event);
}"""


def test_pictures_are_dropped_and_pasted(server: Running, open_page: "Callable[..., Page]", picture: bytes) -> None:
    page = open_page(server)
    page.evaluate("bytes => { window.bytes = bytes }", list(picture))

    def happens(kind: str, *names: str, text: str = "") -> bool:
        return bool(page.evaluate(TRANSFER, [kind, names, text]))

    happens("dragenter", "a.png")
    assert page.get_by_text("Let go to caption").is_visible()
    happens("dragleave", "a.png")
    assert not page.get_by_text("Let go to caption").is_visible()
    happens("dragenter", "a.png")
    assert not happens("drop", "a.png", "b.png")  # the browser must not open it
    assert not page.get_by_text("Let go to caption").is_visible()
    happens("paste", "c.png")
    wait_for_captions(page, 3)
    assert [card.locator("h2").inner_text() for card in cards(page).all()] == ["c.png", "b.png", "a.png"]
    happens("drop", text="https://example.org/a.png")
    assert "That was no picture" in page.locator("#notice").inner_text()
    assert happens("paste", text="some text")  # left to the browser
    assert cards(page).count() == 3


def test_hostile_names_are_text(server: Running, open_page: "Callable[..., Page]", picture: bytes) -> None:
    names = [
        "<img src=x onerror=hacked()>.png",
        '"><script>hacked()<\\script>.png',
        "{{constructor}}.png",
        "a" * 180 + ".png",
    ]
    page = open_page(server, viewport={"width": 390, "height": 800})
    page.evaluate("() => { window.hacked = () => { window.wasHacked = true } }")
    upload(page, *({"name": name, "mimeType": "image/png", "buffer": picture} for name in names))
    upload(page, *({"name": name, "mimeType": "image/png", "buffer": b"no picture"} for name in names[:2]))
    wait_for_captions(page, 4)
    wait_for_failures(page, 2)
    assert cards(page).locator("h2").all_inner_texts()[:2] == [names[1], names[0]]
    assert page.evaluate("window.wasHacked") is None
    assert page.locator("main script, main [onerror]").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")  # a long name widens nothing


def test_a_picture_that_is_faster_than_the_settings_waits_for_them(
    server: Running, open_page: "Callable[..., Page]", make_picture: MakePicture
) -> None:
    slow = "const own = fetch; fetch = async (...all) => (await new Promise((on) => setTimeout(on, 1500)), own(...all))"
    page = open_page(server, script=slow)
    upload(page, make_picture("photo.png", size=(60, 60)))
    wait_for_captions(page, 1)
    assert cards(page).first.locator("[role=radio]").count() == 2, "the beam of the model's file"


def test_other_settings_give_other_captions(
    server: Running, open_page: "Callable[..., Page]", make_picture: MakePicture
) -> None:
    page = open_page(server)
    upload(page, make_picture("photo.png", size=(60, 60)))
    wait_for_captions(page, 1)
    assert page.locator("#beam").input_value() == "2"  # as the model's file says
    readings = cards(page).first.locator("[role=radio]")
    assert readings.count() == 2
    page.locator("#n-best").select_option("5")  # no more than the beam is wide
    wait_for(page, ".result[aria-busy=false] [role=radio]", 2)
    page.locator("#beam").fill("7")
    wait_for(page, ".result[aria-busy=false] [role=radio]", 5)


def test_a_full_queue_is_waited_for(
    serve: Serve, tiny_model: Path, open_page: "Callable[..., Page]", picture: bytes
) -> None:
    with serve(tiny_model, queue=1, max_files=1) as running:
        running.gate.close()
        page = open_page(running)
        upload(page, *({"name": f"{i}.png", "mimeType": "image/png", "buffer": picture} for i in range(2)))
        page.get_by_text("The server is busy: waiting for a place").wait_for()
        running.gate.open()
        wait_for_captions(page, 2)


def test_a_server_that_is_gone(
    serve: Serve, tiny_model: Path, open_page: "Callable[..., Page]", picture: bytes
) -> None:
    with serve(tiny_model) as running:
        page = open_page(running)
        page.wait_for_selector("#beam:enabled")
    upload(page, {"name": "a.png", "mimeType": "image/png", "buffer": picture})
    page.get_by_text("The server does not answer, or the file cannot be read.", exact=True).wait_for()
    assert page.get_by_role("button", name="Try again").is_visible()


def test_the_description_of_the_api_needs_no_network(server: Running, open_page: "Callable[..., Page]") -> None:
    page = open_page(server, "/docs")
    page.locator("#operations-captions-captions_v1_captions_post").wait_for()
    page.get_by_text("/v1/captions", exact=True).first.click()
    page.get_by_text("width of the beam; 1 is greedy").first.wait_for()


def type_caption(page: "Page", text: str) -> None:
    page.locator(".editor textarea").fill(text)


def test_settings_that_change_while_a_caption_is_typed_keep_it(
    server: Running, open_page: "Callable[..., Page]", make_picture: MakePicture
) -> None:
    page = open_page(server)
    upload(page, make_picture("photo.png", size=(60, 60)))
    wait_for_captions(page, 1)
    card = cards(page).first
    text = card.locator(".editor textarea")
    page.locator("#beam").fill("3")
    type_caption(page, "the dog in oslo")  # neither has been sent yet
    sync_api.expect(card.locator(".cv-unknown")).to_have_count(1, timeout=PATIENCE)
    page.locator("#beam").fill("4")  # a text that was read is read again
    page.wait_for_timeout(600)
    wait_for_captions(page, 1)
    assert text.input_value() == "the dog in oslo" and shown_words(card) == ["the", "dog", "in", "oslo"]
    type_caption(page, "word " * 150)  # more than the model reads
    card.locator(".edited").get_by_text("words").wait_for()
    page.locator("#beam").fill("5")
    page.wait_for_timeout(600)
    assert text.input_value() == "word " * 150
    type_caption(page, "gone")
    page.get_by_role("button", name="Remove photo.png").click()
    page.wait_for_timeout(600)
    assert cards(page).count() == 0


def test_text_that_is_pasted_into_a_caption_is_no_picture(
    server: Running, open_page: "Callable[..., Page]", make_picture: MakePicture
) -> None:
    page = open_page(server)
    upload(page, make_picture("photo.png", size=(60, 60)))
    wait_for_captions(page, 1)
    paste = """(target) => {
      const data = new DataTransfer();
      data.setData("text/plain", "a dog");
      data.items.add(new File([new Uint8Array(9)], "office.png", { type: "image/png" }));
      const event = new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true });
      target.dispatchEvent(event);
      return event.defaultPrevented;
    }"""
    assert page.locator(".editor textarea").evaluate(paste) is False
    assert page.locator("body").evaluate(paste) is True
    wait_for_failures(page, 1)
    assert cards(page).count() == 2


def test_a_caption_is_edited_and_read_at_once(
    server: Running, open_page: "Callable[..., Page]", make_picture: MakePicture, tiny_model: Path
) -> None:
    path = make_picture("photo.png", size=(60, 60))
    page = open_page(server)
    upload(page, path)
    wait_for_captions(page, 1)
    card = cards(page).first
    own = card.locator(".editor textarea").input_value()
    type_caption(page, "The dog, in <i>Oslo</i> park.")
    sync_api.expect(card.locator(".cv-unknown")).to_have_count(3, timeout=PATIENCE)
    model = load(tiny_model)
    (expected,) = model.read(path, ["The dog, in <i>Oslo</i> park."])
    assert shown_words(card) == [word.text for word in expected.words]
    assert page.locator("main i").count() == 0
    dog = card.locator(".cv-word").nth(1)
    assert dog.get_attribute("aria-label") == f"dog, {round(100 * expected.words[1].probability)}%"
    assert "oslo" in card.locator(".edited").inner_text()
    card.locator(".cv-unknown").first.hover()
    assert "does not know" in card.locator(".cv-status").inner_text()

    def download(name: str) -> str:
        with page.expect_download() as coming:
            page.get_by_role("button", name=f"Download {name} of photo.png").click()
        return Path(coming.value.path()).read_text(encoding="utf-8")

    assert download("Text") == "The dog, in <i>Oslo</i> park.\n"
    line = json.loads(download("JSON"))
    assert line["caption"] == "The dog, in <i>Oslo</i> park."
    assert [word["word"] for word in line["words"] if word.get("unknown")] == [
        word.text for word in expected.words if word.unknown
    ]
    document = download("Page")
    assert "The dog, in \\u003ci\\u003eOslo" in document
    type_caption(page, "   ")
    page.get_by_text("A caption needs words.").wait_for()
    page.get_by_role("button", name="Restore the model's caption").click()
    sync_api.expect(card.locator(".cv-unknown")).to_have_count(0, timeout=PATIENCE)
    wait_for_captions(page, 1)
    assert card.locator(".editor textarea").input_value() == own
