"""The documentation fits the program: its commands parse, its snippets compile, its links lead somewhere."""

import argparse
import io
import re
import shlex
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import pytest

from captioner import cli
from captioner.errors import CaptionerError
from captioner.header import read_header
from captioner.registry import Registry
from captioner.shipped import shipped_models

ROOT = Path(__file__).resolve().parents[1]
SITE = sorted((ROOT / "docs").rglob("*.md"))
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    ROOT / "checkpoints" / "README.md",
    *SITE,
]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
FENCED = re.compile(r"^[ ]*```(\w*)\n(.*?)^[ ]*```", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"(?:\$ |.*-m )?captioner (?P<name>[a-z][a-z-]*)(?P<rest>.*)", re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"")

# Private words for public ideas, and turns that plain technical English does without.
DIALECT = [
    r"\bteach(es|ing)?\b|\btaught\b",
    *(rf"\b{word}\b" for word in ("look_at", "Seen", "_Said", "_say", "hide_words", "own_words", "warm_up")),
    *(rf"\b{word}\b" for word in ("final_rate", "blots?", "blotted", "blot_out", "RIVALS", "Aim", "Mention")),
    *(rf"\b{word}\b" for word in ("MapReading", "map_reading", "look_after_reading", "on_error")),
    *(rf"\b{word}\b" for word in ("anew", "dealt", "told", "said", "be it")),
    *(rf"--{flag}(?![\w-])" for flag in ("hide-words", "own-words", "cut", "light", "average", "accumulate", "clip")),
    *(rf"--{flag}(?![\w-])" for flag in ("longest", "warm-up", "final-rate", "flips")),
    r"objective[ =`'\"]+(words|reward|text)\b",
    r"captioner\.training\.(mean|ship|maps|plot)\b",
    r"captioner\.cli\b(?!`, `commands)",
]
MACHINE = [r"/work/", r"/tmp/", r"/home/\w", r"/root\b", r"/opt/\w"]


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def prose_of(page: Path) -> str:
    return FENCED.sub("", text_of(page))


@cache
def parser_of(command: str) -> argparse.ArgumentParser:
    parser = cli.parser_of(command)

    def error(message: str) -> NoReturn:
        raise ValueError(message)

    parser.error = error  # type: ignore[method-assign]
    return parser


def command_lines(page: Path) -> Iterator[tuple[str, str]]:
    """The whole command lines of a page: (command, the rest)."""
    blocks = [body for language, body in FENCED.findall(text_of(page)) if language in ("", "sh", "bash", "console")]
    blocks += re.findall(r"(?:^    \S.*\n)+", prose_of(page), re.MULTILINE)
    for block in blocks:
        for line in re.sub(r"\\\n\s*", "", block).splitlines():
            found = COMMAND.match(line.strip())
            # What follows three spaces is an explanation.
            if found and "$" not in found["rest"] and "..." not in found["rest"]:
                yield found["name"], re.split(r"\s{3,}", found["rest"])[0]


def mentioned_commands(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Commands in running text and tables, and the options that they are given."""
    for code in re.findall(r"`([^`]+)`", prose_of(page)):
        found = COMMAND.fullmatch(" ".join(code.split()))
        if found:
            yield found["name"], re.findall(r"(?<!\S)--[a-z][a-z0-9-]*", found["rest"])


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_command_lines_parse(page: Path) -> None:
    for command, rest in command_lines(page):
        try:
            options = vars(parser_of(command).parse_args(shlex.split(rest)))
        except (ValueError, CaptionerError) as error:
            pytest.fail(f"captioner {command}{rest}: {error}")
        if "model" in options and "output" in options:  # an output that is an input is refused
            assert str(options["output"]) != str(options["model"]), f"captioner {command}{rest}"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_options_that_are_mentioned_exist(page: Path) -> None:
    for command, options in mentioned_commands(page):
        known: dict[str, Any] = parser_of(command)._option_string_actions
        assert set(options) <= set(known), f"captioner {command}"


PAGE_OF = {
    "caption": "captioning.md",
    "ask": "asking.md",
    "review": "captioning.md",
    "alt": "alt-text.md",
    "bulk": "bulk.md",
    "evaluate": "scores.md",
    "ground": "grounding.md",
    "select-heads": "grounding.md",
    "train": "training.md",
    "export": "training.md",
    "average": "training.md",
    "ensemble": "training.md",
    "adjust-logits": "training.md",
    "prune": "training.md",
    "train-reranker": "training.md",
    "plot": "training.md",
    "scenes": "training.md",
    "shards": "training.md",
    "serve": "server.md",
    "models": "models.md",
}


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_option_stands_in_the_page_of_its_command(command: str) -> None:
    page = text_of(ROOT / "docs" / PAGE_OF[command])
    actions = [one for one in parser_of(command)._actions if one.help is not argparse.SUPPRESS]
    options = {option for one in actions for option in one.option_strings if re.match(r"--(?!help$|no-)", option)}
    assert {option for option in options if not re.search(rf"{option}(?![\w-])", page)} == set()


def test_there_are_commands_to_check() -> None:
    assert {name for page in PAGES for name, _ in command_lines(page)} >= {"caption", "evaluate", "ground", "train"}


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_python_snippets_compile(page: Path) -> None:
    for language, body in FENCED.findall(text_of(page)):
        if language == "python":
            compile(body, str(page), "exec")


def anchors_of(page: Path) -> set[str]:
    """The anchors of a page's headings, as Python-Markdown makes them."""
    headings = re.findall(r"^#{1,6} (.+)$", prose_of(page), re.MULTILINE)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip()) for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_internal_links_resolve(page: Path) -> None:
    for markdown, attribute in LINK.findall(prose_of(page)):
        target, _, anchor = (markdown or attribute).partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), f"{target} is not there"
        assert not anchor or anchor in anchors_of(file), f"{target} has no heading for #{anchor}"


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=lambda page: page.name)
def test_words_are_the_fields(page: Path) -> None:
    found = [match.group() for pattern in DIALECT for match in re.finditer(pattern, text_of(page))]
    assert found == []


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_no_path_of_a_machine(page: Path) -> None:
    assert [match.group() for pattern in MACHINE for match in re.finditer(pattern, text_of(page))] == []


