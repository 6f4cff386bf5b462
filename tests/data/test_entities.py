"""Boxes of phrases, from the published folder and from one JSON file."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from captioner.data.readers.entities import Phrase, PhraseBoxes
from captioner.errors import DataError

SENTENCE = "[/EN#7/people Two men] watch [/EN#8/other/scene a boat] in [/EN#0/notvisual it] ."
ANNOTATION = """<annotation><size><width>100</width><height>50</height></size>
<object><name>7</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>50</xmax><ymax>50</ymax></bndbox></object>
<object><name>7</name><name>8</name>
<bndbox><xmin>51</xmin><ymin>26</ymin><xmax>100</xmax><ymax>50</ymax></bndbox></object>
<object><name>9</name><nobndbox>1</nobndbox></object></annotation>"""

ENTRY: dict[str, Any] = {
    "width": 100,
    "height": 50,
    "boxes": {"7": [[1, 1, 50, 50], [51, 26, 100, 50]], "8": [[51, 26, 100, 50]]},
    "sentences": [
        {
            "words": ["Two", "men", "watch", "a", "boat", "in", "it", "."],
            "phrases": [
                {"start": 0, "end": 2, "entity": "7", "types": ["people"]},
                {"start": 3, "end": 5, "entity": "8", "types": ["other", "scene"]},
                {"start": 6, "end": 7, "entity": "0", "types": ["notvisual"]},
            ],
            "flickr8k_caption": 0,
        }
    ],
}


def test_both_forms_say_the_same(tmp_path: Path) -> None:
    for name, text in (("Sentences/12.txt", SENTENCE), ("Annotations/12.xml", ANNOTATION)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    file = tmp_path / "phrases.json.gz"
    file.write_bytes(gzip.compress(json.dumps({"12_ab.jpg": ENTRY}).encode()))
    (sentence,) = PhraseBoxes(file).of(Path("x/12_ab.jpg")) or ()
    assert PhraseBoxes(tmp_path).of(Path("x/12_ab.jpg")) == (sentence,)  # by the number of Flickr's picture
    assert PhraseBoxes(file).of(Path("x/13_ab.jpg")) is None
    assert sentence.words[:3] == ("Two", "men", "watch")
    left, right = (0.0, 0.0, 0.5, 1.0), (0.5, 0.5, 1.0, 1.0)
    assert sentence.phrases == (
        Phrase(0, 2, "7", ("people",), (left, right)),
        Phrase(3, 5, "8", ("other", "scene"), (right,)),
        Phrase(6, 7, "0", ("notvisual",), ()),
    )


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"width": 0}, "width"),
        ({"boxes": {"7": [[1, 1, 101, 50]]}}, "101"),
        ({"boxes": {"7": [[9, 1, 5, 50]]}}, "[9, 1, 5, 50]"),
        ({"boxes": {"7": [["1", 1, 5, 50]]}}, "['1', 1, 5, 50]"),
        ({"boxes": []}, "boxes"),
        ({"sentences": None}, "sentences"),
        ({"sentences": [{"words": "a dog"}]}, "words"),
        ({"sentences": [{"words": ["dog"], "phrases": None}]}, "None"),
        ({"sentences": [{"words": ["dog"], "phrases": 7}]}, "7"),
        ({"sentences": [{"words": ["dog"], "phrases": [{"start": 0, "end": 2, "entity": "7", "types": []}]}]}, "2"),
        ({"sentences": [{"words": ["dog"], "flickr8k_caption": "1"}]}, "flickr8k_caption"),
    ],
)
def test_what_is_wrong_is_named_with_its_picture(change: dict[str, Any], named: str, tmp_path: Path) -> None:
    file = tmp_path / "phrases.json"
    file.write_text(json.dumps({"a.jpg": {**ENTRY, **change}}))
    with pytest.raises(DataError) as caught:
        PhraseBoxes(file)
    assert "a.jpg" in str(caught.value)
    assert named in str(caught.value)


def test_a_folder_of_another_form_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Sentences"):
        PhraseBoxes(tmp_path)
    (tmp_path / "Sentences").mkdir()
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Sentences" / "1.txt").write_text(SENTENCE)
    with pytest.raises(DataError, match=r"1\.xml"):
        PhraseBoxes(tmp_path)
    for broken in ("<annotation>", '<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "<annotation/>"):
        (tmp_path / "Annotations" / "1.xml").write_text(broken)
        with pytest.raises(DataError, match=r"1\.xml"):
            PhraseBoxes(tmp_path)
