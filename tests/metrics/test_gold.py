"""Agreement with the official evaluation, file by file: how many lines are compared, and which differ."""

import gzip
import itertools
import json
from pathlib import Path

import pytest

from captioner.metrics import evaluate
from captioner.tokenizer.ptb import tokenize, tokenize_all

from .conftest import gold_rows, unescape

# Official tokens that depend on the neighbouring caption of that run, not on the caption alone.
NEIGHBOUR_DEPENDENT = {"39631", "82045", "363042"}

# A line separator other than a line feed makes the official code drop the rest of the caption, and every later
# caption lands on the wrong picture. Here it is white space, and the whole caption counts.
LINE_SEPARATORS = {f"line_separators-{number}" for number in (1213, 1214, 1215, 1216)}

MEASURES = {
    "BLEU-1": "Bleu_1",
    "BLEU-2": "Bleu_2",
    "BLEU-3": "Bleu_3",
    "BLEU-4": "Bleu_4",
    "ROUGE-L": "ROUGE_L",
    "CIDEr": "CIDEr",
}


def differing(path: Path, *, caption: int, tokens: int, escaped: bool = True) -> tuple[int, set[str]]:
    """The number of lines, and the first fields of those whose tokens differ."""
    lines, wrong = 0, set()
    for row in gold_rows(path):
        lines += 1
        text = unescape(row[caption]) if escaped else row[caption]
        expected = unescape(row[tokens]).split(" ") if row[tokens] else []
        if tokenize(text) != expected:
            wrong.add(row[0])
    return lines, wrong


def test_words_of_coco(gold: Path) -> None:
    lines, wrong = differing(gold / "ptb_coco_val2017.tsv.gz", caption=1, tokens=2)
    assert lines == 25_014
    assert wrong == NEIGHBOUR_DEPENDENT - {"39631"}  # that one differs only when read in the order of pictures


def test_words_of_coco_in_the_official_order(gold: Path) -> None:
    rows = list(gold_rows(gold / "ptb_coco_val2017.tsv.gz"))
    found = tokenize_all([unescape(row[1]) for row in rows])
    wrong = {row[0] for row, words in zip(rows, found, strict=True) if words != unescape(row[2]).split(" ")}
    assert len(rows) == 25_014
    assert wrong == set()


def test_words_of_flickr8k(gold: Path) -> None:
    assert differing(gold / "ptb_flickr8k.tsv.gz", caption=1, tokens=2) == (40_460, set())


def test_words_of_made_captions(gold: Path) -> None:
    assert differing(gold / "ptb_tricky.tsv", caption=1, tokens=2) == (893, LINE_SEPARATORS)


def test_words_of_every_pair_of_ascii_signs(gold: Path) -> None:
    assert differing(gold / "probe_ascii.tsv", caption=0, tokens=1, escaped=False) == (6_968, set())


def test_abbreviations(gold: Path) -> None:
    """The file lists the words whose period stays, in each case and context; in all others it must go."""
    contexts = {"the X. dog": 1, "the X. Dog": 1, "the X. The": 1, "X. 5": 0, "X.": 0}
    kept: dict[tuple[str, str], set[str]] = {}
    for word, case, *listed in gold_rows(gold / "probe_abbrev.tsv"):
        kept[word, case] = {entry.rpartition("=")[0] for entry in listed}
    written = {"lower": str.lower, "title": str.capitalize, "upper": str.upper}
    compared, wrong = 0, []
    for (word, case), context in itertools.product(
        itertools.product(sorted({word for word, _ in kept}), written), contexts
    ):
        compared += 1
        period = context in kept.get((word, case), set())
        found = tokenize(context.replace("X", written[case](word)))[contexts[context]]
        if found != word + "." * period:
            wrong.append((word, case, context, found))
    assert compared == 2_445
    assert wrong == []


def test_apostrophes(gold: Path) -> None:
    """The file gives, for each place of an apostrophe, the words that each pattern of tokens was seen for."""
    places = {
        "dog'X": "dog'{}",
        "'X": "'{}",
        "X'dog": "{}'dog",
        "X'": "{}'",
        "DOG'X (upper)": "DOG'{}",
    }
    quotes = {"'", "`", "''", "``"}
    compared, wrong = 0, []
    for place, patterns in json.loads((gold / "probe_apostrophe.json").read_text()).items():
        for pattern, (_, words) in patterns.items():
            for word in words:
                compared += 1
                expected = [token.replace("X", word.lower()) for token in pattern.split() if token not in quotes]
                found = tokenize(places[place].format(word))
                if found != expected:
                    wrong.append((place, word, found, expected))
    assert compared == 485
    assert wrong == []


def scored_sets(gold: Path, name: str) -> tuple[dict[int, str], dict[int, list[str]]]:
    entry = json.loads((gold / "scores.json").read_text())[name]
    results = json.loads((gold / "sets" / entry["hypotheses"]).read_text())
    references: dict[int, list[str]] = {}
    for annotation in json.loads((gold / "sets" / entry["reference_file"]).read_text())["annotations"]:
        references.setdefault(annotation["image_id"], []).append(annotation["caption"])
    return {row["image_id"]: row["caption"] for row in results}, references


@pytest.mark.parametrize("name", ["coco_human", "coco_shuffle", "coco500_human", "flickr8k_test_human"])
def test_scores_of_sets(gold: Path, name: str) -> None:
    official = json.loads((gold / "scores.json").read_text())[name]["scores"]
    figures = evaluate(*scored_sets(gold, name)).as_dict()
    for ours, theirs in MEASURES.items():
        assert figures[ours] == pytest.approx(official[theirs], abs=1e-9, rel=0), ours


def test_scores_of_single_pictures(gold: Path) -> None:
    official = json.loads((gold / "scores_per_image_500.json").read_text())["per_image"]
    found = evaluate(*scored_sets(gold, "coco500_human")).per_picture()
    assert len(found) == len(official) == 500
    for key, figures in found.items():
        for ours, theirs in MEASURES.items():
            assert figures[ours] == pytest.approx(official[str(key)][theirs], abs=1e-9, rel=0), (key, ours)


def test_every_gold_file_is_used(gold: Path) -> None:
    """A file that is added there must be compared here."""
    used = Path(__file__).read_text()
    data = {path.name for path in gold.iterdir() if path.suffix in {".tsv", ".gz"} or "probe" in path.name}
    assert {name for name in data if name not in used} == set()


def test_gold_captions_are_not_copied_here(gold: Path) -> None:
    with gzip.open(gold / "ptb_coco_val2017.tsv.gz", "rt", encoding="utf-8", newline="\n") as file:
        captions = [line.split("\t")[1] for line in itertools.islice(file, 1, 5000, 10)]
    ours = "".join(path.read_text() for path in Path(__file__).parent.glob("*.py"))
    assert not [caption for caption in captions if caption in ours]
