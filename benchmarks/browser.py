"""Captions in the browser: the size of the folder, the time to load it, the first caption and those after it.

    make web
    python benchmarks/browser.py --pictures photos/ [--site web/] [--compare default] [--webgpu]

Drives Chromium. The first visit loads everything from a server on this machine; the second takes it from the browser's
cache. A caption's time runs from the picture's file to the words and maps, in the page's own clock. With ``--compare``
the captions and maps are compared with those of the model in ONNX Runtime. ``--webgpu`` starts Chromium with WebGPU, on
its software renderer where there is no GPU.
"""

import functools
import http.server
import json
import shutil
import statistics
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import Browser, Page, sync_playwright
from set_up import argument_parser

from captioner.pipeline import load

PATIENCE = 120_000  # milliseconds
WEBGPU = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan")


def serve(folder: Path) -> str:
    """The address of a server of a folder, until this process ends."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}/"


def visit(page: Page, address: str) -> float:
    """Seconds until the model is ready."""
    begin = time.perf_counter()
    page.goto(address)
    page.wait_for_selector("body[data-runtime]", timeout=PATIENCE)
    return time.perf_counter() - begin


def caption(page: Page, picture: Path) -> tuple[float, dict[str, Any]]:
    """Seconds of a caption, and its line of JSON."""
    page.set_input_files("#files", picture)
    card = page.locator(".result[aria-busy=false]").first
    card.locator(".viewer .cv-words").wait_for(timeout=PATIENCE)
    seconds = page.evaluate("performance.getEntriesByName('caption').at(-1).duration") / 1000
    with page.expect_download() as coming:
        card.locator("[data-format=json]").click()
    line = json.loads(Path(coming.value.path()).read_bytes())
    card.locator(".remove").click()
    return seconds, line


def launch(playwright: Any, program: str, *, webgpu: bool) -> Browser:
    options = ["--no-sandbox", *(WEBGPU if webgpu else ["--disable-gpu"])]
    browser: Browser = playwright.chromium.launch(executable_path=program, args=options)
    return browser


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--site", type=Path, default=Path("web"))
    parser.add_argument("--pictures", type=Path, required=True, help="a folder of JPEG files")
    parser.add_argument("--compare", metavar="MODEL", help="a name or file of the model that the folder was made from")
    parser.add_argument("--webgpu", action="store_true")
    options = parser.parse_args()
    pictures = sorted(options.pictures.glob("*.jpg"))
    if not pictures:
        raise SystemExit(f"{options.pictures}: no .jpg files")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        raise SystemExit("no Chromium is installed")

    config = json.loads((options.site / "config.json").read_text(encoding="utf-8"))
    sizes = {name: (options.site / name).stat().st_size for name in config["web"]["files"]}
    print(f"folder: {sum(sizes.values()) / 1e6:.1f} MB in {len(sizes)} files")
    with sync_playwright() as playwright:
        browser = launch(playwright, program, webgpu=options.webgpu)
        page = browser.new_context().new_page()
        address = serve(options.site)
        first_visit = visit(page, address)
        runtime = page.evaluate("document.body.dataset.runtime")
        other = [names for name, names in config["web"]["runtimes"].items() if name != runtime]
        unused = sum(sizes[name] for names in other for name in names.values() if name.endswith(".wasm"))
        print(f"runtime: {runtime}; the browser loads {(sum(sizes.values()) - unused) / 1e6:.1f} MB")
        print(f"first visit: ready after {first_visit:.2f} s")
        found = [caption(page, picture) for picture in pictures]
        page.get_by_text("This page also works without a network.").wait_for()
        print_times([seconds for seconds, _ in found])
        print(f"second visit: ready after {visit(page, address):.2f} s")
        again = [caption(page, picture) for picture in pictures]
        print_times([seconds for seconds, _ in again])
        browser.close()
    if options.compare:
        compare(options.compare, pictures, [line for _, line in found])
        compare(options.compare, pictures, [line for _, line in again])


def print_times(seconds: list[float]) -> None:
    first, *later = seconds
    print(f"  first caption: {first:.2f} s")
    if later:
        print(f"  later captions: median {statistics.median(later):.2f} s, {min(later):.2f} to {max(later):.2f} s")


def compare(name: str, pictures: list[Path], lines: list[dict[str, Any]]) -> None:
    model = load(name, backend="onnx")
    same, worst = 0, 0.0
    seconds = []
    for picture, line in zip(pictures, lines, strict=True):
        begin = time.perf_counter()
        expected = model.caption(picture)
        seconds.append(time.perf_counter() - begin)
        if line["caption"] != expected.text:
            print(f"{picture.name}: '{line['caption']}' in the browser, '{expected.text}' in Python")
            continue
        same += 1
        for word, other in zip(line["words"], expected.words, strict=True):
            worst = max(worst, float(np.abs(np.array(word["map"]) - other.map).max() / other.map.max()))
    print(f"the same captions as in Python: {same} of {len(pictures)}")
    print(f"largest difference of a cell, as a share of the map's largest: {worst:.4f}")
    print(f"Python, ONNX Runtime: median {statistics.median(seconds):.2f} s")


if __name__ == "__main__":
    main()
