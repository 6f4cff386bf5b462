"""The page in Chromium: the captions and maps of Python, by mouse and by keyboard, and without a network."""

import base64
import functools
import http.server
import io
import json
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL
import pytest
from PIL import Image

from captioner.backends.onnx import open_model
from captioner.decoding import decode
from captioner.explain.postprocess import postprocess
from captioner.export.web.site import ONNXRUNTIME_WEB, export_web
from captioner.image import Geometry, fit, open_with_orientation
from captioner.options import Beam, MapOptions
from captioner.pipeline import load
from captioner.shipped import find_model
from captioner.tokenizer.detokenize import detokenize

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright, which is not installed")

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Locator, Page

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 180_000  # milliseconds: the machine may be busy
READY = "body[data-runtime]"
CAPTIONED = ".result[aria-busy=false] .viewer:not([hidden]) .cv-words"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The npm package onnxruntime-web: that of the checkout, or one installed by the lock file."""
    here = ROOT / "node_modules" / "onnxruntime-web"
    if here.is_dir() and json.loads((here / "package.json").read_text())["version"] == ONNXRUNTIME_WEB:
        return here
    if shutil.which("npm") is None:
        pytest.skip("needs the npm package onnxruntime-web, and npm is not installed")
    folder = tmp_path_factory.mktemp("npm")
    for name in ("package.json", "package-lock.json", ".npmrc"):
        shutil.copy(ROOT / name, folder)
    done = subprocess.run(["npm", "ci"], cwd=folder, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode:
        pytest.skip(f"needs the npm package onnxruntime-web, which npm does not install: {done.stderr[-200:]}")
    return folder / "node_modules" / "onnxruntime-web"


class Served:
    """A folder behind a server of static files."""

    def __init__(self, folder: Path) -> None:
        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

        handler = functools.partial(Handler, directory=str(folder))
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


Serve = Callable[[Path], Served]


@pytest.fixture(scope="module")
def serve() -> Iterator[Serve]:
    servers = []

    def serve_(folder: Path) -> Served:
        servers.append(Served(folder))
        return servers[-1]

    yield serve_
    for server in servers:
        server.stop()


@pytest.fixture(scope="module")
def default_site(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("default") / "site"
    export_web(find_model("default"), folder, onnxruntime_web=package)
    return folder


@pytest.fixture(scope="module")
def tiny_site(package: Path, model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "site"
    export_web(model_file, folder, onnxruntime_web=package, precision="fp32")
    return folder


@pytest.fixture
def open_page(browser: "Browser") -> "Iterator[Callable[..., Page]]":
    """Open a page. It must ask no other server for anything, and its policy must stop nothing."""
    contexts: list[BrowserContext] = []
    elsewhere: list[str] = []
    complaints: list[str] = []

    def open_(served: Served) -> "Page":
        context = browser.new_context()
        contexts.append(context)
        own = (served.url, "data:", "blob:")
        context.on("request", lambda request: None if request.url.startswith(own) else elsewhere.append(request.url))
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: "Security" in message.text and complaints.append(message.text))
        page.goto(served.url)
        page.wait_for_selector(READY)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert not elsewhere
    assert not complaints


@pytest.fixture(scope="module")
def tiny_page(browser: "Browser", serve: Serve, tiny_site: Path) -> "Iterator[Page]":
    """A page whose modules are called one by one."""
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(serve(tiny_site).url)
    page.wait_for_selector(READY)
    yield page
    context.close()


def add(page: "Page", *files: Path | dict[str, Any]) -> None:
    page.set_input_files("#files", list(files))  # type: ignore[arg-type]


def wait_for(page: "Page", selector: str, count: int) -> None:
    sync_api.expect(page.locator(selector)).to_have_count(count, timeout=PATIENCE)


def line_of(card: "Locator") -> dict[str, Any]:
    """What the card's button JSON gives to be downloaded. A download itself is lost now and then when many follow one
    another: the browser may ask whether a page may download several files."""
    card.page.evaluate(KEEP_DOWNLOAD)
    card.locator("[data-format=json]").click()
    line: dict[str, Any] = json.loads(card.page.evaluate("kept.text()"))
    return line


def encoded(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode()


KEEP_DOWNLOAD = """() => {
  const make = URL.createObjectURL.bind(URL);
  URL.createObjectURL = (blob) => {
    window.kept = blob;
    URL.createObjectURL = make;
    return make(blob);
  };
}"""
BYTES = "const bytes = (text) => Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0));"
TEXT = "const text = (bytes) => btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(''));"


# The same as Python.


@pytest.mark.shared
@pytest.mark.slow
def test_photographs_have_the_captions_and_the_maps_of_python(
    default_site: Path, serve: Serve, open_page: "Callable[..., Page]", shared: Path
) -> None:
    photos = sorted((shared / "photos").glob("*.jpg"))
    assert len(photos) == 24
    page = open_page(serve(default_site))
    add(page, *photos)
    wait_for(page, CAPTIONED, len(photos))
    model = load("default", backend="onnx")
    cards = page.locator(".result").all()  # the newest stands first
    differences: list[float] = []
    for photo, card in zip(photos, reversed(cards), strict=True):
        assert card.locator("h2").inner_text() == photo.name
        line, caption = line_of(card), model.caption(photo)
        assert line["caption"] == caption.text, photo.name
        expected = caption.as_dict()
        assert set(line) == set(expected)
        assert line["grid"] == expected["grid"]
        assert line["size"] == expected["size"]
        # Words of one caption share a scale, and a word that looks off the grid has a faint map.
        largest = max(word.map.max() for word in caption.words)
        for found, word in zip(line["words"], caption.words, strict=True):
            apart = np.abs(np.array(found["map"]) - word.map).max() / largest
            others = (found.get("off_grid", 0) - word.off_grid, found["probability"] - word.probability)
            differences.append(max(float(apart), *map(abs, others)))
    # What the decoder rounds to integers may round to another step where its last digits differ.
    assert max(differences) < 0.03


RESIZE = f"""async ([data, width, height, side, pad, isJpeg]) => {{
  {BYTES} {TEXT}
  const {{ fit }} = await import("./pixels.js");
  const {{ geometryOf }} = await import("./geometry.js");
  const geometry = geometryOf([width, height], {{ side, pad, grid: [4, 4] }});
  return text(fit({{ width, height, data: bytes(data), isJpeg }}, geometry));
}}"""


@pytest.mark.parametrize(
    ("size", "side", "pad"),
    [
        ((64, 64), 64, False),
        ((90, 60), 64, False),
        ((60, 131), 64, False),  # down first
        ((17, 5), 64, True),
        ((500, 375), 64, True),  # averaged in boxes first
        ((375, 500), 48, False),
        ((1, 400), 32, False),
    ],
)
def test_pixels_are_those_of_pillow(tiny_page: "Page", size: tuple[int, int], side: int, pad: bool) -> None:
    width, height = size
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    found = tiny_page.evaluate(RESIZE, [encoded(pixels), width, height, side, pad, False])
    geometry = Geometry(size=size, side=side, grid=(4, 4), pad=pad)
    difference = fit(Image.fromarray(pixels), geometry).astype(int).ravel() - np.frombuffer(
        base64.b64decode(found), np.uint8
    )
    # Before version 13, Pillow resized across first, whatever the shape; noise then differs by a few steps.
    assert np.abs(difference).max() <= (0 if int(PIL.__version__.split(".")[0]) >= 13 else 24)


OPEN = f"""async (data) => {{
  {BYTES} {TEXT}
  const {{ open }} = await import("./pixels.js");
  const {{ width, height, data: pixels, isJpeg }} = await open(new Blob([bytes(data)]));
  return [width, height, text(pixels), isJpeg];
}}"""


def opened(page: "Page", content: bytes) -> tuple[np.ndarray, bool]:
    width, height, pixels, is_jpeg = page.evaluate(OPEN, base64.b64encode(content).decode())
    return np.frombuffer(base64.b64decode(pixels), np.uint8).reshape(height, width, 3), is_jpeg


def content_of(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def smooth(size: tuple[int, int], bands: int = 3) -> Image.Image:
    noise = np.random.default_rng(5).integers(0, 256, (9, 12, bands), dtype=np.uint8)
    return Image.fromarray(noise, {3: "RGB", 4: "RGBA"}[bands]).resize(size, Image.Resampling.BICUBIC)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(tiny_page: "Page", orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = content_of(smooth((90, 60)), "JPEG", quality=95, exif=exif)
    found, is_jpeg = opened(tiny_page, content)
    expected = np.asarray(open_with_orientation(content).image)
    assert is_jpeg
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= 2
    assert found.shape[:2] == ((90, 60) if orientation > 4 else (60, 90))


def test_transparency_lies_on_white(tiny_page: "Page") -> None:
    content = content_of(smooth((90, 60), bands=4), "PNG")
    found, _ = opened(tiny_page, content)
    expected = np.asarray(open_with_orientation(content).image)
    assert np.abs(found.astype(int) - expected).max() <= 2


@pytest.mark.parametrize("size", [(4200, 30), (30, 2100)])
def test_a_picture_larger_than_a_tile_of_the_canvas(tiny_page: "Page", size: tuple[int, int]) -> None:
    image = smooth(size)
    found, is_jpeg = opened(tiny_page, content_of(image, "PNG", compress_level=1))
    assert not is_jpeg
    assert np.array_equal(found, np.asarray(image))


INPUT = f"""async ([data, side]) => {{
  {BYTES} {TEXT}
  const {{ fit, open }} = await import("./pixels.js");
  const {{ geometryOf }} = await import("./geometry.js");
  const picture = await open(new Blob([bytes(data)]));
  return text(fit(picture, geometryOf([picture.width, picture.height], {{ side, pad: false, grid: [4, 4] }})));
}}"""


def test_a_large_jpeg_is_close_to_what_python_decodes_at_reduced_size(tiny_page: "Page") -> None:
    content = content_of(smooth((2000, 1400)), "JPEG", quality=92)
    opened_here = open_with_orientation(content, at_least=640)
    assert opened_here.image.width == 1000
    expected = fit(opened_here.image, Geometry(size=(2000, 1400), side=64, grid=(4, 4))).ravel()
    found = tiny_page.evaluate(INPUT, [base64.b64encode(content).decode(), 64])
    difference = np.abs(np.frombuffer(base64.b64decode(found), np.uint8).astype(int) - expected)
    assert difference.mean() < 1
    assert difference.max() <= 8


SEARCH = f"""async ([pixels, mask, options]) => {{
  {BYTES}
  const {{ Model }} = await import("./model.js");
  const {{ beam }} = await import("./decoding.js");
  const config = await (await fetch("config.json")).json();
  const model = await Model.open(new URL("./", location.href), config, "test", 1, () => {{}});
  const encoded = await model.encode(bytes(pixels), bytes(mask));
  const found = [];
  for (const some of options) {{
    const hypotheses = await beam(encoded, some);
    found.push(hypotheses.map((one) => ({{ ...one, maps: one.maps.map((map) => Array.from(map)) }})));
  }}
  return found;
}}"""

BEAMS = [
    Beam(width=1, max_length=9),
    Beam(width=3, n_best=3, length_penalty=0.0),
    Beam(width=4, n_best=2, no_repeat_ngram=2, min_length=4, max_length=9),
    Beam(width=3, n_best=3, refill=True, max_length=12),
    Beam(width=5, n_best=5, no_repeat_ngram=1, max_length=24),
    Beam(width=4, n_best=2, max_length=24, early_stopping=False),
    Beam(width=4, n_best=2, max_length=24, length_penalty=1.4),
    Beam(width=12, n_best=12, max_length=2),
    Beam(width=6, n_best=2, max_length=5, rerank=0.2),
    Beam(width=6, n_best=6, max_length=5, rerank=0.0),
]


@pytest.fixture(scope="module")
def transformer_site(package: Path, exported: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a model whose pictures are padded and whose state grows."""
    folder = tmp_path_factory.mktemp("transformer") / "site"
    export_web(exported("transformer-padded"), folder, onnxruntime_web=package, precision="fp32")
    return folder


