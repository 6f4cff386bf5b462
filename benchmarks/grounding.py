"""What each way of reading maps gives, beside the baselines: on drawn scenes, or on pictures of yours.

    python benchmarks/grounding.py runs/grounding                      both decoders, trained on scenes from nothing
    python benchmarks/grounding.py runs/grounding --model M --data D   a model of yours, on D's dev split

On scenes, tiny models are trained for a minute or two each (only if the folder does not hold them yet), the reading is
chosen on the scenes' dev split, and everything is measured on held-out scenes with their exact boxes. On data, the
reading in the model's file is taken; write it with `python -m captioner.grounding.select_heads` first.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from captioner.explain.maps import MapReading

from captioner import checkpoint
from captioner.data.readers import read
from captioner.data.records import Record, of_split
from captioner.data.scenes import write_scenes
from captioner.grounding import select_heads as maps
from captioner.grounding.deletion import summarise
from captioner.grounding.ground_truth import Truth, find_truth
from captioner.grounding.pointing import RIVALS, Figure, average
from captioner.grounding.run import ground, try_out
from captioner.pipeline import Captioner, load
from captioner.training.loop import Trainer
from captioner.training.recipe import Recipe

SIZE = (192, 144)
DECODERS = {
    "lstm": ({"width": 192, "embedding": 96, "output_hidden": 192, "attention_width": 96, "heads": 4}, 3e-3),
    "transformer": ({"width": 128, "layers": 2, "heads": 4, "hidden": 256}, 2e-3),
}


def train(folder: Path, decoder: str, *, supervision: float) -> Path:
    """A tiny model that was trained on drawn scenes; the one in the folder if it is there."""
    scenes = folder / "scenes"
    if not (scenes / "captions.jsonl").exists():
        write_scenes(scenes, count=2400, dev=120, size=SIZE)
    options, rate = DECODERS[decoder]
    recipe = Recipe(
        decoder=decoder,
        decoder_options={**options, "dropout": 0.1},
        backbone="tiny",
        refiner_options={"width": 128, "dropout": 0.0, "position": 0.5},
        epochs=7,
        frozen_epochs=0,
        batch_pictures=16,
        captions_per_picture=1,
        minimum_count=1,
        learning_rate=rate,
        encoder_learning_rate=rate,
        warmup_steps=50,
        label_smoothing=0.0,
        map_supervision=supervision,
        ema_decay=0.98,
        horizontal_flip=False,
        dev_pictures=60,
    )
    run = folder / (decoder if supervision else f"{decoder}-unsupervised")
    return Trainer(recipe, read(scenes), run, device="cpu").run()


Readings = dict[str, tuple[Captioner, MapReading]]


def report(records: Sequence[Record], truth: Truth, readings: Readings, faithful: int) -> None:
    """Print a line for each reading, then the baselines of the first."""
    baselines = None
    for title, (model, reading) in readings.items():
        found = list(ground(model, records, truth, sources=("written",), explain=reading))
        mentions = [mention for grounded in found for mention in grounded.mentions]
        shares, by_class = average(mentions, [aim for grounded in found for aim in grounded.aims])
        line = f"  {title:<34} points {write(shares.pointing['maps'])}   mass {write(shares.mass['maps'])}"
        if "person" in by_class:
            line += f"   people point {write(by_class['person'].pointing['maps'])}"
        if faithful:
            tried = summarise([t for grounded in found[:faithful] for t in try_out(model, grounded)])
            line += f"   deletion gain {tried.deletion_gain.value:+.3f}, insertion {tried.insertion_gain.value:+.3f}"
        print(line, flush=True)
        baselines = baselines or (shares, by_class)
    assert baselines is not None
    shares, by_class = baselines
    for name in RIVALS[1:]:
        line = f"  {'baseline: ' + name:<34} points {write(shares.pointing[name])}   mass {write(shares.mass[name])}"
        if "person" in by_class:
            line += f"   people point {write(by_class['person'].pointing[name])}"
        print(line)
    print(f"  ({shares.mentions} nouns on {shares.pictures} pictures, {shares.reachable:.1%} can be hit)", flush=True)


def write(figure: Figure) -> str:
    low, high = 100 * figure.interval.low, 100 * figure.interval.high
    return f"{100 * figure.value:5.1f}% ({low:.1f} to {high:.1f})"


def readings_of(path: Path) -> Readings:
    """Every way to read the maps of a model's file, and the heads as they were before any was chosen."""
    model, plain = load(path), load(path)
    plain.model.make_maps_of(())
    readings = {
        "attention, as the file says": MapReading.stored(model.about, "attention"),
        "  and standardised": MapReading(sinks="standardise"),
        "  and its mean subtracted": MapReading(sinks="subtract"),
        "  and read one step later": MapReading(delay=1),
        "gradient x attention": MapReading.stored(model.about, "gradient"),
        "occlusion, 3 x 3 cells": MapReading(explain="occlusion"),
        "occlusion, single cells": MapReading(explain="occlusion", block=1),
    }
    before: Readings = {"attention, all heads": (plain, MapReading())}
    return before | {title: (model, reading) for title, reading in readings.items()}


def on_scenes(folder: Path, supervision: float, faithful: int, pictures: int) -> None:
    held_out = folder / "held-out"
    if not (held_out / "captions.jsonl").exists():
        write_scenes(held_out, count=0, dev=200, first_seed=1_000_000, size=SIZE)
    records, truth = of_split(read(held_out), "dev")[:pictures], find_truth(held_out)
    for decoder in DECODERS:
        path = train(folder, decoder, supervision=supervision)
        print(f"{decoder}, map supervision {supervision}:", flush=True)
        scenes = folder / "scenes"
        chosen = path.with_name("chosen.safetensors")
        choose(path, chosen, scenes)
        model = load(chosen)
        print(f"  chosen on dev: heads {model.model.config.decoder.map_heads}, {model.about['maps']}")
        report(records, truth, readings_of(chosen), faithful)


def choose(path: Path, output: Path, data: Path) -> None:
    """Choose the reading on the dev split, as `python -m captioner.grounding.select_heads` does."""
    model = checkpoint.load(path)
    records, truth = of_split(read(data), "dev"), find_truth(data)
    cases = list(maps.collect(Captioner(model), records, truth, captions=5, gradients=len(records)))
    best, gradient, _ = maps.choose(cases, *maps.plain_heads(model))
    checkpoint.save(output, maps.with_reading(model, best, gradient, {}, default="attention"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument(
        "--supervision", type=float, default=0.3, help="weight of map supervision in training on scenes"
    )
    parser.add_argument("--pictures", type=int, default=200, help="at most so many are measured")
    parser.add_argument("--faithful", type=int, default=0, help="deletion and insertion on so many of them")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.model is None:
        on_scenes(arguments.folder, arguments.supervision, arguments.faithful, arguments.pictures)
        return
    if arguments.data is None:
        sys.exit("--model needs --data")
    truth = find_truth(arguments.data)
    records = [record for record in of_split(read(arguments.data), "dev") if truth.knows(record)][: arguments.pictures]
    report(records, truth, readings_of(arguments.model), arguments.faithful)


if __name__ == "__main__":
    main()
