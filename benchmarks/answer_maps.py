"""Does the map of an answer lie on what it names? By COCO's boxes, beside the centre of the picture.

    python benchmarks/answer_maps.py --questions questions.jsonl --images DIR --instances instances.json \
        [--captions coco/ ...] [--split dev] [--model answers]

Two kinds of answers count, where the picture has boxes of the class: those that name one of COCO's classes, and "yes"
to a question that names one. A map points at a class if its largest cell has its centre in one of the boxes.

With `--captions` the questions about objects that `captioner.training.made_questions` makes from the pictures' captions
are asked too, and counted apart: questions of people about pictures with boxes are few. One noun is asked for in
several forms, each of which counts; the intervals are of resampled pictures.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from set_up import argument_parser

from captioner.asking import load_answering
from captioner.data.readers import read
from captioner.data.records import Record, of_split
from captioner.errors import CaptionerError
from captioner.geometry import Geometry
from captioner.grounding.bootstrap import bootstrap_means
from captioner.grounding.instances import Instances
from captioner.grounding.objects import name_objects
from captioner.grounding.region import CellRegion, Region
from captioner.results import Answer
from captioner.tokenizer.ptb import tokenize
from captioner.tokenizer.questions import question_words
from captioner.training.made_questions import QuestionMaker, asked_words


def classes_of(answer: Answer) -> tuple[str, list[str]]:
    """The kind of an answer, and the classes of COCO that its map should point at."""
    if answer.text == "yes":
        return 'a "yes" to a class', [one.category for one in name_objects(question_words(answer.question))]
    return "an answer that names a class", [one.category for one in name_objects(tokenize(answer.text))]


def made_questions(
    questions: Sequence[Record], captioned: Sequence[Record], split: str
) -> Iterator[tuple[Record, str]]:
    """The questions about objects that the captions of the split make, with their pictures.

    Made as in training: the nouns that are asked for are answers of the training questions.
    """
    objects, places = asked_words(of_split(questions, "train"))
    train = [tokenize(caption) for record in of_split(captioned, "train") for caption in record.captions]
    maker = QuestionMaker(objects=objects, places=places, captions=train)
    for record in of_split(captioned, split):
        for caption in record.captions:
            for made in maker.make(tokenize(caption)):
                if made.kind == "object":
                    yield record, " ".join(made.words)


def centre(geometry: Geometry) -> np.ndarray:
    """A map (h, w) of the middle of the picture."""
    height, width = geometry.grid
    down, right = (((np.arange(size) + 0.5) / size - 0.5) ** 2 for size in (height, width))
    return np.asarray(-(down[:, None] + right[None]))


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--questions", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--instances", type=Path, required=True)
    parser.add_argument("--captions", type=Path, nargs="+", default=[])
    parser.add_argument("--split", default="dev")
    parser.add_argument("--model", default="answers")
    options = parser.parse_args()
    model, instances = load_answering(options.model), Instances(options.instances)
    questions = list(read(options.questions, images=options.images))
    captioned = [record for source in options.captions for record in read(source)]
    pictures: dict[str, Any] = {}
    asked: dict[str, dict[str, bool]] = defaultdict(dict)  # of each picture, its questions and whether they are made
    own = ((record, one.text) for record in of_split(questions, options.split) for one in record.questions)
    made = made_questions(questions, captioned, options.split)
    for is_made, pairs in ((False, own), (True, made)):
        for record, text in pairs:
            name = str(record.image.resolve() if isinstance(record.image, Path) else record.image)
            pictures.setdefault(name, record.image)
            asked[name].setdefault(text, is_made)
    found: dict[str, list[tuple[str, float, float]]] = defaultdict(list)
    left_out = 0
    for name, texts in asked.items():
        objects = instances.of(pictures[name])
        if objects is None:
            continue
        try:
            encoded = model.encode(pictures[name])
        except CaptionerError:
            left_out += 1
            continue
        for text, is_made in texts.items():
            try:
                answer = model.ask(encoded, text)
            except CaptionerError:  # a question of unknown words
                continue
            kind, classes = classes_of(answer)
            for category in classes:
                if boxes := objects.boxes.get(category, ()):
                    region = CellRegion.of(Region.of_boxes(boxes), answer.geometry)
                    values = (region.pointing(answer.map), region.pointing(centre(answer.geometry)))
                    found[f"{kind}, to a made question" if is_made else kind].append((name, *values))
    if left_out:
        print(f"{left_out} pictures do not open")
    for kind, rows in sorted(found.items()):
        estimates = bootstrap_means(np.array([row[1:] for row in rows]), [row[0] for row in rows])
        ours, middle = (
            f"{100 * one.value:.1f}% ({100 * one.interval.low:.0f} to {100 * one.interval.high:.0f})"
            for one in estimates
        )
        print(f"{kind}: {ours} of {len(rows)}, the centre {middle}")


if __name__ == "__main__":
    main()
