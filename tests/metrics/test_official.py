"""Made captions before the official tokeniser itself, where it is installed: what the gold files do not hold."""

import importlib.util
import random
import subprocess
from pathlib import Path

import pytest

from captioner.metrics.meteor import missing
from captioner.tokenizer.ptb import PUNCTUATION, tokenize

PIECES = """
a dog The CAT runs o'clock it's don't boys' St. Ave. Mr. No. no. Jr. U.S. p.m. Ph.D. etc. S. N. The A e.g. art.
5 10:30 1,000 3.14 1/2 22 3/4 50% $5 5pm 1990s '90s 2nd 555-1234 (555) #1 7-11 9/11 5'6" ½ 100,000.50
close-up multi- -edge and/or w/ AT&T R&B H&M. street.A dog!cat www.dogs.com me@dogs.org image.jpg http://dogs.com/x
( ) [ ] " ' `` '' “ ” ‘ ’ – — … • . , ! ? ; : - -- ... .. !! ?! / \\ & # % * + = < > | ~ ^ _ @ $ £ €
:) ;-) ^_^ <b> </s> <unk> <3 &amp; &lt; &quot; &apos; &nbsp; café naïve Straße 狗 собака ² ⅛ ° ♥ 😀 cannot gonna 'tis
""".split()  # noqa: SIM905  a list would be a hundred lines


def made_captions(number: int) -> list[str]:
    """Pieces with and without spaces between, in random order; the same at each call."""
    draw = random.Random(11)
    return [
        "".join(draw.choice(PIECES) + draw.choice(["", " ", " "]) for _ in range(draw.randint(2, 8))).strip()
        for _ in range(number)
    ]


@pytest.mark.slow
@pytest.mark.skipif(missing() is not None, reason=f"the official tokeniser needs {missing()}")
def test_words_of_made_captions_are_the_official_ones(tmp_path: Path) -> None:
    captions = made_captions(4000)
    package = importlib.util.find_spec("pycocoevalcap.tokenizer")
    assert package is not None
    assert package.submodule_search_locations is not None
    program = next(Path(package.submodule_search_locations[0]).glob("*.jar"))
    # A plain word on the line after each caption keeps captions apart.
    (tmp_path / "captions.txt").write_text("\ndog\n".join([*captions, ""]))
    command = ["java", "-cp", program, "edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"]
    run = subprocess.run([*command, tmp_path / "captions.txt"], capture_output=True, check=True)
    lines = run.stdout.decode().split("\n")[::2]
    official = [[word for word in line.split(" ") if word and word not in PUNCTUATION] for line in lines]
    wrong = [
        (caption, words, tokenize(caption))
        for caption, words in zip(captions, official, strict=False)
        if tokenize(caption) != words
    ]
    assert len(official) >= len(captions) == 4000
    assert wrong == []
