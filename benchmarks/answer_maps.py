"""Does the map of an answer lie on what it names? By COCO's boxes, beside the centre of the picture.

    python benchmarks/answer_maps.py --questions questions.jsonl --images DIR --instances instances.json \
        [--split dev] [--model answers]

Two kinds of answers count, where the picture has boxes of the class: those that name one of COCO's classes, and "yes"
to a question that names one. A map points at a class if its largest cell has its centre in one of the boxes.
"""

from collections import defaultdict
from pathlib import Path

import numpy as np
from set_up import argument_parser

from captioner.asking import load_answering
from captioner.data.readers import read
from captioner.data.records import of_split
from captioner.errors import CaptionerError
from captioner.geometry import Geometry
from captioner.grounding.bootstrap import bootstrap_means
from captioner.grounding.instances import Instances
from captioner.grounding.objects import name_objects
from captioner.grounding.region import CellRegion, Region
from captioner.results import Answer
from captioner.tokenizer.ptb import tokenize
from captioner.tokenizer.questions import question_words


def classes_of(answer: Answer) -> tuple[str, list[str]]:
    """The kind of an answer, and the classes of COCO that its map should point at."""
    if answer.text == "yes":
        return 'a "yes" to a class', [one.category for one in name_objects(question_words(answer.question))]
    return "an answer that names a class", [one.category for one in name_objects(tokenize(answer.text))]


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
    parser.add_argument("--split", default="dev")
    parser.add_argument("--model", default="answers")
    options = parser.parse_args()
    model, instances = load_answering(options.model), Instances(options.instances)
    found: dict[str, list[tuple[str, float, float]]] = defaultdict(list)
    left_out = 0
    for record in of_split(read(options.questions, images=options.images), options.split):
        objects = instances.of(record.image) if record.questions else None
        if objects is None:
            continue
        try:
            encoded = model.encode(record.image)
        except CaptionerError:
            left_out += 1
            continue
        for asked in record.questions:
            try:
                answer = model.ask(encoded, asked.text)
            except CaptionerError:  # a question of unknown words
                continue
            kind, classes = classes_of(answer)
            for name in classes:
                if boxes := objects.boxes.get(name, ()):
                    region = CellRegion.of(Region.of_boxes(boxes), answer.geometry)
                    values = (region.pointing(answer.map), region.pointing(centre(answer.geometry)))
                    found[kind].append((record.id, *values))
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
