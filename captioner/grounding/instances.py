"""Where things are in pictures: boxes and masks from COCO's instances format, and the boxes of captions' words."""

import contextlib
import io
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from captioner.data.records import Box, Record
from captioner.errors import DataError
from captioner.grounding.objects import NAMES, name_objects
from captioner.tokenizer.ptb import tokenize


@dataclass(frozen=True)
class Objects:
    """The annotated things of one picture.

    Attributes:
        size: (width, height) of the annotation's pixels, which need not be those of the file at hand.
        annotated: the classes that were looked for: that a class among these has no box means that there is none.
        boxes: for each class that is there, its boxes in fractions of the upright picture, crowds included.
    """

    size: tuple[int, int]
    annotated: frozenset[str]
    boxes: Mapping[str, tuple[Box, ...]]
    _annotations: Mapping[str, tuple[dict[str, Any], ...]]

    def mask(self, category: str) -> NDArray[np.bool_]:
        """Where the class is, (height, width) of `size`. A crowd without an outline counts with its box."""
        from pycocotools import mask as masks

        width, height = self.size
        union = np.zeros((height, width), dtype=np.bool_)
        for annotation in self._annotations.get(category, ()):
            outline = annotation.get("segmentation")
            if not outline:
                left, top, wide, high = annotation["bbox"]
                union[int(top) : round(top + high), int(left) : round(left + wide)] = True
                continue
            try:
                if isinstance(outline, list):
                    encoded = masks.merge(masks.frPyObjects(outline, height, width))
                elif isinstance(outline["counts"], list):
                    encoded = masks.frPyObjects(outline, height, width)
                else:
                    encoded = outline
                union |= masks.decode(encoded).astype(np.bool_)
            except (KeyError, TypeError, ValueError, IndexError) as error:
                raise DataError(f"annotation {annotation.get('id')}: its outline cannot be read ({error!r})") from None
        return union


class Instances:
    """The things of many pictures, by the pictures' file names.

    An image entry may say which classes were annotated: ``"instances": "all"``, the default, or the name of one
    class, "person".

    Raises:
        DataError: not in COCO's instances format.
    """

    def __init__(self, file: str | Path) -> None:
        self.file = Path(file)
        from pycocotools.coco import COCO

        try:
            with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports its progress there
                coco = COCO(str(self.file))
            names = {category["id"]: category["name"] for category in coco.cats.values()}
            everything = frozenset(names.values())
            self._images = {image["file_name"]: image for image in coco.imgs.values()}
            self._found: dict[int, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
            for annotation in coco.anns.values():
                _, _, wide, high = annotation["bbox"]
                if wide > 0 and high > 0:
                    self._found[annotation["image_id"]][names[annotation["category_id"]]].append(annotation)
        except OSError as error:
            raise DataError(f"{self.file}: cannot be read ({error.strerror})") from None
        except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
            raise DataError(f"{self.file}: not in COCO's instances format ({error!r})") from None
        if not everything & NAMES.keys():
            raise DataError(f"{self.file}: none of its categories is a class of COCO: {', '.join(sorted(everything))}")
        self._everything = everything

    def __len__(self) -> int:
        """Pictures that were annotated."""
        return len(self._images)

    def of(self, name: str) -> Objects | None:
        """The things of the picture with that file name; None where it was not annotated."""
        image = self._images.get(name)
        if image is None:
            return None
        width, height = int(image["width"]), int(image["height"])
        which = image.get("instances", "all")
        if which != "all" and which not in self._everything:
            raise DataError(f"{self.file}: the picture {name} has 'instances': '{which}', neither 'all' nor a class")
        annotated = self._everything if which == "all" else frozenset((which,))
        found = {c: tuple(a) for c, a in self._found.get(image["id"], {}).items() if c in annotated}
        boxes = {c: tuple(_fractions(a["bbox"], width, height) for a in some) for c, some in found.items()}
        boxes = {c: some for c, several in boxes.items() if (some := tuple(filter(_has_area, several)))}
        return Objects((width, height), annotated, boxes, found)

    @cached_property
    def images(self) -> frozenset[str]:
        """File names of the annotated pictures."""
        return frozenset(self._images)


def _fractions(box: list[float], width: int, height: int) -> Box:
    left, top, wide, high = box
    x0, y0 = min(max(left / width, 0.0), 1.0), min(max(top / height, 0.0), 1.0)
    return x0, y0, min(max((left + wide) / width, 0.0), 1.0), min(max((top + high) / height, 0.0), 1.0)


def _has_area(box: Box) -> bool:
    return box[0] < box[2] and box[1] < box[3]


def find_instances(captions: str | Path) -> Path | None:
    """The instances file that stands beside a file of captions: ``captions_x.json`` and ``instances_x.json``."""
    captions = Path(captions)
    beside = captions.with_name(captions.name.replace("captions", "instances", 1))
    return beside if beside != captions and beside.is_file() else None


def attach_boxes(records: Iterable[Record], instances: Instances) -> list[Record]:
    """The records with `Record.boxes` for each word that names an annotated thing of its picture.

    A word gets the boxes of all things of its class: which of three men is meant, nobody has said. Records that
    have boxes already keep them.
    """
    return [record if record.boxes else _with_boxes(record, instances) for record in records]


def _with_boxes(record: Record, instances: Instances) -> Record:
    objects = instances.of(record.image.name)
    if objects is None or not objects.boxes:
        return record
    boxes = tuple(
        {
            named.place: objects.boxes[named.category]
            for named in name_objects(tokenize(c))
            if named.category in objects.boxes
        }
        for c in record.captions
    )
    return replace(record, boxes=boxes) if any(boxes) else record
