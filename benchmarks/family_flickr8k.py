"""Attention mechanisms on photographs with an equal budget: dev CIDEr-D, pointing, parameters, milliseconds of a step.

    python benchmarks/family_flickr8k.py flickr8k/ runs/family                 the main mechanisms
    python benchmarks/family_flickr8k.py flickr8k/ runs/family --only hard     one of them
    python benchmarks/family_flickr8k.py flickr8k/ runs/family --grounding entities/

The encoder of a trained model is frozen, and its grids are cached once for all runs. Each mechanism is trained by
the same recipe with the same pictures, words and steps, from random weights of refiner and decoder. CIDEr-D is of
greedy captions of dev pictures. Pointing needs boxes of the pictures' phrases (``--grounding``: a folder that
``captioner ground --data`` takes); without them the column is empty. A step is one of training, in milliseconds of
processor time on one thread. Runs that the folder holds go on where they were.
"""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from family import ROWS, Row, parameters
from set_up import argument_parser

from captioner.data.readers import read
from captioner.data.records import of_split
from captioner.grounding.ground_truth import find_ground_truth
from captioner.grounding.grounded import GroundedPicture
from captioner.grounding.run import ground
from captioner.grounding.scores import average_scores
from captioner.options import Greedy
from captioner.pipeline import load
from captioner.training.dev import score_captions
from captioner.training.loop import Trainer
from captioner.training.recipe import Recipe

MAIN = "additive,multihead,hard,local,adaptive,memory,attention_on_attention,hierarchical,cbam,latent_queries"
DECODER = {"width": 256, "embedding": 192, "output_hidden": 384, "attention_width": 256, "dropout": 0.3}


def recipe_of(row: Row, encoder: str, *, pictures: int, epochs: int) -> Recipe:
    return Recipe(
        decoder="lstm",
        decoder_options={**DECODER, **row.decoder},
        encoder_from=encoder,
        refiner=row.refiner,
        refiner_options={
            "width": 256,
            **row.refiner_options,
            **({"regions": 5} if "regions" in row.refiner_options else {}),
        },
        train_pictures=pictures,
        epochs=epochs,
        frozen_epochs=epochs,
        batch_pictures=32,
        learning_rate=1.5e-3,
        warmup_steps=100,
        ema_decay=0.99,
        horizontal_flip=False,
        dev_pictures=300,
        precision="float32",
    )


def train(row: Row, records: Sequence, folder: Path, recipe: Recipe) -> tuple[Path, float]:
    """The model of a row, and milliseconds of a step."""
    budget = f"{recipe.train_pictures}-pictures-{recipe.epochs}-epochs"
    run = folder / f"photographs-{row.name}-{budget}-{Path(recipe.encoder_from).stem}"
    timed = run / "step.txt"
    if timed.exists():
        return run / "best.safetensors", float(timed.read_text())
    run.mkdir(parents=True, exist_ok=True)
    for grids in folder.glob("*/grids-*.npy"):  # of the same frozen encoder: a run knows whether they are its own
        if not (run / grids.name).exists():
            os.link(grids, run / grids.name)
    steps, last = [], None
    with Trainer(recipe, records, run, device="cpu") as trainer:
        for progress in trainer.steps():
            now = time.process_time()
            if progress.what.startswith("epoch") and last is not None:
                steps.append(now - last)
            last = now if progress.what.startswith("epoch") else None
    if not steps:  # the run was at its end, but for the time, which its steps would have said
        return run / "best.safetensors", float("nan")
    timed.write_text(f"{1000 * float(np.median(steps)):.1f}")
    return run / "best.safetensors", float(timed.read_text())


def pointing(path: Path, data: str, count: int) -> str:
    if not data:
        return ""
    everything = read(data)
    found = ground(
        load(path, backend="torch"), of_split(everything, "dev")[:count], find_ground_truth(data, everything)
    )
    captions = [caption for one in found if isinstance(one, GroundedPicture) for caption in one.captions]
    nouns = [noun for caption in captions for noun in caption.nouns]
    mean, _ = average_scores(nouns, [score for caption in captions for score in caption.scores])
    return f"{mean.maps.pointing.value:.1%}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argument_parser(__doc__)
    parser.add_argument("data", help="captions and pictures with the splits train and dev, as of 'captioner train'")
    parser.add_argument("folder", type=Path, help="of the runs")
    parser.add_argument("--only", default=MAIN, help="names of mechanisms, joined by commas")
    parser.add_argument("--encoder", default="checkpoints/lstm.safetensors", help="the model whose encoder is used")
    parser.add_argument("--pictures", type=int, default=3000, help="of training")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--grounding", default="", help="boxes of phrases, for the pointing")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = {row.name: row for row in ROWS}
    names = [name for name in options.only.split(",") if name]
    if unknown := set(names) - set(rows):
        parser.error(f"no mechanism is called {', '.join(sorted(unknown))}; there are {', '.join(rows)}")
    records = read(options.data)
    dev = of_split(records, "dev")[:300]
    print("| mechanism | dev CIDEr | pointing | parameters | ms/step |\n|---|---|---|---|---|", flush=True)
    for name in names:
        recipe = recipe_of(rows[name], options.encoder, pictures=options.pictures, epochs=options.epochs)
        path, step = train(rows[name], records, options.folder, recipe)
        model = load(path, backend="torch")
        captions = model.caption([record.image for record in dev], options=Greedy(max_length=20))
        scores = score_captions({record.id: caption.text for record, caption in zip(dev, captions, strict=True)}, dev)
        points = pointing(path, options.grounding, 300)
        count = parameters(model.model)
        print(f"| {name} | {100 * scores['cider']:.1f} | {points} | {count:,} | {step:.0f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
