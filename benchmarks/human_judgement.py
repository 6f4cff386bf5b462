"""How well the scores agree with Flickr8k's experts: Kendall's tau-c.

    python benchmarks/human_judgement.py FOLDER

FOLDER holds ExpertAnnotations.txt and Flickr8k.token.txt of the Flickr8k text archive. In the usual setting there are
5,664 pairs, those with a picture's own captions left out, and each of the three ratings is an item.
"""

import argparse
import sys
from pathlib import Path

from captioner.data.readers.judgements import read_captions, read_judgements
from captioner.errors import CaptionerError
from captioner.metrics.judgement import correlations

# Anderson et al., ECCV 2016 (SPICE), and later papers; times 100.
LITERATURE = {"BLEU-1": 32.3, "BLEU-4": 30.8, "ROUGE-L": 32.3, "CIDEr": 43.9}
USUAL_PAIRS = 5664


def main() -> int:
    """Print the correlations."""
    parser = argparse.ArgumentParser(description="Kendall's tau-c of the scores with Flickr8k's expert judgements.")
    parser.add_argument("folder", type=Path, help="with ExpertAnnotations.txt and Flickr8k.token.txt")
    parser.add_argument("--judgements", default="ExpertAnnotations.txt", help="file name in the folder")
    parser.add_argument("--captions", default="Flickr8k.token.txt", help="file name in the folder")
    options = parser.parse_args()
    try:
        judgements = read_judgements(options.folder / options.judgements)
        found = correlations(judgements, read_captions(options.folder / options.captions))
    except CaptionerError as error:
        print(f"human_judgement: {error}", file=sys.stderr)
        return 2
    pairs = sum(not judgement.own for judgement in judgements)
    print(f"{pairs:,} pairs without the pictures' own captions", end="")
    print("" if pairs == USUAL_PAIRS else f"; the literature has {USUAL_PAIRS:,}")
    print(f"{'score':12} {'tau-c':>6} {'literature':>11}")
    for name, value in found.items():
        print(f"{name:12} {100 * value:6.1f} {LITERATURE.get(name, ''):>11}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
