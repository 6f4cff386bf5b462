"""What keeps a model from forgetting while it learns something new: a share of every step is of the rest.

Rehearsal (Robins 1995): pictures of other data, or drawn scenes where there are no other data, are mixed into each
step, and the dev score is taken on both, before the training and after every epoch. What is rehearsed are not their
references but the captions that the first model makes of them (sequence-level distillation, Kim and Rush 2016): a model
that was trained on a reward would lose what it gained.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from captioner.data.records import Record, evenly_spread
from captioner.errors import DataError
from captioner.partial import written_whole
from captioner.results import Caption
from captioner.training.inputs import checksum
from captioner.training.run_folder import read_log
from captioner.training.sizes import digest

_DRAWN, _DRAWN_DEV = 400, 60
_LEAST = 400  # pictures that are rehearsed, where there are so many


def drawn_rest(folder: Path) -> list[Record]:
    """Drawn scenes as the rest, in a run's folder; drawn once. The models that ship know them."""
    from captioner.data.readers import read
    from captioner.data.scenes import write_scenes

    scenes = folder / "scenes"
    captions = scenes / "captions.jsonl"
    if not captions.exists():  # it is written last
        write_scenes(scenes, count=_DRAWN, dev=_DRAWN_DEV, first_seed=7_000_000)
    return read(captions)


def as_first_captioned(
    rest: Sequence[Record], *, model: str, folder: Path, own: int, device: str = "auto"
) -> list[Record]:
    """The records of the rest, those of train with the first model's captions, at most twice as many as own ones.

    The captions are made once, and kept in ``rest.jsonl`` in the run's folder, whose first line says of which model and
    pictures they are. Pictures that do not open are left out.

    Args:
        rest: records of train and dev.
        model: the file of the first model.
        folder: of the run.
        own: how many own pictures there are.
        device: that the first model captions on, as `captioner.load` takes it.

    Raises:
        CheckpointError: the model does not load.
        DataError: ``rest.jsonl`` cannot be written.
    """
    train = evenly_spread([record for record in rest if record.split == "train"], max(_LEAST, 2 * own))
    file = folder / "rest.jsonl"
    made_of = {"model": checksum(Path(model)), "pictures": digest(str(record.image) for record in train)}
    captions = _captions_of(file, made_of)
    if captions is None:
        from captioner.pipeline import load

        outcomes = load(model, device=device).caption_all([record.image for record in train])
        captions = {
            str(record.image): outcome.text  # ids of two data sets may be alike
            for record, outcome in zip(train, outcomes, strict=True)
            if isinstance(outcome, Caption)
        }
        try:
            with written_whole(file) as partial:
                lines = [made_of, *captions.items()]
                partial.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        except OSError as error:
            raise DataError(f"{file}: cannot be written ({error.strerror or error})") from None
    kept = [replace(one, captions=(text,), boxes=()) for one in train if (text := captions.get(str(one.image)))]
    return [*kept, *(record for record in rest if record.split == "dev")]


def _captions_of(file: Path, made_of: dict[str, str]) -> dict[str, str] | None:
    """The captions of ``rest.jsonl``, by picture; None where it is not there, of something else, or damaged."""
    try:
        first, *pairs = map(json.loads, file.read_text(encoding="utf-8").splitlines())
        found = dict(pairs)
        if isinstance(first, list) and (file.parent / "state.safetensors").exists():
            return {**dict([first]), **found}  # of a run of an older version, which is resumed on the same
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    return found if first == made_of and all(isinstance(text, str) for text in found.values()) else None


def mixed_order(random: np.random.Generator, *, own: int, rest: int, batch: int, share: float) -> list[int]:
    """The pictures of an epoch, batch after batch: each has ``share`` of the rest, and the own come once each.

    Args:
        random: of the epoch.
        own, rest: how many pictures there are; the own ones have the first indices.
        batch: pictures of a batch.
        share: of the rest, above 0.
    """
    theirs = rest_of_batch(batch, share)
    mine = batch - theirs
    steps = -(-own // mine)
    first = random.permutation(own)
    others = np.concatenate([random.permutation(rest) for _ in range(-(-steps * theirs // rest))]) + own
    order: list[int] = []
    for step in range(steps):
        order += first[np.arange(step * mine, (step + 1) * mine) % own].tolist()
        order += others[step * theirs : (step + 1) * theirs].tolist()
    return order


def rest_of_batch(batch: int, share: float) -> int:
    """How many pictures of a batch are of the rest: at least one, and not all."""
    return min(batch - 1, max(1, round(batch * share)))


def before_and_after(folder: Path) -> str:
    """The dev scores of a run before and after, on its own pictures and on the rest, in a line; "" where the log has
    none."""
    ends = [line for line in read_log(folder) if isinstance(line.get("dev"), dict)]
    scores = [line for line in ends if "epoch" in line and {"cider", "rest_cider"} <= line["dev"].keys()]
    if len(scores) < 2 or scores[0]["epoch"] >= 0:
        return ""
    first, best = scores[0]["dev"], max(scores[1:], key=lambda line: both(line["dev"]))
    after = best["dev"]
    return (
        f"CIDEr of the dev pictures: {first['cider']:.3f} before, {after['cider']:.3f} after "
        f"(epoch {best['epoch'] + 1}); of the rest: {first['rest_cider']:.3f} before, {after['rest_cider']:.3f} after"
    )


def both(scores: dict[str, float]) -> float:
    """What a run with rehearsal is chosen by: CIDEr on its own dev pictures and on those of the rest."""
    return scores["cider"] + scores["rest_cider"]


def split_rest(rest: Sequence[Record], *, most_dev: int) -> tuple[list[Record], list[Record]]:
    """The records of the rest to train on, and those to score: at most so many, evenly spread; 0 for all."""
    train = [record for record in rest if record.split == "train"]
    dev = [record for record in rest if record.split == "dev"]
    return train, evenly_spread(dev, most_dev) if most_dev > 0 else dev
