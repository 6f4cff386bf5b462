"""The mean of models that were trained on from one: often better than each of them.

python -m captioner.training.mean runs/a/best.safetensors runs/b/best.safetensors --output runs/mean.safetensors
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from captioner import checkpoint
from captioner.checkpoint import Checkpoint
from captioner.errors import CaptionerError, OptionError
from captioner.model.caption_model import ModelConfig
from captioner.training.start import recipes_of


def mean_of(files: Sequence[str | Path], *, shares: Sequence[float] | None = None) -> Checkpoint:
    """A model whose every weight is the mean of the models' weights.

    What runs from one start learn of the task adds up, and what each learns by heart cancels out (Wortsman et al.
    2022, "Model soups"; of models that learned from a reward, Ramé et al. 2024, "WARP"). Runs from different starts
    have nothing in common that could be averaged.

    Args:
        files: model files, two or more; the first one says the size of the pictures and how maps are read.
        shares: of each, above 0; equal if None. Only their ratios count.

    Raises:
        OptionError: fewer than two files, shares that are not one for each or not above 0, or models of different
            shapes or vocabularies.
        CheckpointError: a file does not load.
    """
    shares = [1.0] * len(files) if shares is None else list(shares)
    if len(files) < 2:
        raise OptionError(f"a mean is of two model files or more, not of {len(files)}")
    if len(shares) != len(files) or not all(0 < share < float("inf") for share in shares):
        raise OptionError(f"{len(files)} model files need as many shares above 0, not {shares}")
    first = checkpoint.load(files[0])
    total: dict[str, Tensor] = {}
    recipes: list[dict[str, Any]] = []
    for file, share in zip(files, shares, strict=True):
        one = checkpoint.load(file)
        if one.vocabulary.words != first.vocabulary.words:
            raise OptionError(f"{file} knows other words than {files[0]}: a mean needs one vocabulary")
        if _learned(one.model.config) != _learned(first.model.config):
            raise OptionError(f"{file} is of another shape than {files[0]}: a mean needs models from one start")
        for name, tensor in one.model.state_dict().items():
            if tensor.is_floating_point():
                weighted = tensor * (share / sum(shares))
                total[name] = total[name] + weighted if name in total else weighted
            else:  # counts of batches, which nothing reads
                total.setdefault(name, tensor)
        recipes += [recipe for recipe in recipes_of(str(file)) if recipe not in recipes]
    first.model.load_state_dict(total)
    made = {"objective": "mean", "mean_of": ["/".join(Path(file).parts[-2:]) for file in files], "shares": shares}
    return replace(first, about={"recipe": made, "earlier": recipes})


def _learned(config: ModelConfig) -> ModelConfig:
    """What of a configuration its weights depend on."""
    decoder: Any = config.decoder
    return replace(
        config,
        encoder=replace(config.encoder, side=32),
        refiner=replace(config.refiner, dropout=0.0),
        decoder=replace(decoder, map_heads=(), dropout=0.0),
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m captioner.training.mean", description=__doc__)
    parser.add_argument("models", nargs="+", type=Path, help="model files of one shape and vocabulary")
    parser.add_argument("--shares", nargs="+", type=float, help="of each in the mean (default: equal)")
    parser.add_argument("--output", type=Path, required=True, help="the model file to write")
    arguments = parser.parse_args()
    try:
        checkpoint.save(arguments.output, mean_of(arguments.models, shares=arguments.shares), half=False)
    except CaptionerError as error:
        print(f"mean: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
