"""Where objects are in pictures: COCO's instances format, and the boxes of captions' words from it.

A file is checked as a whole when it is read: a damaged one raises one DataError that names the file, the entry and
the remedy. The checks are stricter than those of pycocotools, which joins what does not fit without a word.
"""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from captioner.data.readers.rows import parse_json
from captioner.data.readers.text import read_text
from captioner.data.records import Box, Record
from captioner.errors import DataError
from captioner.grounding.objects import NAMES, name_objects
from captioner.grounding.segmentation import BORDER, check_segmentation, decode_segmentation, is_number
from captioner.image import MAX_PIXELS
from captioner.tokenizer.ptb import tokenize

if TYPE_CHECKING:
    from captioner.data.records import ShardPicture

_Json = dict[str, Any]


@dataclass(frozen=True)
class Objects:
    """The annotated objects of one picture.

    Attributes:
        size: (width, height) of the annotation's pixels; the picture's file may have another resolution.
        annotated: the classes that were annotated: one of these without a box is not in the picture.
        boxes: for each class that is there, its boxes in fractions of the upright picture, crowds included.
    """

    size: tuple[int, int]
    annotated: frozenset[str]
    boxes: Mapping[str, tuple[Box, ...]]
    _annotations: Mapping[str, tuple[_Json, ...]]
    _file: Path

    def mask(self, category: str) -> NDArray[np.bool_]:
        """The mask (height, width) of a class: the union of its objects.

        An object without outline, as crowds may be, counts with its box.

        Raises:
            DataError: an outline is damaged.
        """
        width, height = self.size
        union = np.zeros((height, width), dtype=np.bool_)
        for annotation in self._annotations.get(category, ()):
            segmentation = annotation.get("segmentation")
            if not segmentation:
                left, top, box_width, box_height = annotation["bbox"]
                rows = slice(max(int(top), 0), round(top + box_height))
                union[rows, max(int(left), 0) : round(left + box_width)] = True
                continue
            _check_outline(self._file, annotation, width, height)
            union |= decode_segmentation(segmentation, width, height)
        return union

    def check_masks(self) -> None:
        """Raise the DataError of `mask` for any class, before work starts."""
        for annotations in self._annotations.values():
            for annotation in annotations:
                _check_outline(self._file, annotation, *self.size)


