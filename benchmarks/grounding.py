"""The scores of each way to make maps, beside the baselines: on drawn scenes, or on pictures of yours.

    python benchmarks/grounding.py runs/grounding                      both decoders, trained on scenes
    python benchmarks/grounding.py runs/grounding --model M --data D   a model of yours, on D's dev split

On scenes, tiny models are trained for a minute or two each (only if the folder does not hold them yet), heads and map
options are selected on the scenes' dev split, and everything is measured on held-out scenes with their exact boxes. On
data, those of the model's file are used; write them with `captioner select-heads` first.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from set_up import argument_parser, scene_recipe

from captioner import checkpoint
from captioner.data.readers import read
from captioner.data.records import Record, of_split
from captioner.data.scenes import write_scenes
from captioner.grounding.bootstrap import Estimate
from captioner.grounding.deletion import deletion_curves, summarise
from captioner.grounding.ground_truth import GroundTruth, find_ground_truth
from captioner.grounding.grounded import GroundedPicture
from captioner.grounding.run import ground
from captioner.grounding.scores import average_scores
from captioner.grounding.select_heads import read_heads, select, with_selection
from captioner.options import MapOptions
from captioner.pipeline import Captioner, load
from captioner.training.loop import Trainer

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
    recipe = scene_recipe(
        decoder=decoder,
        decoder_options={**options, "dropout": 0.1},
        refiner_options={"width": 128, "dropout": 0.0, "position": 0.5},
        epochs=7,
        learning_rate=rate,
        map_supervision=supervision,
    )
    run = folder / (decoder if supervision else f"{decoder}-unsupervised")
    return Trainer(recipe, read(scenes), run, device="cpu").run()


Settings = dict[str, tuple[Captioner, MapOptions]]


def report(records: Sequence[Record], ground_truth: GroundTruth, settings: Settings, faithful: int) -> None:
    """Print a line for each setting, then the baselines of the first."""
    first = None
    for title, (model, options) in settings.items():
        outcomes = ground(model, records, ground_truth, sources=("generated",), explain=options)
        found = [c for outcome in outcomes if isinstance(outcome, GroundedPicture) for c in outcome.captions]
        nouns = [noun for grounded in found for noun in grounded.nouns]
        mean, by_class = average_scores(nouns, [score for grounded in found for score in grounded.scores])
        line = f"  {title:<34} points {write(mean.maps.pointing)}   mass {write(mean.maps.mass)}"
        if "person" in by_class:
            line += f"   people point {write(by_class['person'].maps.pointing)}"
        if faithful:
            area = summarise([curve for grounded in found[:faithful] for curve in deletion_curves(model, grounded)])
            line += f"   deletion gain {area.deletion_gain.value:+.3f}, insertion {area.insertion_gain.value:+.3f}"
        print(line, flush=True)
        first = first or (mean, by_class)
    assert first is not None
    mean, by_class = first
    for name, baseline in mean.baselines.items():
        line = f"  {'baseline: ' + name:<34} points {write(baseline.pointing)}   mass {write(baseline.mass)}"
        if "person" in by_class:
            line += f"   people point {write(by_class['person'].baselines[name].pointing)}"
        print(line)
    print(f"  ({mean.nouns} nouns on {mean.pictures} pictures, {mean.reachable:.1%} can be hit)", flush=True)


def write(estimate: Estimate) -> str:
    """A mean and its interval, in percent."""
    low, high = 100 * estimate.interval.low, 100 * estimate.interval.high
    return f"{100 * estimate.value:5.1f}% ({low:.1f} to {high:.1f})"


def settings_of(path: Path) -> Settings:
    """Every way to make the maps of a model's file, and its default heads before any was selected."""
    model, plain = (load(path, backend="torch") for _ in range(2))  # where heads can be chosen
    plain.model.set_plain_maps()
    stored = MapOptions.stored(dict(model.about), "attention")
    other = "at its own step" if stored.delay else "one step later"
    settings = {
        "attention, as the file says": stored,
        "  and standardised": replace(stored, sinks="standardise"),
        "  and its mean subtracted": replace(stored, sinks="subtract"),
        f"  and taken {other}": replace(stored, delay=1 - stored.delay),
        "gradient x attention": MapOptions.stored(dict(model.about), "gradient"),
        "occlusion, 3 x 3 cells": MapOptions(explain="occlusion"),
        "occlusion, single cells": MapOptions(explain="occlusion", block=1),
    }
    before: Settings = {"attention, all heads": (plain, MapOptions(delay=stored.delay))}
    return before | {title: (model, options) for title, options in settings.items()}


def on_scenes(folder: Path, supervision: float, faithful: int, pictures: int) -> None:
    held_out = folder / "held-out"
    if not (held_out / "captions.jsonl").exists():
        write_scenes(held_out, count=0, dev=200, first_seed=1_000_000, size=SIZE)
    everything = read(held_out)
    records, ground_truth = of_split(everything, "dev")[:pictures], find_ground_truth(held_out, everything)
    for decoder in DECODERS:
        path = train(folder, decoder, supervision=supervision)
        print(f"{decoder}, map supervision {supervision}:", flush=True)
        scenes = folder / "scenes"
        chosen = path.with_name("chosen.safetensors")
        select_on_dev(path, chosen, scenes)
        model = load(chosen)
        print(f"  selected on dev: heads {model.model.config.decoder.map_heads}, {model.about['maps']}")
        report(records, ground_truth, settings_of(chosen), faithful)


def select_on_dev(path: Path, output: Path, data: Path) -> None:
    """Select heads and map options on the dev split, as `captioner select-heads` does."""
    everything = read(data)
    records, ground_truth = of_split(everything, "dev"), find_ground_truth(data, everything)
    model = load(path)
    outcomes = read_heads(model, records, ground_truth, captions=5, gradients=len(records))
    samples = [sample for outcome in outcomes if isinstance(outcome, list) for sample in outcome]
    selection = select(samples, model.model.decoder.map_heads, model.model.decoder.heads, data=f"{data.name} dev")
    made = checkpoint.Checkpoint(model=model.model, vocabulary=model.vocabulary, about=dict(model.about))
    checkpoint.save(output, with_selection(made, replace(selection, default="attention")))


def main() -> None:
    parser = argument_parser(__doc__)
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
    everything = read(arguments.data)
    ground_truth = find_ground_truth(arguments.data, everything)
    known = [record for record in of_split(everything, "dev") if ground_truth.knows(record)]
    records = known[: arguments.pictures]
    report(records, ground_truth, settings_of(arguments.model), arguments.faithful)


if __name__ == "__main__":
    main()
