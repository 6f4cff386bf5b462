r"""Find the truest way to read a model's maps: which heads, what is done about sinks, one step of delay or none.

    python -m captioner.grounding.select_heads \
        runs/first/best.safetensors --data coco/ --output checkpoints/default.safetensors

Reads reference captions of the dev split to the model and holds every candidate against where things are, see
`captioner.grounding.pointing`. The heads go into the model's configuration, what is done to their maps into what the
file says about itself; `Captioner` follows both. A candidate must be clearly truer than the plain maps to be taken.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from captioner import checkpoint
from captioner.data.readers import read
from captioner.data.records import Record, of_split, usable
from captioner.errors import CaptionerError, DataError
from captioner.explain.maps import SINKS, MapReading, attention_heads, encode, finish, gradient_steps, pad_tokens
from captioner.grounding.ground_truth import Truth, find_truth
from captioner.grounding.pointing import Figure, Target, bootstrap_means
from captioner.model.lstm import LSTMConfig
from captioner.pipeline import Captioner

CLEARLY = 0.01
"""A reading must be so much better than the plain one, and gradients twice so much better than attention; half as much
does not count where one is simpler."""


@dataclass(frozen=True, eq=False)
class Case:
    """A caption that was read, and its nouns.

    Attributes:
        picture: its id.
        heads: (H, n + 1, h, w), the attention of each head of each layer at each step.
        gradient: (n + 1, h, w), see `captioner.explain.maps.gradient_steps`; None where they were not asked for.
        targets: by a noun's place, what it names.
    """

    picture: str
    heads: NDArray[np.float16]
    gradient: NDArray[np.float32] | None
    targets: dict[int, Target]


@dataclass(frozen=True)
class Candidate:
    """A way to read maps; ``heads`` count through all layers and are of no matter for gradients."""

    reading: MapReading
    heads: tuple[int, ...]

    def __str__(self) -> str:
        if self.reading.explain != "attention":
            return f"{self.reading.explain} (on fewer pictures), sinks {self.reading.sinks}"
        return f"heads {','.join(map(str, self.heads))}, sinks {self.reading.sinks}, delay {self.reading.delay}"


@dataclass(frozen=True)
class Score:
    """Pointing and mass of a candidate, with their intervals."""

    pointing: Figure
    mass: Figure

    @property
    def value(self) -> float:
        """What candidates are compared by: the mean of both, for a map is to peak on the thing and to stay there."""
        return (self.pointing.value + self.mass.value) / 2

    def as_dict(self) -> dict[str, Any]:
        return {
            name: {"value": round(f.value, 4), "interval": [round(f.interval.low, 4), round(f.interval.high, 4)]}
            for name, f in (("pointing", self.pointing), ("mass", self.mass))
        }


def collect(
    model: Captioner,
    records: Sequence[Record],
    truth: Truth,
    *,
    captions: int,
    gradients: int,
    advance: Callable[[], None] = lambda: None,
) -> Iterator[Case]:
    """Read captions to the model and keep all that its heads looked at.

    Args:
        model: ready to caption.
        records: of which the truth knows something; their pictures must open.
        truth: where things are.
        captions: at most so many of each picture.
        gradients: of the first so many pictures, gradients as well: they take most of the time.
        advance: called for each picture.
    """
    for number, record in enumerate(records):
        split = [model.split(text) for text in record.captions[:captions]]
        places = [[place for place in truth.places(record, words) if place.region is not None] for words in split]
        useful = [i for i, some in enumerate(places) if some]
        advance()
        if not useful:
            continue
        prepared = model.prepare(record.image)
        grid = encode(model.model, np.stack([prepared.pixels]), [prepared.geometry])
        ids = [model.vocabulary.encode(split[i])[1:-1] for i in useful]
        reads, says = pad_tokens([ids], model.device)
        heads = attention_heads(model.model.decoder, grid, reads).half().cpu().numpy()
        gradient = (
            gradient_steps(model.model.decoder, grid, reads, says)[1].cpu().numpy() if number < gradients else None
        )
        for row, i in enumerate(useful):
            steps = len(split[i]) + 1
            yield Case(
                picture=record.id,
                heads=heads[row, :, :steps],
                gradient=None if gradient is None else gradient[row, :steps],
                targets={p.word: Target.of(p.region, prepared.geometry) for p in places[i] if p.region is not None},
            )


def score(cases: Sequence[Case], candidate: Candidate, *, resamples: int = 200) -> Score:
    """What a candidate scores on the cases that have what it needs."""
    rows, pictures = [], []
    for case in cases:
        if candidate.reading.explain == "gradient":
            if case.gradient is None:
                continue
            steps = case.gradient
        else:
            steps = case.heads[list(candidate.heads)].astype(np.float32).mean(0)
        valid = next(iter(case.targets.values())).valid
        maps = finish(steps, valid, candidate.reading)
        for word, target in case.targets.items():
            rows.append((target.pointing(maps[word]), target.mass(maps[word])))
            pictures.append(case.picture)
    pointing, mass = bootstrap_means(np.array(rows), pictures, resamples)
    return Score(pointing, mass)


def candidate_heads(cases: Sequence[Case], plain: tuple[int, ...], per_layer: int) -> list[tuple[int, ...]]:
    """Sets of heads to try: the plain one, all, each layer, and the best few as they point on their own."""
    count = len(cases[0].heads)
    alone = {i: score(cases, Candidate(MapReading(), (i,)), resamples=1) for i in range(count)}
    order = sorted(alone, key=lambda i: -alone[i].value)
    sets = [plain, tuple(range(count))]
    sets += [tuple(range(first, first + per_layer)) for first in range(0, count, per_layer)]
    sets += [tuple(sorted(order[:most])) for most in (1, 2, 3, 4, count // 2) if most]
    return list(dict.fromkeys(sets))


def choose(
    cases: Sequence[Case], plain: tuple[int, ...], per_layer: int
) -> tuple[Candidate, Candidate | None, dict[Candidate, Score]]:
    """The best candidate of attention, that of gradients where there are any, and what each scored.

    Heads and what is done to their maps are chosen together; gradients are compared on the cases that have them.
    """
    tried: dict[Candidate, Score] = {}
    first = Candidate(MapReading(), plain)
    for heads in candidate_heads(cases, plain, per_layer):
        for sinks in SINKS:
            for delay in (0, 1):
                candidate = Candidate(MapReading(sinks=sinks, delay=delay), heads)
                tried[candidate] = score(cases, candidate)
    highest = max(found.value for found in tried.values())
    near = [candidate for candidate in tried if tried[candidate].value >= highest - CLEARLY / 2]
    # What is done to maps afterwards takes another pass of the decoder: not for what may be chance.
    best = max(near, key=lambda candidate: (candidate.reading.plain, tried[candidate].value))
    if tried[best].value < tried[first].value + CLEARLY:
        best = first
    some = [case for case in cases if case.gradient is not None]
    if not some:
        return best, None, tried
    gradients = [Candidate(MapReading(explain="gradient", sinks=sinks), ()) for sinks in SINKS]
    tried |= {candidate: score(some, candidate) for candidate in gradients}
    return best, max(gradients, key=lambda candidate: tried[candidate].value), tried


def with_reading(
    model: checkpoint.Checkpoint, best: Candidate, gradient: Candidate | None, measured: dict[str, Any], *, default: str
) -> checkpoint.Checkpoint:
    """The model with the chosen reading in its configuration and in what it says about itself."""
    config = model.model.config.decoder
    model.model.make_maps_of(
        best.heads if isinstance(config, LSTMConfig) else [divmod(head, config.heads) for head in best.heads]
    )
    readings = {"attention": best.reading} | ({"gradient": gradient.reading} if gradient else {})
    stored = MapReading.as_stored(readings[default], *readings.values())
    return replace(model, about={**model.about, "maps": stored, "maps_measured": measured})


def plain_heads(model: checkpoint.Checkpoint) -> tuple[tuple[int, ...], int]:
    """The heads that the model's configuration makes maps of, counted through all layers, and heads of a layer."""
    config = model.model.config.decoder
    if isinstance(config, LSTMConfig):
        return config.read_heads(), config.heads
    return tuple(layer * config.heads + head for layer, head in config.read_heads()), config.heads


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m captioner.grounding.select_heads",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", type=Path, help="the model file")
    parser.add_argument("--data", type=Path, required=True, help="captions of whose things the places are known")
    parser.add_argument("--split", default="dev", help="which pictures (default dev)")
    parser.add_argument("--pictures", type=int, default=1000, help="at most so many (default 1000)")
    parser.add_argument("--captions", type=int, default=5, help="of each picture, at most (default 5)")
    parser.add_argument(
        "--gradients", type=int, default=200, help="pictures for which gradients are tried (default 200)"
    )
    parser.add_argument("--output", type=Path, required=True, help="the model file to write; may be the same")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    try:
        _choose_and_write(arguments)
    except CaptionerError as error:
        print(f"maps: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def _choose_and_write(arguments: argparse.Namespace) -> None:
    model = checkpoint.load(arguments.model)
    truth = find_truth(arguments.data)
    known = [record for record in of_split(read(arguments.data), arguments.split) if truth.knows(record)]
    records, _ = usable(known[: arguments.pictures])
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        if done % 50 == 0:
            print(f"read  {done}/{len(records)}", file=sys.stderr, flush=True)

    cases = list(
        collect(
            Captioner(model),
            records,
            truth,
            captions=arguments.captions,
            gradients=arguments.gradients,
            advance=advance,
        )
    )
    if not cases:
        raise DataError(
            f"{arguments.data}: no caption of the split '{arguments.split}' names a thing with a known place"
        )
    plain, per_layer = plain_heads(model)
    best, gradient, tried = choose(cases, plain, per_layer)
    for candidate in sorted(tried, key=lambda c: -tried[c].value):
        print(_line(candidate, tried[candidate]), file=sys.stderr)
    default = "attention"
    some = [case for case in cases if case.gradient is not None]
    if gradient is not None and tried[gradient].value > score(some, best).value + 2 * CLEARLY:
        default = "gradient"
    before = tried[Candidate(MapReading(), plain)]
    measured = {
        "on": f"{arguments.data.name} {arguments.split}, references read",
        "pictures": len({case.picture for case in cases}),
        "nouns": sum(len(case.targets) for case in cases),
        "plain": before.as_dict(),
        "attention": {"heads": list(best.heads), **asdict(best.reading), **tried[best].as_dict()},
        **(
            {
                "gradient": {
                    "pictures": len({case.picture for case in some}),
                    **asdict(gradient.reading),
                    **tried[gradient].as_dict(),
                    "attention_there": score(some, best).as_dict(),
                }
            }
            if gradient
            else {}
        ),
        "default": default,
    }
    checkpoint.save(arguments.output, with_reading(model, best, gradient, measured, default=default))
    print(json.dumps(measured))


def _line(candidate: Candidate, found: Score) -> str:
    return f"pointing {found.pointing.value:6.1%}  mass {found.mass.value:6.1%}  {candidate}"


if __name__ == "__main__":
    sys.exit(main())
