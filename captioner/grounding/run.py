"""Hold a model's maps against where things are: the part of `captioner ground` that runs the model.

What is measured, and what it means, is in `captioner.grounding.pointing` and `captioner.grounding.deletion`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from captioner.data.records import Record
from captioner.decoding import Greedy
from captioner.errors import ImageError
from captioner.explain.maps import MapReading, log_probabilities
from captioner.explain.occlusion import blurred, mean_colour, occlude, orders_of
from captioner.grounding.deletion import LEVELS, Trial
from captioner.grounding.ground_truth import Place, Truth
from captioner.grounding.pointing import Aim, Mention, aim
from captioner.model.decoder import UNKNOWN
from captioner.pipeline import Captioner
from captioner.results import Caption, Failure

SOURCES = ("written", "references")
_RANDOM_ORDERS = 2
_BOX_COLOUR = (0, 200, 255)

OnError = Callable[[Record, ImageError], None]


@dataclass(frozen=True, eq=False)
class Grounded:
    """A caption, and what its nouns scored.

    Attributes:
        record: the picture.
        source: "written" by the model, or one of the "references" that it read.
        caption: with its maps.
        places: the nouns whose things are in the picture.
        mentions, aims: of each of ``places``.
        absent: nouns whose things were looked for and are not there.
    """

    record: Record
    source: str
    caption: Caption
    places: tuple[Place, ...]
    mentions: tuple[Mention, ...]
    aims: tuple[Aim, ...]
    absent: int


def ground(
    model: Captioner,
    records: Sequence[Record],
    truth: Truth,
    *,
    sources: Sequence[str] = SOURCES,
    explain: str | MapReading | None = None,
    options: Greedy | None = None,
    batch: int = 16,
    on_error: OnError | None = None,
    advance: Callable[[], None] = lambda: None,
) -> Iterator[Grounded]:
    """Caption pictures, read their references to the model, and measure the maps of both.

    Args:
        model: ready to caption.
        records: pictures of which the truth knows something.
        truth: where things are.
        sources: which captions; see `SOURCES`.
        explain: what maps are made of, as of `Captioner.caption`.
        options: of decoding.
        batch: pictures that are captioned together.
        on_error: told of each picture that does not open; without it the error is raised.
        advance: called for each picture and source that is done.
    """
    if "written" in sources:
        for record, outcome in zip(
            records,
            model.caption_all([r.image for r in records], options=options, explain=explain, batch=batch),
            strict=True,
        ):
            advance()
            if isinstance(outcome, Failure):
                if on_error is None:
                    raise ImageError(str(outcome))
                on_error(record, ImageError(str(outcome)))
                continue
            yield measure(outcome, record, truth.places(record, [word.text for word in outcome.words]), "written")
    if "references" in sources:
        for record in records:
            try:
                yield from _read(model, record, truth, explain)
            except ImageError as error:
                if on_error is None:
                    raise
                if "written" not in sources:  # else it has been told
                    on_error(record, error)
            advance()


def _read(model: Captioner, record: Record, truth: Truth, explain: str | MapReading | None) -> Iterator[Grounded]:
    """The references of a picture that name something of which the truth knows."""
    split = [model.split(text) for text in record.captions]
    places = [truth.places(record, words) for words in split]
    useful = [i for i, some in enumerate(places) if some]
    if useful:
        captions = model.read(record.image, [record.captions[i] for i in useful], explain=explain)
        for i, caption in zip(useful, captions, strict=True):
            yield measure(caption, record, places[i], "references")


def measure(caption: Caption, record: Record, places: Sequence[Place], source: str) -> Grounded:
    """What the nouns of a caption score; ``places`` count its words."""
    there, mentions = [], []
    for place in places:
        if place.region is not None:
            same = {other.word for other in places if other.category == place.category}
            mentions.append(
                Mention(
                    picture=record.id,
                    category=place.category,
                    map=caption.words[place.word].map,
                    others=caption.maps[[i for i in range(len(caption.words)) if i not in same]],
                    geometry=caption.geometry,
                    region=place.region,
                )
            )
            there.append(place)
    return Grounded(
        record=record,
        source=source,
        caption=caption,
        places=tuple(there),
        mentions=tuple(mentions),
        aims=tuple(map(aim, mentions)),
        absent=len(places) - len(there),
    )


def try_out(model: Captioner, grounded: Grounded, *, seed: int = 0) -> list[Trial]:
    """Deletion and insertion curves of the nouns of a caption.

    Args:
        model: that the caption is of.
        grounded: the caption.
        seed: of the random orders, which all words of the caption share.
    """
    if not grounded.places:
        return []
    prepared = model.prepare(grounded.caption.source)
    pixels, geometry = prepared.pixels, prepared.geometry
    random = np.random.default_rng((seed, *grounded.record.id.encode()))
    counts = [round(level * int(geometry.mask.sum())) for level in LEVELS]
    orders: list[NDArray[np.float64]] = [random.random(geometry.grid) for _ in range(_RANDOM_ORDERS)]
    for place in grounded.places:
        # Cells of equal strength in random order, else an uninformative map would begin at the top left.
        strength = grounded.caption.words[place.word].map.astype(np.float64)
        orders.append(strength + 1e-12 * random.random(geometry.grid))
    gray, fog = mean_colour(pixels, geometry), blurred(pixels, geometry)
    # Nothing and everything are the same in every order, and encoded once.
    variants = [pixels, gray, fog]
    for order in orders:
        cells = orders_of(np.where(geometry.mask, order, -np.inf), counts)[1:-1]
        variants += [occlude(pixels, gray, some) for some in cells] + [occlude(fog, pixels, some) for some in cells]
    ids = model.vocabulary.encode([word.text for word in grounded.caption.words])[1:-1]
    found = np.exp(log_probabilities(model.model, variants, geometry, [ids])[:, 0, :-1].astype(np.float64))
    p = np.empty((2, len(orders), len(LEVELS), len(ids)))  # deletion and insertion, order, level, word
    p[0, :, 0], p[0, :, -1], p[1, :, 0], p[1, :, -1] = found[0], found[1], found[2], found[0]
    p[:, :, 1:-1] = found[3:].reshape(len(orders), 2, -1, len(ids)).swapaxes(0, 1)
    by_chance = p[:, :_RANDOM_ORDERS].mean(1)
    return [
        Trial(
            picture=grounded.record.id,
            deletion=p[0, _RANDOM_ORDERS + i, :, place.word],
            random_deletion=by_chance[0, :, place.word],
            insertion=p[1, _RANDOM_ORDERS + i, :, place.word],
            random_insertion=by_chance[1, :, place.word],
        )
        for i, place in enumerate(grounded.places)
        if ids[place.word] != UNKNOWN  # of a word that the model cannot say there is no probability
    ]


def worst(grounded: Sequence[Grounded], count: int) -> list[Caption]:
    """The captions with the nouns whose maps lie least on their things, each with the boxes drawn on its picture.

    A picture comes once. The caption's ``image`` also says which word it is about.
    """
    cases = [
        (score.mass[0], i, j)
        for i, of_caption in enumerate(grounded)
        for j, score in enumerate(of_caption.aims)
        if score.reachable and score.pointing[0] < 1
    ]
    found: dict[str, Caption] = {}
    for mass, i, j in sorted(cases):
        case = grounded[i]
        if case.record.id not in found:
            word = case.caption.words[case.places[j].word].text
            found[case.record.id] = replace(
                case.caption,
                image=f"{Path(case.caption.image).name}: '{word}', {mass:.0%} of its map inside",
                source=_with_outline(case.caption, case.mentions[j]),
            )
        if len(found) == count:
            break
    return list(found.values())


def _with_outline(caption: Caption, mention: Mention) -> Image.Image:
    """The picture with the borders of the mention's region drawn on it."""
    picture = caption.picture.copy()
    draw = ImageDraw.Draw(picture)
    width = max(2, round(max(picture.size) / 150))
    region = mention.region
    x, y = region.x * picture.width, region.y * picture.height
    # The border between inside and outside, edge by edge.
    padded = np.pad(region.inside, 1)
    for r, c in np.argwhere(padded[1:-1, 1:] != padded[1:-1, :-1]):
        draw.line((x[c], y[r], x[c], y[r + 1]), fill=_BOX_COLOUR, width=width)
    for r, c in np.argwhere(padded[1:, 1:-1] != padded[:-1, 1:-1]):
        draw.line((x[c], y[r], x[c + 1], y[r]), fill=_BOX_COLOUR, width=width)
    return picture
