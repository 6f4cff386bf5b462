r"""The mean of models that all go on from one: often better than each of them.

python -m captioner.training.average_checkpoints \
    runs/a/best.safetensors runs/b/best.safetensors --output runs/mean.safetensors
"""

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from captioner import checkpoint
from captioner.checkpoint import Checkpoint
from captioner.errors import CaptionerError, OptionError
from captioner.model.caption_model import CaptionModel, ModelConfig
from captioner.training.start import recipes_of

LEAST_LIKENESS = 0.5
"""Of two models from one start, as `_likeness` has it: 0.99 and more after long runs, about 0 by chance."""


def mean_of(files: Sequence[str | Path], *, shares: Sequence[float] | None = None) -> Checkpoint:
    """A model whose every weight is the mean of the models' weights.

    Models that all go on from one start often lie in one basin, and their mean is often better than each of them
    (Wortsman et al. 2022, "Model soups"), also where they learned from different rewards (Ramé et al. 2023, "Rewarded
    soups"). The start may be one of them. Weights of different starts do not correspond to one another.

    Args:
        files: model files, two or more; the first says the size of the pictures, and how maps are read and captions
            decoded where it knows. Scores are not taken over: they are not the mean's.
        shares: of each, above 0; equal if None. Only their ratios count.

    Raises:
        OptionError: fewer than two files, shares that are not one for each or not above 0, or models of different
            configurations, vocabularies or starts.
        CheckpointError: a file does not load.
    """
    shares = [1.0] * len(files) if shares is None else list(shares)
    whole = sum(shares)
    if len(files) < 2:
        raise OptionError(f"a mean is of two model files or more, not of {len(files)}")
    if len(shares) != len(files) or not all(share > 0 for share in shares) or not math.isfinite(whole):
        raise OptionError(f"{len(files)} model files need as many shares above 0, not {shares}")
    first = checkpoint.load(files[0])
    start = _random_at_first(first.model)
    total: dict[str, Tensor] = {}
    members: list[dict[str, Any]] = []
    runs: list[dict[str, Any]] = []
    before: list[dict[str, Any]] = []
    teachers: list[dict[str, Any]] = []
    for file, share in zip(files, shares, strict=True):
        one = first if file == files[0] else checkpoint.load(file)
        if one.vocabulary.words != first.vocabulary.words:
            raise OptionError(f"{file} knows other words than {files[0]}: a mean needs one vocabulary")
        if difference := _difference(one.model.config, first.model.config):
            raise OptionError(f"{difference[0]} is {difference[1]} in {file}, {difference[2]} in {files[0]}")
        if (likeness := _likeness(_random_at_first(one.model), start)) < LEAST_LIKENESS:
            raise OptionError(
                f"{file} and {files[0]} come from different starts (the cosine of their weights is {likeness:.2f}): "
                "a mean needs models that all go on from one"
            )
        for name, tensor in one.model.state_dict().items():
            if tensor.is_floating_point():
                weighted = tensor * (share / whole)
                total[name] = total[name] + weighted if name in total else weighted
            else:  # counts of batches, which nothing reads
                total.setdefault(name, tensor)
        kept: dict[str, Any] = {name: one.about[name] for name in ("epoch", "training_pictures") if name in one.about}
        members.append({"file": "/".join(Path(file).parts[-2:]), "share": share, **kept})
        teachers += [recipe for recipe in one.about.get("teacher", []) if recipe not in teachers]
        *earlier, last = recipes_of(str(file)) or [{}]
        before += [recipe for recipe in earlier if recipe not in before]
        runs += [last] if last else []
    first.model.load_state_dict(total)
    about: dict[str, Any] = {name: first.about[name] for name in ("maps", "decoding") if name in first.about}
    runs = [recipe for recipe in runs if recipe not in before]  # the start, if it is one of them
    about |= {"recipe": {"objective": "mean", "mean_of": members}, "earlier": before + runs}
    return replace(first, about=about | ({"teacher": teachers} if teachers else {}))


def _random_at_first(model: CaptionModel) -> tuple[Tensor, ...]:
    """Weights that have nothing in common in models that began apart; the encoder's, if other weights were loaded."""
    kernel = next(weight for weight in model.encoder.parameters() if weight.dim() == 4)
    return model.decoder.embed.weight.detach(), model.refiner.project.weight.detach(), kernel.detach()


def _likeness(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """The smallest cosine between matrices of one model and another's."""
    return min(F.cosine_similarity(a.flatten(), b.flatten(), dim=0).item() for a, b in zip(ours, theirs, strict=True))


def _difference(one: ModelConfig, other: ModelConfig) -> tuple[str, Any, Any] | None:
    """The first option in which two configurations differ, and its values.

    Left aside is what may differ between models of one start: the size of the pictures, dropout, the heads that make
    maps.
    """
    ours, theirs = one.as_dict(), other.as_dict()
    for part in ours:
        names = ours[part].keys() | theirs[part].keys()
        for name in sorted(names, key=lambda name: (name != "kind", name)):
            values = (ours[part].get(name), theirs[part].get(name))
            if name not in ("side", "dropout", "map_heads") and values[0] != values[1]:
                return (f"the {part}'s {name}", *values)
    return None


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m captioner.training.average_checkpoints", description=__doc__)
    parser.add_argument("models", nargs="+", type=Path, help="model files that all go on from one")
    parser.add_argument("--shares", nargs="+", type=float, help="of each in the mean, after the files (default: equal)")
    parser.add_argument("--output", type=Path, required=True, help="the model file to write, in 32 bits")
    arguments = parser.parse_args()
    try:
        if arguments.output.resolve() in [file.resolve() for file in arguments.models]:
            raise OptionError(f"{arguments.output} is one of the models: give another --output")
        checkpoint.save(arguments.output, mean_of(arguments.models, shares=arguments.shares), half=False)
    except CaptionerError as error:
        print(f"mean: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
