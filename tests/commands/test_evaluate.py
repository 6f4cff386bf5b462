"""``captioner evaluate``: what it prints, writes and returns."""

import argparse
import csv
import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from captioner.commands import evaluate as command
from captioner.commands.notices import warnings_as_lines
from captioner.errors import DataError, ImageError, OptionError
from captioner.metrics import DocumentFrequencies, evaluate
from captioner.results import Failure

Run = Callable[..., tuple[int, str, str]]
Write = Callable[[str, Any], Path]

SHARED = Path(__file__).resolve().parents[2].parent / "shared"


@pytest.fixture
def gold() -> Path:
    if not (SHARED / "gold").is_dir():
        pytest.skip("needs ../shared/gold, the figures of the official evaluation for real captions")
    return SHARED / "gold"


@pytest.fixture
def evaluate_command(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run ``captioner evaluate`` with these arguments: exit code, standard output, standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        parser = argparse.ArgumentParser()
        command.add_arguments(parser)
        with warnings_as_lines():  # as the command line does
            code = command.run(parser.parse_args([str(argument) for argument in arguments]))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a file into the test's folder: text as it is, anything else as JSON."""

    def write(name: str, content: Any) -> Path:
        path = tmp_path / name
        path.write_bytes((content if isinstance(content, str) else json.dumps(content)).encode())
        return path

    return write


ANIMALS = ["dog", "cat", "horse", "bird", "cow", "goat", "duck", "fox"]


def references(key: int) -> list[str]:
    animal = ANIMALS[key % 8]
    return [
        f"A {animal} runs in the grass.",
        f"The {animal} is running on a lawn.",
        f"A brown {animal} outside",
        f"There is a {animal} in a green field.",
        f"A {animal} running",
    ]


@pytest.fixture
def files(write: Write) -> tuple[Path, Path]:
    """Annotations of 60 pictures and a caption for each."""
    keys = range(1, 61)
    annotations = write(
        "refs.json",
        {
            "images": [{"id": key, "file_name": f"{key:012d}.jpg"} for key in keys],
            "annotations": [{"image_id": key, "caption": text} for key in keys for text in references(key)],
        },
    )
    results = [{"image_id": key, "caption": f"a {ANIMALS[key % 8]} in the grass"} for key in keys]
    return annotations, write("mine.json", results)


def arguments(files: tuple[Path, Path], *more: object) -> list[object]:
    return ["--annotations", files[0], "--results", files[1], *more]


def test_the_official_figures_to_the_last_digit(evaluate_command: Run, gold: Path) -> None:
    code, printed, _ = evaluate_command(
        "--annotations",
        gold / "sets/refs_coco_others.json",
        "--results",
        gold / "sets/coco_human.json",
        "--no-baselines",
    )
    rows = {line.rsplit(None, 1)[0].strip(): line.split()[-1] for line in printed.splitlines() if "0." in line}
    assert code == 0
    assert (rows["BLEU-4"], rows["ROUGE-L"], rows["CIDEr"]) == ("0.1955385179", "0.4717583582", "0.8865442018")


def test_json_holds_what_python_gives(evaluate_command: Run, files: tuple[Path, Path]) -> None:
    code, printed, errors = evaluate_command(*arguments(files, "--json"))
    report = json.loads(printed)
    captions = {row["image_id"]: row["caption"] for row in json.loads(files[1].read_text())}
    expected = evaluate(captions, {key: references(key) for key in captions})
    assert (code, errors) == (0, "")
    assert report["scores"] == expected.as_dict()
    assert report["signature"] == f"{expected.signature} | set refs.json"
    assert report["captions"]["captions"] == 60
    assert report["captions"]["distinct"] == pytest.approx(8 / 60)
    assert report["captions"]["mean_length"] == 5
    assert report["constant"]["caption"] in {text for key in captions for text in references(key)}
    assert report["constant"]["scores"]["CIDEr"] < report["scores"]["CIDEr"]
    assert "references 4 " in report["human"]["signature"]


def test_table_has_a_line_of_signature(evaluate_command: Run, files: tuple[Path, Path]) -> None:
    _, printed, _ = evaluate_command(*arguments(files, "--bootstrap", 40))
    assert printed.rstrip().splitlines()[-1].startswith("captioner ")
    assert "tokens ptb | pictures 60 | references 5 " in printed
    assert printed.rstrip().endswith("| document frequencies scored set | set refs.json")
    assert "95% interval" in printed
    assert "human" in printed


def test_per_image_file(evaluate_command: Run, files: tuple[Path, Path], tmp_path: Path) -> None:
    evaluate_command(*arguments(files, "--per-image", tmp_path / "out.csv", "--no-baselines"))
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image_id"] for row in rows] == [str(key) for key in range(1, 61)]
    assert rows[0]["caption"] == "a cat in the grass"
    scores = evaluate({1: "a cat in the grass"}, {1: references(1)}, document_frequencies=DocumentFrequencies(99, {}))
    assert float(rows[0]["BLEU-2"]) == pytest.approx(scores.bleu[1], rel=1e-8)


def test_comparison(evaluate_command: Run, files: tuple[Path, Path], write: Write) -> None:
    worse = write("other.json", [{"image_id": key, "caption": "a man"} for key in range(1, 61)])
    _, printed, _ = evaluate_command(*arguments(files, "--compare", worse, "--json", "--no-baselines"))
    report = json.loads(printed)["compare"]
    assert report["difference"]["BLEU-1"] < 0
    assert report["p_value"]["BLEU-1"] < 0.01
    _, printed, _ = evaluate_command(*arguments(files, "--compare", files[1], "--json", "--no-baselines"))
    assert set(json.loads(printed)["compare"]["p_value"].values()) == {1.0}


def test_few_pictures_have_no_intervals(evaluate_command: Run, write: Write) -> None:
    captions = {"a.jpg": "a dog runs", "b.jpg": "a cat"}
    refs = write("refs.csv", "image,caption\n" + "".join(f"{name},{text}\n" for name, text in captions.items()))
    _, printed, _ = evaluate_command("--annotations", refs, "--results", refs, "--json", "--bootstrap", 40)
    content = json.loads(printed)
    assert "intervals" not in content
    assert "no intervals for fewer than 10 pictures" in content["notes"]


def test_a_folder_is_read_as_for_training(evaluate_command: Run, files: tuple[Path, Path]) -> None:
    folder = files[0].parent
    files[0].rename(folder / "captions_val.json")
    (folder / "a.jpg").touch()
    (folder / "a.txt").write_text("a sidecar, which is not asked for")
    code, printed, _ = evaluate_command("--annotations", folder, "--results", files[1], "--json")
    assert code == 0 and "set captions_val.json" in json.loads(printed)["signature"]
    with pytest.raises(OptionError, match=r"captions_val\.json"):
        evaluate_command("--annotations", folder, "--results", files[1], "--per-image", folder / "captions_val.json")


def test_partial_says_so(evaluate_command: Run, files: tuple[Path, Path], write: Write) -> None:
    some = write("some.json", [{"image_id": key, "caption": "a dog"} for key in range(1, 56)])
    with pytest.raises(DataError, match=r"5 of 60 .*56.*--partial"):
        evaluate_command("--annotations", files[0], "--results", some)
    code, printed, _ = evaluate_command("--annotations", files[0], "--results", some, "--partial")
    assert code == 0
    assert "partial: 55 of 60 pictures scored" in printed
    other = write("none.json", [{"image_id": 900, "caption": "a dog"}])
    with pytest.raises(DataError, match="no picture has both"):
        evaluate_command("--annotations", files[0], "--results", other, "--partial")


def test_pictures_with_few_references_can_be_left_out(evaluate_command: Run, write: Write) -> None:
    counts = {key: 5 if key <= 55 else 2 for key in range(1, 61)}
    annotations = write(
        "refs.json",
        {
            "images": [{"id": key, "file_name": f"{key}.jpg"} for key in counts],
            "annotations": [
                {"image_id": key, "caption": text} for key, count in counts.items() for text in references(key)[:count]
            ],
        },
    )
    full = write(
        "full.json",
        {
            "images": [],
            "annotations": [{"image_id": key, "caption": text} for key in range(1, 56) for text in references(key)],
        },
    )
    mine = write("mine.json", [{"image_id": key, "caption": "a dog in the grass"} for key in range(1, 56)])
    code, some, _ = evaluate_command("--annotations", annotations, "--results", mine, "--references", 5, "--json")
    assert code == 0
    _, all_, _ = evaluate_command("--annotations", full, "--results", mine, "--json")
    assert json.loads(some)["scores"] == json.loads(all_)["scores"]
    with pytest.raises(DataError, match="no picture has 6 references, but 5 at most"):
        evaluate_command("--annotations", annotations, "--results", mine, "--references", 6)


def test_few_pictures_are_warned_of_once(evaluate_command: Run, write: Write) -> None:
    annotations = write("refs.csv", "image,caption\n1,a dog\n2,a cat\n")
    code, _, errors = evaluate_command("--annotations", annotations, "--results", annotations, "--no-baselines")
    assert code == 0
    assert errors.count("document frequencies come from 2 pictures") == 1


def test_saved_document_frequencies(evaluate_command: Run, files: tuple[Path, Path], tmp_path: Path) -> None:
    table = tmp_path / "table.json"
    _, first, _ = evaluate_command(*arguments(files, "--json", "--save-document-frequencies", table))
    _, second, _ = evaluate_command(*arguments(files, "--json", "--document-frequencies", table))
    assert json.loads(second)["scores"] == pytest.approx(json.loads(first)["scores"])
    assert "document frequencies table of 60 " in json.loads(second)["signature"]


def test_a_table_of_document_frequencies_needs_no_results(
    evaluate_command: Run, files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "table.json"
    code, printed, errors = evaluate_command("--annotations", files[0], "--save-document-frequencies", table)
    assert (code, printed) == (0, "")
    assert errors == f"captioner: {table}: document frequencies of 60 pictures\n"
    assert DocumentFrequencies.load(table).pictures == 60
    with pytest.raises(OptionError, match=r"--results.*--images"):
        evaluate_command("--annotations", files[0])
    for option in (
        ["--bootstrap", 40],
        ["--json"],
        ["--meteor"],
        ["--no-baselines"],
        ["--document-frequencies", table],
    ):
        with pytest.raises(OptionError, match=f"{option[0]} needs captions"):
            evaluate_command("--annotations", files[0], "--save-document-frequencies", table, *option)
    with pytest.raises(DataError, match=r"refs.json.*--save-document-frequencies"):
        evaluate_command(*arguments(files, "--document-frequencies", files[0]))


def test_empty_captions_are_named(evaluate_command: Run, files: tuple[Path, Path], write: Write) -> None:
    rows = [{"image_id": key, "caption": "" if key == 7 else "a dog"} for key in range(1, 61)]
    _, printed, _ = evaluate_command("--annotations", files[0], "--results", write("mine.json", rows))
    assert "1 captions have no words; the first is of picture 7" in printed


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--bootstrap", 39], "--bootstrap must be at least 40, not 39: a 95% interval needs as many"),
        (["--seed", -1], "--seed must be 0 or more"),
        (["--references", -1], "--references must be 0 or more"),
        (["--beam", 3], "--beam goes with --images"),
        (["--rerank", 0], "--rerank goes with --images"),
        (["--save-results", "x.json"], "--save-results goes with --images"),
    ],
)
def test_options_outside_their_range(
    evaluate_command: Run, files: tuple[Path, Path], more: list[object], message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        evaluate_command(*arguments(files, *more))


def test_meteor_without_its_program_says_what_is_missing(
    evaluate_command: Run, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(OptionError, match=r"--meteor.*pycocoevalcap.*Java"):
        evaluate_command(*arguments(files, "--meteor"))


def test_a_file_that_cannot_be_written(evaluate_command: Run, files: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"--per-image.*out.csv"):
        evaluate_command(*arguments(files, "--per-image", tmp_path / "no" / "out.csv"))
    with pytest.raises(OptionError, match=r"--per-image: cannot write .*: Is a directory"):
        evaluate_command(*arguments(files, "--per-image", tmp_path))


def test_of_two_results_files_the_one_at_fault_is_named(
    evaluate_command: Run, files: tuple[Path, Path], write: Write
) -> None:
    some = write("some.json", [{"image_id": key, "caption": "a dog"} for key in range(1, 56)])
    with pytest.raises(DataError, match=r"some.json: 5 of 60 .*56"):
        evaluate_command(*arguments(files, "--compare", some))


class PretendCaptioner:
    """Captions every picture by its file name; one of them does not open.

    Attributes:
        asked: the pictures and the options of each call, of all captioners.
    """

    asked: ClassVar[list[tuple[list[Path], Any]]] = []

    def options(self, **changes: int) -> dict[str, int]:
        return changes

    def caption_all(self, pictures: list[Path], *, options: Any) -> Any:
        self.asked.append((pictures, options))
        for path in pictures:
            if path.read_bytes() == b"broken":
                yield Failure.of(path, ImageError(f"{path.name}: not a picture"))
            else:
                yield types.SimpleNamespace(image=str(path), text=f"a {ANIMALS[int(path.stem) % 8]} outside")


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(PretendCaptioner, "asked", [])
    module = types.ModuleType("captioner.pipeline")
    module.load = lambda name, **options: PretendCaptioner()  # type: ignore[attr-defined]
    monkeypatch.setattr("captioner.shipped.shipped_models", lambda: {"default": tmp_path / "default.safetensors"})
    monkeypatch.setitem(sys.modules, "captioner.pipeline", module)
    folder = tmp_path / "val"
    folder.mkdir()
    for key in range(1, 61):
        (folder / f"{key:012d}.jpg").write_bytes(b"fine")
    return folder


def test_caption_then_score(evaluate_command: Run, files: tuple[Path, Path], pictures: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept.json"
    code, printed, errors = evaluate_command(
        "--annotations", files[0], "--images", pictures, "--beam", 2, "--json", "--save-results", kept
    )
    assert (code, errors) == (0, "")
    assert len(json.loads(kept.read_text())) == 60
    _, again, _ = evaluate_command("--annotations", files[0], "--results", kept, "--json")
    assert json.loads(printed) == json.loads(again)


@pytest.mark.parametrize(
    ("more", "changes"),
    [([], {}), (["--beam", 2], {"width": 2}), (["--rerank", 0, "--beam", 4], {"width": 4, "rerank": 0.0})],
)
def test_pictures_are_captioned_as_the_options_say(
    evaluate_command: Run,
    files: tuple[Path, Path],
    pictures: Path,
    more: list[object],
    changes: dict[str, float],
) -> None:
    assert evaluate_command("--annotations", files[0], "--images", pictures, *more)[0] == 0
    assert [options for _, options in PretendCaptioner.asked] == [changes]


def test_pictures_without_references_are_known_before_any_is_captioned(
    evaluate_command: Run, files: tuple[Path, Path], pictures: Path
) -> None:
    content = json.loads(files[0].read_text())
    content["annotations"] = [row for row in content["annotations"] if row["image_id"] != 4]
    files[0].write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"refs.json: picture 4 has no reference"):
        evaluate_command("--annotations", files[0], "--images", pictures)
    assert not PretendCaptioner.asked
    code, printed, _ = evaluate_command("--annotations", files[0], "--images", pictures, "--partial")
    assert code == 0
    assert [len(paths) for paths, _ in PretendCaptioner.asked] == [59]
    assert "59 of 60 pictures scored" in printed


def test_no_graph_of_a_model_is_overwritten(
    evaluate_command: Run, files: tuple[Path, Path], pictures: Path, tmp_path: Path
) -> None:
    graph = tmp_path / "graphs" / "default" / "step.onnx"
    graph.parent.mkdir(parents=True)
    graph.write_bytes(b"a graph")
    command = ("--annotations", files[0], "--images", pictures)
    for option in ("--save-results", "--per-image"):
        with pytest.raises(OptionError, match=graph.name):
            evaluate_command(*command, option, graph)
    assert graph.read_bytes() == b"a graph"


def test_a_broken_picture_is_named(evaluate_command: Run, files: tuple[Path, Path], pictures: Path) -> None:
    (pictures / f"{3:012d}.jpg").write_bytes(b"broken")
    with pytest.raises(DataError, match="1 picture could not be captioned"):
        evaluate_command("--annotations", files[0], "--images", pictures)
    code, printed, errors = evaluate_command("--annotations", files[0], "--images", pictures, "--partial")
    assert code == 1
    assert "000000000003.jpg: not a picture" in errors
    assert "59 of 60 pictures scored" in printed


def test_a_missing_picture_is_named_before_any_is_captioned(
    evaluate_command: Run, files: tuple[Path, Path], pictures: Path
) -> None:
    (pictures / f"{5:012d}.jpg").unlink()
    with pytest.raises(DataError, match=r"no file for picture 5 in .*000000000005.jpg"):
        evaluate_command("--annotations", files[0], "--images", pictures)
    code, _, errors = evaluate_command("--annotations", files[0], "--images", pictures, "--partial")
    assert code == 1
    assert "no file for picture 5" in errors