def layers_of_the_contract() -> list[str]:
    """The layers of the import contract, the highest first."""
    settings = tomllib.loads(text_of(ROOT / "pyproject.toml"))["tool"]["importlinter"]
    (contract,) = [one for one in settings["contracts"] if one["containers"] == ["captioner"]]
    return list(contract["layers"])


def test_the_layers_of_the_architecture_page_are_those_of_the_contract() -> None:
    rows = re.findall(r"^\| `([\w./]+)` \|", text_of(ROOT / "docs" / "architecture.md"), re.MULTILINE)
    assert [row.removesuffix(".py").removesuffix("/") for row in rows] == layers_of_the_contract()


def test_the_layers_of_the_drawing_are_those_of_the_contract() -> None:
    drawing = text_of(ROOT / "docs" / "images" / "layers.svg")
    boxes = re.findall(r'font-weight="600" fill="#222">([^<:]+)<', drawing)
    names = [name.strip() for box in boxes for name in box.split(",")]
    assert [name.removesuffix(".py").removesuffix("/") for name in names] == layers_of_the_contract()


def test_the_readme_is_short_and_its_picture_small() -> None:
    readme = text_of(ROOT / "README.md")
    assert len(readme.splitlines()) <= 120
    (picture,) = re.findall(r'<img src="([^"]+)"', readme)
    assert (ROOT / picture).stat().st_size < 150_000


def test_the_readme_has_the_figures_of_the_models_that_ship() -> None:
    readme = text_of(ROOT / "README.md")
    sizes = []
    for name, file in shipped_models().items():
        header = read_header(file)
        scores = header["about"]["test"]["scores"]
        sizes.append(round(file.stat().st_size / 1e6))
        row = f"| {sizes[-1]} MB | " + " | ".join(
            f"{scores[one]:.1f}" for one in ("BLEU-1", "BLEU-4", "ROUGE-L", "CIDEr")
        )
        assert re.search(rf"^\| `{name}`: [^|]+ {re.escape(row)} \|$", readme, re.MULTILINE), (name, row)
    assert f"from {min(sizes)} to {max(sizes)} MB" in readme


def test_the_parts_of_the_contributors_guide_work(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from captioner.backends.base import BACKENDS
    from captioner.data.readers import READERS, read_annotations
    from captioner.data.writers import WRITERS
    from captioner.explain.gradient import gradient_maps
    from captioner.model.attention import ATTENTIONS
    from captioner.model.backbones import BACKBONES, build_stages
    from captioner.model.decoder import DECODERS
    from captioner.model.grid import Grid
    from captioner.model.refiners import REFINERS
    from captioner.training.tasks import TASKS

    parts: dict[str, Any] = {"__name__": "contributors_guide"}
    try:
        for language, body in FENCED.findall(text_of(ROOT / "CONTRIBUTING.md")):
            if language == "python":
                exec(compile(body, "CONTRIBUTING.md", "exec"), parts)
        torch.manual_seed(0)
        mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
        entry = REFINERS["linear"]
        refined = entry.build(channels=12, config=entry.config(width=16))(Grid(torch.randn(2, 6, 12), (2, 3), mask))
        assert refined.features.shape == (2, 6, 16)
        entry = DECODERS["gru"]
        decoder = entry.build(vocabulary_size=11, image_width=16, config=entry.config(width=8, attention="null_key"))
        decoded = decoder(refined, torch.randint(4, 11, (4, 5)))
        assert decoded.logits.shape == (4, 5, 11)
        assert (decoded.off_grid > 0).all()
        torch.testing.assert_close(decoded.maps.sum((2, 3)) + decoded.off_grid, torch.ones(4, 5))
        assert (decoded.maps[2:, :, 1, 1:] == 0).all()  # cells of the second picture that hold no picture
        _, gradients = gradient_maps(decoder, refined, torch.randint(4, 11, (4, 5)), torch.randint(4, 11, (4, 5)))
        assert (gradients.flatten(2).sum(2) > 0).any()
        assert build_stages("small")(torch.zeros(1, 3, 224, 224)).shape == (1, 64, 7, 7)
        names: list[str] = []
        scan = WRITERS[".tsv"]().scan(io.BytesIO(b"a dog\ta.jpg\na ca"), names.append)
        assert (names, scan.end) == (["a.jpg"], 12)
        assert "traced" in BACKENDS
        assert "confidence_penalty" in TASKS
        (tmp_path / "captions.lines").write_text("a.jpg\ta dog | the dog\nb.jpg\ta cat\n", encoding="utf-8")
        assert read_annotations(tmp_path / "captions.lines").references == {
            "a.jpg": ["a dog", "the dog"],
            "b.jpg": ["a cat"],
        }
    finally:
        added: list[tuple[Registry[Any], str]] = [
            (ATTENTIONS, "null_key"),
            (DECODERS, "gru"),
            (REFINERS, "linear"),
            (BACKBONES, "small"),
            (WRITERS, ".tsv"),
            (READERS, "one line a picture"),
            (TASKS, "confidence_penalty"),
            (BACKENDS, "traced"),
        ]
        for registry, name in added:
            registry.unregister(name)
