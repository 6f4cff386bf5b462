"""Objects that captions name and that are not in the picture: CHAIR, over COCO's 80 classes.

Rohrbach et al. 2018, "Object Hallucination in Image Captioning", equations 1 and 2. CHAIR_i is the share of the objects
named that are not there, CHAIR_s the share of captions that name one. An object is there where it is annotated, or
where any of the people's captions names it, also to describe another ("bus driver"). Words are put to classes by our
own table, `captioner.grounding.objects`, which leaves out words of several meanings; figures of another table differ.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from captioner.data.readers import Id
from captioner.grounding.bootstrap import Estimate, bootstrap_means
from captioner.grounding.instances import Instances
from captioner.grounding.objects import classes_in, name_objects
from captioner.tokenizer.ptb import tokenize


@dataclass(frozen=True)
class Hallucination:
    """The CHAIR of a set of captions.

    Attributes:
        captions: how many there are, one for each picture.
        mentions: how many objects they name.
        chair_i, chair_s: see the module's text; ``chair_i`` is NaN where no object is named.
        wrong: for each class, how often it is named and not there, the most frequent first.
    """

    captions: int
    mentions: int
    chair_i: Estimate
    chair_s: Estimate
    wrong: Mapping[str, int]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; what has no value is None."""
        return {
            "captions": self.captions,
            "mentions": self.mentions,
            "chair_i": self.chair_i.as_dict(),
            "chair_s": self.chair_s.as_dict(),
            "wrong": dict(self.wrong),
        }

    def lines(self) -> list[str]:
        """The report for people."""
        shares = [
            f"{one.value:.1%}{f' ({between})' if (between := one.interval_text) else ''} {what}"
            for one, what in (
                (self.chair_s, f"of {self.captions:,} captions name what is not there (CHAIR_s)"),
                (self.chair_i, f"of {self.mentions:,} objects named are not there (CHAIR_i)"),
            )
            if np.isfinite(one.value)
        ]
        often = ", ".join(f"{name} {count}" for name, count in list(self.wrong.items())[:8])
        return [f"hallucination: {'; '.join(shares)}", *([f"named and not there: {often}"] if often else [])]


def fully_annotated(instances: Instances, names: Mapping[Id, str]) -> dict[Id, frozenset[str]]:
    """The classes that are in each picture where all classes were annotated, by the picture's id.

    Args:
        instances: the annotations.
        names: file names of pictures, by id.
    """
    found = {}
    for key, name in names.items():
        objects = instances.of(name)
        if objects is not None and objects.annotated == instances.classes:
            found[key] = frozenset(objects.boxes)
    return found


def hallucination(
    captions: Mapping[Id, str],
    references: Mapping[Id, Sequence[str]],
    present: Mapping[Id, frozenset[str]],
    *,
    classes: frozenset[str],
    resamples: int = 1000,
    seed: int = 0,
) -> Hallucination:
    """CHAIR of the captions of the pictures in ``present``.

    Args:
        captions: one for each picture, by id.
        references: people's captions by id: what they name is there.
        present: the annotated classes of each picture; see `fully_annotated`. At least one has a caption.
        classes: those that are annotated; objects of others are not counted.
        resamples, seed: of the intervals, which resample pictures.

    Raises:
        OptionError: ``resamples`` below 1.
    """
    keys = [key for key in captions if key in present]
    said: list[tuple[str, bool]] = []  # for each object named, its picture and whether it is not there
    liars: list[bool] = []
    wrong: Counter[str] = Counter()
    for number, key in enumerate(keys):
        there = present[key].union(*(classes_in(tokenize(reference)) for reference in references.get(key, ())))
        named = [name for name in _named(captions[key]) if name in classes]
        absent = [name for name in named if name not in there]
        wrong.update(absent)
        liars.append(bool(absent))
        said += [(str(number), name not in there) for name in named]

    def share(values: Sequence[bool], pictures: Sequence[str]) -> Estimate:
        return bootstrap_means(np.array(values, dtype=np.float64)[:, None], pictures, resamples, seed)[0]

    return Hallucination(
        captions=len(keys),
        mentions=len(said),
        chair_i=share([lie for _, lie in said], [picture for picture, _ in said]) if said else Estimate.unknown(),
        chair_s=share(liars, [str(number) for number in range(len(keys))]),
        wrong=dict(wrong.most_common()),
    )


def _named(caption: str) -> list[str]:
    return [found.category for found in name_objects(tokenize(caption))]
