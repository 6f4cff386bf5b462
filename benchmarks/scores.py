"""Scores of 5,000 pictures and 25,000 references: time and memory, beside the official code where it is installed.

    python benchmarks/scores.py [--annotations FILE --results FILE] [--pictures N] [--runs 3]

Without files the captions are made up. The official code (pycocoevalcap, Java) is measured in the same run, on the
same captions; its METEOR and SPICE are left out, as they are here. Times are the best of the runs, in seconds.
"""

import argparse
import contextlib
import importlib.util
import io
import random
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from captioner.data.readers import name_as, read_annotations, read_results
from captioner.errors import CaptionerError
from captioner.metrics import evaluate, tokenize
from captioner.tokenizer.ptb import _alone

Captions = dict[Any, str]
References = dict[Any, list[str]]

OFFICIAL = {"Bleu_1": "BLEU-1", "Bleu_4": "BLEU-4", "ROUGE_L": "ROUGE-L", "CIDEr": "CIDEr"}


def made_up(pictures: int, *, seed: int = 0) -> tuple[Captions, References]:
    """Captions of 6 to 15 words of a vocabulary of 8,000, the common ones common; one in ten has odd chunks."""
    draw = random.Random(seed)
    words = [f"{a}{b}{c}" for a in "bdfgklmnpr" for b in ("a", "e", "io", "u") for c in _ends()]
    weights = [1 / (rank + 5) for rank in range(len(words))]
    odd = ["St.", "10:30am", "t.v.", "7-11", "isn't", "(left)", '"stop"', "1/2", "U.S.", "black/white"]

    def caption() -> str:
        chosen = draw.choices(words, weights, k=draw.randint(6, 15))
        if draw.random() < 0.1:
            chosen[draw.randrange(len(chosen))] = draw.choice(odd)
        return " ".join(chosen).capitalize() + "."

    return (
        {key: caption() for key in range(pictures)},
        {key: [caption() for _ in range(5)] for key in range(pictures)},
    )


def _ends() -> list[str]:
    return [f"{a}{b}{c}" for a in "bdlmnrstvz" for b in "aeiou" for c in ("", "n", "r", "st")]


def timed(work: Callable[[], Any], *, runs: int) -> tuple[float, Any]:
    """The best time of some runs, in seconds, and the last result."""
    best, result = float("inf"), None
    for _ in range(runs):
        _alone.cache_clear()  # each run starts as a new process would
        start = time.perf_counter()
        result = work()
        best = min(best, time.perf_counter() - start)
    return best, result


def official(captions: Captions, references: References) -> Mapping[str, float]:
    """The official tokeniser, BLEU, ROUGE-L and CIDEr; what they print is swallowed."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    silence = io.StringIO()
    with contextlib.redirect_stdout(silence):
        tokenizer = PTBTokenizer()
        truth = tokenizer.tokenize({key: [{"caption": text} for text in group] for key, group in references.items()})
        found = tokenizer.tokenize({key: [{"caption": text}] for key, text in captions.items()})
        scores = dict(zip((f"Bleu_{n}" for n in range(1, 5)), Bleu(4).compute_score(truth, found)[0], strict=True))
        scores["ROUGE_L"] = Rouge().compute_score(truth, found)[0]
        scores["CIDEr"] = Cider().compute_score(truth, found)[0]
    return scores


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description="Time of the scores, beside the official code.")
    parser.add_argument("--annotations", type=Path, help="references; made up if not given")
    parser.add_argument("--results", type=Path, help="captions")
    parser.add_argument("--pictures", type=int, default=5000, help="how many to make up (default 5000)")
    parser.add_argument("--runs", type=int, default=3, help="the best of so many counts (default 3)")
    options = parser.parse_args()
    if (options.annotations is None) != (options.results is None):
        parser.error("--annotations and --results go together")
    try:
        captions, references = _captions(options)
    except CaptionerError as error:
        parser.error(str(error))

    texts = [*captions.values(), *(text for group in references.values() for text in group)]
    print(f"{len(captions):,} pictures, {len(texts) - len(captions):,} references, best of {options.runs}")
    ours_words, _ = timed(lambda: sum(len(tokenize(text)) for text in texts), runs=options.runs)
    ours, scores = timed(lambda: evaluate(captions, references), runs=options.runs)
    print(f"captioner   {ours:7.2f} s, of which words {ours_words:.2f} s")
    # Linux gives kilobytes, macOS bytes.
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    print(f"            {memory:7.0f} MB at most, of the whole process")

    if importlib.util.find_spec("pycocoevalcap") is None or shutil.which("java") is None:
        print("official    not measured: needs pycocoevalcap and Java")
        return 0
    theirs, figures = timed(lambda: official(captions, references), runs=options.runs)
    start, _ = timed(lambda: subprocess.run(["java", "-version"], capture_output=True, check=False), runs=1)
    print(f"official    {theirs:7.2f} s, Java's start of {start:.2f} s twice in it")
    print(f"ratio       {theirs / ours:7.1f}")
    worst = max(abs(scores.as_dict()[name] - figures[theirs_name]) for theirs_name, name in OFFICIAL.items())
    print(f"largest difference of a figure {worst:.1e}")
    return 0


def _captions(options: argparse.Namespace) -> tuple[Captions, References]:
    if options.annotations is None:
        return made_up(options.pictures)
    annotations = read_annotations(options.annotations)
    return dict(name_as(read_results(options.results), annotations)), dict(annotations.references)


if __name__ == "__main__":
    sys.exit(main())