@pytest.fixture(scope="module")
def reranker_site(package: Path, exported: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a model that orders the captions of its beam."""
    folder = tmp_path_factory.mktemp("reranker") / "site"
    export_web(exported("lstm-reranker"), folder, onnxruntime_web=package, precision="fp32")
    return folder


@pytest.fixture(scope="module")
def quantised_site(package: Path, exported: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a model whose decoder computes in integers."""
    folder = tmp_path_factory.mktemp("quantised") / "site"
    export_web(exported("lstm-quantised"), folder, onnxruntime_web=package, precision="fp16")
    return folder


@pytest.mark.parametrize("name", ["tiny_site", "transformer_site", "reranker_site", "quantised_site"])
def test_beam_search_is_that_of_python(
    name: str, request: pytest.FixtureRequest, serve: Serve, browser: "Browser"
) -> None:
    site = request.getfixturevalue(name)
    backend = open_model(str(site), device="cpu")
    geometry = Geometry(size=(90, 60), side=backend.side, grid=backend.grid_shape, pad=backend.pad)
    pixels = fit(smooth((90, 60)), geometry)
    context = browser.new_context()
    try:
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(serve(site).url + "config.json")  # without the page's own worker
        mask = geometry.mask.astype(np.uint8)
        found = page.evaluate(SEARCH, [encoded(pixels), encoded(mask), [asdict(options) for options in BEAMS]])
    finally:
        context.close()
    grid = backend.encode(pixels[None], [geometry])
    for options, hypotheses in zip(BEAMS, found, strict=True):
        (expected,) = decode(backend, grid, options)
        assert len(hypotheses) == len(expected)
        for one, other in zip(hypotheses, expected, strict=True):
            assert (tuple(one["tokens"]), one["finished"]) == (other.tokens, other.finished)
            assert one["score"] == pytest.approx(other.score, abs=1e-4)
            assert one["probabilities"] == pytest.approx(other.probabilities, abs=1e-4)
            assert len(one["maps"]) == len(other.tokens) + 1
            maps = np.array(one["maps"][:-1]).reshape(other.maps.shape)
            np.testing.assert_allclose(maps, other.maps, atol=1e-5)
            np.testing.assert_allclose(one["offGrid"][:-1], other.off_grid, atol=1e-5)
            # The step after the last word, which is the last word's map where maps are of the step after.
            assert other.end_map is not None
            np.testing.assert_allclose(np.reshape(one["maps"][-1], other.end_map.shape), other.end_map, atol=1e-5)
            assert one["offGrid"][-1] == pytest.approx(other.end_off_grid, abs=1e-5)


POSTPROCESS = """async ([steps, offGrid, mask, options]) => {
  const { postprocess } = await import("./maps.js");
  const found = postprocess(steps.map((map) => Float32Array.from(map)), offGrid, mask, options);
  return [found.maps.map((map) => Array.from(map)), found.offGrid];
}"""


@pytest.mark.parametrize("sinks", ["keep", "subtract", "standardise"])
@pytest.mark.parametrize("delay", [0, 1])
def test_sinks_and_delay_are_treated_as_in_python(tiny_page: "Page", sinks: str, delay: int) -> None:
    geometry = Geometry(size=(90, 60), side=64, grid=(4, 4), pad=True)
    random = np.random.default_rng(2)
    off_grid = random.random(6).astype(np.float32) / 2
    steps = (random.random((6, 4, 4)) * geometry.mask).astype(np.float32)
    steps *= ((1 - off_grid) / steps.sum((1, 2)))[:, None, None]
    options = MapOptions(sinks=sinks, delay=delay)
    maps, off = postprocess(steps, geometry.mask, options, off_grid)
    mask = geometry.mask.astype(int).ravel().tolist()
    arguments = [steps.reshape(6, -1).tolist(), off_grid.tolist(), mask, {"sinks": sinks, "delay": delay}]
    found, found_off = tiny_page.evaluate(POSTPROCESS, arguments)
    np.testing.assert_allclose(np.array(found).reshape(maps.shape), maps, atol=1e-5)
    np.testing.assert_allclose(found_off, off, atol=1e-6)


def test_sentences_are_those_of_python(tiny_page: "Page") -> None:
    words = ["a", "dog", "'s", "n't", "-lrb-", "-rrb-", "%", "50", "1,000.5", "$", "us$", "#", "can", "not", "°", "c"]
    words += ["!!", "t-shirt", "gon", "na", ":-rrb-", "2\u00a01/2", "constructor", "'70s"]
    random = np.random.default_rng(0)
    some = [[words[i] for i in random.integers(0, len(words), 6)] for _ in range(3000)]
    found = tiny_page.evaluate(
        "async (some) => { const { detokenize } = await import('./sentences.js'); return some.map(detokenize); }", some
    )
    assert found == [detokenize(one) for one in some]


# The page.


def test_the_drawn_scene_by_keyboard_and_without_a_network(
    default_site: Path, serve: Serve, open_page: "Callable[..., Page]"
) -> None:
    served = serve(default_site)
    page = open_page(served)
    page.get_by_text("This page also works without a network.").wait_for()
    served.stop()
    page.context.set_offline(True)
    assert page.locator("body").get_attribute("data-threads") == "1"
    page.goto(f"{served.url}?threads=2")  # the service worker isolates the page, so that it may have them
    page.wait_for_selector(READY)
    cores = page.evaluate("navigator.hardwareConcurrency")
    assert page.locator("body").get_attribute("data-threads") == str(min(2, cores))
    for _ in range(10):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "scene":
            break
    page.keyboard.press("Enter")
    wait_for(page, CAPTIONED, 1)
    card = page.locator(".result")
    caption = load("default", backend="onnx").caption(default_site / "scene.png")
    texts = card.locator(".cv-word .cv-text").all_inner_texts()
    assert texts == [word.text for word in caption.words]
    # What a screen reader hears of it.
    assert page.locator("#said").inner_text() == f"drawn scene.png: {caption.text}"
    assert card.locator(".cv-picture img").get_attribute("alt") == caption.text
    dog = card.locator(".cv-word").nth(texts.index("dog"))
    dog.focus()
    page.keyboard.press("Escape")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    assert dog.get_attribute("aria-pressed") == "true"
    # The map of "dog" lies on the dog: its strongest cell, in the JSON and on the page.
    line = line_of(card)
    strongest = np.array(line["words"][texts.index("dog")]["map"]).argmax()
    assert strongest == caption.words[texts.index("dog")].map.argmax()
    assert card.locator(".cv-status").inner_text().startswith("dog, ")
    page.get_by_role("button", name="Remove drawn scene.png").focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "files"


def test_damaged_pictures_get_a_clear_message_beside_a_good_one(
    tiny_site: Path, serve: Serve, open_page: "Callable[..., Page]", tmp_path: Path
) -> None:
    good = content_of(smooth((80, 60)), "JPEG")
    files = {
        "good.jpg": good,
        "cut.jpg": good[: len(good) // 2],
        "cut.png": content_of(smooth((80, 60)), "PNG")[:900],
        "notes.txt": b"buy milk",
        "empty.png": b"",
        "<img src=x onerror=alert(1)>.png": b"no picture",
    }
    page = open_page(serve(tiny_site))
    add(page, *({"name": name, "mimeType": "image/png", "buffer": content} for name, content in files.items()))
    wait_for(page, CAPTIONED, 1)
    wait_for(page, ".result[aria-busy=false] .failed:not([hidden])", len(files) - 1)
    for name in files:
        card = page.locator(".result").filter(has=page.get_by_role("heading", name=name, exact=True))
        if name != "good.jpg":
            assert card.locator(".title").inner_text() == "Not a picture"
            detail = card.locator(".detail").inner_text()
            assert ("empty" if name == "empty.png" else "damaged") in detail
    assert page.locator("main script, main [onerror]").count() == 0


def test_a_graph_of_another_size_is_not_kept(tiny_site: Path, serve: Serve, browser: "Browser", tmp_path: Path) -> None:
    shutil.copytree(tiny_site, tmp_path / "site")
    (tmp_path / "site" / "encode.onnx").write_bytes(b"<html>a page of the server</html>")
    context = browser.new_context()
    try:
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(serve(tmp_path / "site").url)
        page.locator("#loading").get_by_text("/encode.onnx: 33 bytes, where").wait_for()
        urls = page.evaluate("""async () => {
          const keys = (await caches.keys()).map(async (name) => (await caches.open(name)).keys());
          return (await Promise.all(keys)).flat().map(({ url }) => url);
        }""")
        assert not any(url.endswith("/encode.onnx") for url in urls)
    finally:
        context.close()


def test_an_update_is_whole_before_the_version_before_goes(
    tiny_site: Path, model_file: Path, package: Path, serve: Serve, open_page: "Callable[..., Page]", tmp_path: Path
) -> None:
    site = tmp_path / "site"
    shutil.copytree(tiny_site, site)
    served = serve(site)
    page = open_page(served)
    page.get_by_text("This page also works without a network.").wait_for()
    before = page.locator("body").get_attribute("data-export")
    export_web(model_file, site, onnxruntime_web=package, precision="fp16")
    page.reload()  # the worker of before still answers, while the new one installs
    page.evaluate("""async () => {
      const registration = await navigator.serviceWorker.ready;
      while (!registration.waiting) await new Promise((done) => setTimeout(done, 50));
    }""")
    context = page.context
    page.close()
    served.stop()
    context.set_offline(True)
    for _ in range(10):  # the worker of before may outlive its page by a moment
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(served.url)
        page.wait_for_selector(READY)
        if page.locator("body").get_attribute("data-export") != before:
            break
        page.close()
    assert page.locator("body").get_attribute("data-export") != before


def test_a_folder_that_lacks_a_graph_says_so(tiny_site: Path, serve: Serve, browser: "Browser", tmp_path: Path) -> None:
    shutil.copytree(tiny_site, tmp_path / "site")
    (tmp_path / "site" / "step.onnx").unlink()
    context = browser.new_context()
    try:
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(serve(tmp_path / "site").url)
        page.locator("#loading").get_by_text("The model does not start: /step.onnx: the server answers 404.").wait_for()
        add(page, {"name": "a.png", "mimeType": "image/png", "buffer": content_of(smooth((40, 30)), "PNG")})
        page.locator(".failed:not([hidden])").get_by_text("/step.onnx: the server answers 404.").wait_for()
    finally:
        context.close()
