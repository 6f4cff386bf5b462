"""Do ONNX Runtime and torch caption alike? Both over the same photographs, with each shipped model.

    python benchmarks/agreement.py FOLDER [--list FILE] [--count N] [MODEL ...]

Captions that differ are listed with both scores: a tie of the beam has scores closer than 1e-4.
"""

from pathlib import Path

import numpy as np
from set_up import argument_parser

from captioner.image import SUFFIXES
from captioner.pipeline import load
from captioner.results import Caption
from captioner.shipped import shipped_models


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("models", nargs="*", default=list(shipped_models()))
    parser.add_argument("--list", type=Path, help="names of the photographs, one a line")
    parser.add_argument("--count", type=int, default=200)
    options = parser.parse_args()
    names = (
        options.list.read_text().splitlines()
        if options.list
        else sorted(path.name for path in options.folder.iterdir())
    )
    pictures = [options.folder / name for name in names if Path(name).suffix.lower() in SUFFIXES][: options.count]
    for name in options.models:
        models = [load(name, device="cpu", backend=backend) for backend in ("torch", "onnx")]
        differing, ties, log_p, maps = [], 0, 0.0, 0.0
        for torch, onnx in zip(*(model.caption_all(pictures) for model in models), strict=True):
            assert isinstance(torch, Caption) and isinstance(onnx, Caption)
            if torch.text != onnx.text:
                differing.append((torch, onnx))
                ties += abs(torch.score - onnx.score) < 1e-4
                continue
            for ours, theirs in zip(torch.words, onnx.words, strict=True):
                log_p = max(log_p, abs(float(np.log(ours.probability / theirs.probability))))
                maps = max(maps, float(np.abs(ours.map - theirs.map).max()), abs(ours.off_grid - theirs.off_grid))
        same = len(pictures) - len(differing)
        print(f"{name}: {same} of {len(pictures)} captions alike, {ties} ties")
        print(f"  largest differences: log-probabilities {log_p:.1e}, maps {maps:.1e}")
        for torch, onnx in differing:
            print(
                f"  {Path(torch.image).name}: torch {torch.score:.5f} {torch.text} | onnx {onnx.score:.5f} {onnx.text}"
            )


if __name__ == "__main__":
    main()