class Instances:
    """The annotated objects of many pictures, from a file in COCO's instances format.

    An entry of "images" may name the classes that were annotated: ``"instances": "all"`` (the default), or the name
    of one class, ``"person"``.

    Args:
        file: the JSON file; may be gzipped.

    Attributes:
        without_area: how many annotations have a box of no width or height. They are left out; COCO's own files have
            a few.

    Raises:
        DataError: the file cannot be read, or is not in COCO's instances format.
    """

    def __init__(self, file: str | Path) -> None:
        self.file = Path(file)
        content = parse_json(read_text(self.file), path=self.file)
        if not isinstance(content, dict):
            raise self._error("not an object with 'images', 'categories' and 'annotations'", remedy=_FORMAT)
        names = self._read_categories(self._entries(content, "categories"))
        self._classes = frozenset(names.values())
        if not self._classes & NAMES.keys():
            raise self._error(
                f"none of its categories is a class of COCO: {', '.join(sorted(self._classes))[:200]}",
                remedy="rename them as COCO does ('person', 'dog', ...)",
            )
        images = self._read_images(self._entries(content, "images"))
        self._annotations, self.without_area = self._read_annotations(
            self._entries(content, "annotations"), images, names
        )
        self._by_base_name: dict[str, list[_Json]] = defaultdict(list)
        for image in images.values():
            self._by_base_name[PurePosixPath(image["file_name"]).name].append(image)
        self._count = len(images)

    def __len__(self) -> int:
        """The number of annotated pictures."""
        return self._count

    @property
    def classes(self) -> frozenset[str]:
        """The names of its categories."""
        return self._classes

    @cached_property
    def images(self) -> frozenset[str]:
        """The file names of the annotated pictures."""
        return frozenset(image["file_name"] for images in self._by_base_name.values() for image in images)

    def of(self, picture: "str | Path | ShardPicture") -> Objects | None:
        """The objects of a picture; None where it is not annotated.

        Args:
            picture: its path, or its name in a shard. An entry is the picture's where the parts of the entry's file
                name are the last parts of this path; of several such entries the longest.
        """
        image = self._find(picture)
        if image is None:
            return None
        width, height = int(image["width"]), int(image["height"])
        which = image.get("instances", "all")
        annotated = self._classes if which == "all" else frozenset((which,))
        annotations = {c: tuple(a) for c, a in self._annotations.get(image["id"], {}).items() if c in annotated}
        boxes = {c: tuple(_fractions(a["bbox"], width, height) for a in some) for c, some in annotations.items()}
        return Objects((width, height), annotated, boxes, annotations, self.file)

    def entry_of(self, picture: "str | Path | ShardPicture") -> Hashable:
        """The id of the entry that `of` takes for a picture; None where there is none."""
        image = self._find(picture)
        return None if image is None else image["id"]

    def _find(self, picture: "str | Path | ShardPicture") -> _Json | None:
        path = picture.as_posix() if isinstance(picture, Path) else str(getattr(picture, "name", picture))
        parts = PurePosixPath(path).parts
        best: tuple[int, _Json] | None = None
        for image in self._by_base_name.get(parts[-1] if parts else "", ()):
            own = PurePosixPath(image["file_name"]).parts
            if parts[-len(own) :] == own and (best is None or len(own) > best[0]):
                best = len(own), image
        return best[1] if best else None

    # Reading

    def _error(self, message: str, *, remedy: str) -> DataError:
        return DataError(f"{self.file}: {message}", remedy=remedy)

    def _entries(self, content: _Json, key: str) -> list[_Json]:
        entries = content.get(key)
        if not isinstance(entries, list):
            raise self._error(f"not in COCO's instances format: it has no list of '{key}'", remedy=_FORMAT)
        for i, entry in enumerate(entries):
            if not isinstance(entry, dict):
                raise self._error(f"entry {i} of '{key}' is not an object: {str(entry)[:40]}", remedy=_FORMAT)
            if not _is_id(entry.get("id")):
                raise self._error(
                    f"entry {i} of '{key}' has the id {str(entry.get('id'))[:40]}", remedy="give it an integer id"
                )
        return entries

    def _by_id(self, entries: list[_Json], what: str) -> dict[Hashable, _Json]:
        found: dict[Hashable, _Json] = {}
        for entry in entries:
            if found.setdefault(entry["id"], entry) is not entry:
                raise self._error(f"two {what} have the id {entry['id']}", remedy="give each its own id")
        return found

    def _read_categories(self, entries: list[_Json]) -> dict[Hashable, str]:
        for entry in entries:
            if not isinstance(entry.get("name"), str) or not entry["name"].strip():
                raise self._error(f"category {entry['id']} has no 'name'", remedy="name it as COCO does")
        return {key: entry["name"] for key, entry in self._by_id(entries, "categories").items()}

    def _read_images(self, entries: list[_Json]) -> dict[Hashable, _Json]:
        names: dict[str, Hashable] = {}
        for image in entries:
            place = f"image {image['id']}"
            name = image.get("file_name")
            if not isinstance(name, str) or not PurePosixPath(name).name:
                raise self._error(f"{place} has no 'file_name'", remedy="give it the name of the picture's file")
            for side in ("width", "height"):
                value: Any = image.get(side)
                if not is_number(value) or value < 1 or value != int(value):
                    raise self._error(
                        f"{place} ({name}) has the {side} {str(value)[:40]}",
                        remedy="give it the size in pixels of the picture that was annotated",
                    )
            if image["width"] * image["height"] > MAX_PIXELS:  # a mask of it would fill the memory
                raise self._error(
                    f"{place} ({name}) has {image['width']:.6g} x {image['height']:.6g} pixels, beyond {MAX_PIXELS:,}",
                    remedy="give it the size in pixels of the picture that was annotated",
                )
            which = image.get("instances", "all")
            if which != "all" and (not isinstance(which, str) or which not in self._classes):
                raise self._error(
                    f"{place} ({name}) has 'instances': '{str(which)[:40]}'",
                    remedy="write 'all', or the name of one of its categories",
                )
            if names.setdefault(name, image["id"]) != image["id"]:
                raise self._error(
                    f"images {names[name]} and {image['id']} have the file name {name}", remedy="keep one of them"
                )
        return self._by_id(entries, "images")

    def _read_annotations(
        self, entries: list[_Json], images: dict[Hashable, _Json], names: dict[Hashable, str]
    ) -> tuple[dict[Hashable, dict[str, list[_Json]]], int]:
        self._by_id(entries, "annotations")
        found: dict[Hashable, dict[str, list[_Json]]] = defaultdict(lambda: defaultdict(list))
        without_area = 0
        for annotation in entries:
            place = f"annotation {annotation['id']}"
            for key, known in (("image_id", images), ("category_id", names)):
                value = annotation.get(key)
                if not _is_id(value) or value not in known:
                    where = "images" if key == "image_id" else "categories"
                    raise self._error(
                        f"{place} has the {key} {str(value)[:40]}, which is not in '{where}'",
                        remedy=f"remove the annotation, or add the entry to '{where}'",
                    )
            image = images[annotation["image_id"]]
            wrong = _check_box(annotation.get("bbox"), image["width"], image["height"])
            if wrong:
                raise self._error(
                    f"{place} (of {image['file_name']}): {wrong}",
                    remedy="a bbox is [left, top, width, height] in pixels, inside the picture: mend or remove it",
                )
            if annotation["bbox"][2] > 0 and annotation["bbox"][3] > 0:
                found[image["id"]][names[annotation["category_id"]]].append(annotation)
            else:
                without_area += 1
        return found, without_area


