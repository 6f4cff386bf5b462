"""Pictures of the page, for looking at it: light, dark, on a phone, a gallery; with a model, the server's page too.

    python benchmarks/screenshots.py FOLDER                     drawn scenes, with their boxes for maps
    python benchmarks/screenshots.py FOLDER --model default     drawn scenes as a model captions them
    python benchmarks/screenshots.py FOLDER photos/ --model default

Needs playwright and a Chromium that is installed.
"""

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from captioner.data.pictures import find_pictures
from captioner.data.scenes import Scene, dog_frisbee_park, draw_scene
from captioner.image import Geometry
from captioner.results import Alternative, Caption, Word
from captioner.show.page import page

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

GRID = (8, 8)
GALLERY = 24


def looked_at(scene: Scene, name: str) -> Caption:
    """The caption of a scene with maps as a model would make that looks at what it names."""
    width, height = scene.image.size
    geometry = Geometry(size=(width, height), side=256, grid=GRID)
    random = np.random.default_rng(sum(scene.boxes[min(scene.boxes)]))

    def words(texts: tuple[str, ...]) -> tuple[Word, ...]:
        found = []
        things, coming = scene.things(), sorted(scene.things())
        for text in texts:
            map_ = np.full(GRID, 0.2, np.float32)
            # A word before a noun begins to look for it.
            thing = next((place for place in coming if scene.words.index(text) <= place), None)
            if thing is not None:
                left, top, right, bottom = things[thing]
                covered = geometry.coverage((left / width, top / height, right / width, bottom / height))
                map_ += covered * (3.0 if text == scene.words[thing] else 0.6)
            map_ += 0.1 * random.random(GRID).astype(np.float32)
            found.append(Word(text, float(random.uniform(0.55, 0.99)), map_ / map_.sum()))
        return tuple(found)

    shorter = scene.words[:-3]
    return Caption(
        text=scene.caption,
        words=words(scene.words),
        score=-0.31,
        finished=True,
        image=name,
        model="drawn by hand",
        geometry=geometry,
        alternatives=(Alternative(text=" ".join(shorter), words=words(shorter), score=-0.48, finished=True),),
        source=scene.image,
    )


def captions(pictures: list[str], model: str | None) -> tuple[Caption, list[Caption]]:
    """The caption of the page of one, and those of the gallery."""
    if pictures and model is None:
        raise SystemExit("pictures need a --model")
    if model is None:
        shapes = ((480, 360), (360, 480), (640, 360))
        scenes = [draw_scene(seed, size=shapes[seed % 3]) for seed in range(GALLERY)]
        gallery = [looked_at(scene, f"IMG_{2040 + i}.jpg") for i, scene in enumerate(scenes)]
        return looked_at(dog_frisbee_park(size=(960, 720)), "park.jpg"), gallery
    from captioner import load

    captioner = load(model)
    options = captioner.options(n_best=4)
    if pictures:
        found = captioner.caption([*find_pictures(pictures).pictures], options=options)
        return found[0], found
    scenes = [dog_frisbee_park(size=(960, 720)), *(draw_scene(seed) for seed in range(GALLERY))]
    one, *gallery = captioner.caption([scene.image for scene in scenes], options=options)
    return one, gallery


@contextmanager
def chromium() -> "Iterator[Browser]":
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        raise SystemExit("no Chromium is installed")
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])


def shoot(browser: "Browser", file: Path, target: Path, *, word: int | None = None, **context: object) -> None:
    """A picture of a page, with one of its words chosen."""
    with browser.new_context(**context) as made:  # type: ignore[arg-type]
        tab: Page = made.new_page()
        tab.goto(file.resolve().as_uri())
        tab.locator(".cv-word").first.wait_for()
        if word is not None:
            tab.locator(".cv-word").nth(word).click()
        tab.wait_for_timeout(600)
        tab.screenshot(path=target, full_page=bool(context.get("is_mobile")))
    print(target)


@contextmanager
def serving(model: str) -> Iterator[str]:
    """The address of a server that runs while the block does."""
    command = [sys.executable, "-m", "captioner.cli", "serve", "--port", "0", "--model", model]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        line = server.stderr.readline()
        found = re.search(r"http://\S+:\d+", line)
        if found is None:
            raise SystemExit(line + server.stderr.read())
        try:
            yield found[0]
        finally:
            server.terminate()


def shoot_server(browser: "Browser", url: str, target: Path, pictures: list[Path], **context: object) -> None:
    """A picture of the server's page after it has captioned some pictures, or the first of its own."""
    with browser.new_context(**context) as made:  # type: ignore[arg-type]
        tab: Page = made.new_page()
        tab.goto(url)
        if pictures:
            tab.locator("#files").set_input_files(pictures)
        else:
            tab.locator("[data-example='0']").click()
        words = tab.locator(".result .cv-word")
        words.nth(min(2, len(pictures))).wait_for(timeout=60_000)
        words.nth(2).hover()
        tab.wait_for_timeout(600)
        tab.screenshot(path=target, full_page=bool(context.get("is_mobile")))
    print(target)


def main() -> None:
    parser = argparse.ArgumentParser(description="Make pictures of the page.")
    parser.add_argument("folder", type=Path, help="where they go, with the pages")
    parser.add_argument("pictures", nargs="*", help="photographs or folders of them; drawn scenes if there are none")
    parser.add_argument("--model", help="a name or a file; without it, the boxes of drawn scenes are the maps")
    options = parser.parse_args()
    one, several = captions(options.pictures, options.model)
    options.folder.mkdir(parents=True, exist_ok=True)
    single, gallery = options.folder / "page.html", options.folder / "gallery.html"
    one.page(single)
    gallery.write_text(page(several), encoding="utf-8")

    wide = {"viewport": {"width": 1280, "height": 860}}
    phone = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "is_mobile": True, "has_touch": True}
    noun = min(2, len(one.words) - 1)
    with chromium() as browser:
        shoot(browser, single, options.folder / "light.png", word=noun, **wide)
        shoot(browser, single, options.folder / "dark.png", word=noun, color_scheme="dark", **wide)
        shoot(browser, single, options.folder / "phone.png", word=noun, **phone)
        shoot(browser, gallery, options.folder / "gallery.png", word=2, **wide)
        shoot(browser, gallery, options.folder / "gallery-dark.png", color_scheme="dark", **wide)
        if options.model is not None:
            sent = find_pictures(options.pictures).pictures[:2] if options.pictures else []
            with serving(options.model) as url:
                shoot_server(browser, url, options.folder / "server.png", sent, **wide)
                shoot_server(browser, url, options.folder / "server-phone.png", sent, **phone)


if __name__ == "__main__":
    main()