_FORMAT = "give COCO's instances_*.json, an object with the lists 'images', 'categories' and 'annotations'"


def _is_id(value: Any) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool)


def _check_box(box: Any, width: int, height: int) -> str:
    """What is wrong with a box [left, top, width, height] in pixels; "" where nothing is."""
    if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)):
        return f"its bbox is not 4 finite numbers: {str(box)[:60]}"
    left, top, box_width, box_height = box
    if box_width < 0 or box_height < 0:
        return f"its bbox {box} has a negative size"
    right, bottom = left + box_width, top + box_height
    if min(left, top) < -BORDER or right > width + BORDER or bottom > height + BORDER:
        return f"its bbox {box} lies outside the picture of {width} x {height} pixels"
    if box_width and box_height and (left >= width or top >= height or right <= 0 or bottom <= 0):
        return f"its bbox {box} lies outside the picture of {width} x {height} pixels"
    return ""


def _check_outline(file: Path, annotation: _Json, width: int, height: int) -> None:
    wrong = check_segmentation(annotation.get("segmentation"), width, height)
    if wrong:
        raise DataError(
            f"{file}: annotation {annotation['id']}: {wrong}", remedy="mend its segmentation, or measure without masks"
        )


def _fractions(box: list[float], width: int, height: int) -> Box:
    left, top, box_width, box_height = box
    x0, y0 = min(max(left / width, 0.0), 1.0), min(max(top / height, 0.0), 1.0)
    return x0, y0, min(max((left + box_width) / width, 0.0), 1.0), min(max((top + box_height) / height, 0.0), 1.0)


def find_instances(captions: str | Path) -> Path | None:
    """The instances file beside a file of captions: ``instances_x.json`` for ``captions_x.json``; None without one.

    Either may be gzipped.
    """
    captions = Path(captions)
    if "captions" not in captions.name:
        return None
    name = captions.name.replace("captions", "instances", 1)
    plain = name.removesuffix(".gz")
    for candidate in dict.fromkeys((name, plain, f"{plain}.gz")):
        beside = captions.with_name(candidate)
        if beside.is_file():
            return beside
    return None


def attach_boxes(records: Iterable[Record], instances: Instances) -> list[Record]:
    """The records with `Record.boxes` for each word that names an annotated object of its picture.

    A word gets the boxes of all objects of its class: the annotations do not tell which of three men is meant.
    Records that have boxes keep them.

    Raises:
        DataError: two pictures fit the same entry of the instances.
    """
    records = list(records)
    refuse_ambiguous(records, instances)
    return [record if record.boxes else _with_boxes(record, instances) for record in records]


def refuse_ambiguous(records: Iterable[Record], instances: Instances) -> None:
    """Make sure that no two pictures fit one entry of the instances.

    Raises:
        DataError: two do, as train/a.jpg and val/a.jpg both fit an entry "a.jpg".
    """
    owners: dict[Hashable, object] = {}
    for record in records:
        entry = instances.entry_of(record.image)
        if entry is not None and (other := owners.setdefault(entry, record.image)) != record.image:
            raise DataError(
                f"{instances.file}: image {entry} fits both {other} and {record.image}",
                remedy="put the folder into its file_name, or rename one of the pictures",
            )


def _with_boxes(record: Record, instances: Instances) -> Record:
    objects = instances.of(record.image)
    if objects is None or not objects.boxes:
        return record
    boxes = tuple(
        {
            named.position: objects.boxes[named.category]
            for named in name_objects(tokenize(caption))
            if named.category in objects.boxes
        }
        for caption in record.captions
    )
    return replace(record, boxes=boxes) if any(boxes) else record
