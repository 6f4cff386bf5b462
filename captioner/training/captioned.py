"""The captions and objects of the pictures that questions are about, from sets of captions."""

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from captioner.data.readers import caption_file, read
from captioner.data.records import Boxes, Record, ShardPicture, of_split, refuse_leaks
from captioner.errors import DataError
from captioner.grounding.instances import Instances, find_instances, refuse_ambiguous


def add_captions(records: Sequence[Record], paths: Sequence[Path]) -> list[Record]:
    """Records with questions, and the captions and annotated objects of the same pictures.

    Pictures are the same where their paths lead to the same file. Of the sets of captions the training split alone is
    used; their pictures without questions are added at the end.

    Args:
        records: of all splits.
        paths: sets of captions, as `captioner.data.readers.read` takes them, with COCO's instances beside them or not.

    Raises:
        DataError: a set cannot be read, or a picture of its training split is in another split of ``records``.
    """
    joined = {_place(record): record for record in records}
    for path in paths:
        found = of_split(read(path), "train")
        refuse_leaks((record for record in records if record.split), found)
        for record in _with_objects(found, path):
            old = joined.get(_place(record))
            if old is None or not old.split:
                joined[_place(record)] = record
            elif old.split != "train":
                raise DataError(
                    f"{record.image} is in the splits '{old.split}' and 'train' of {path}", remedy="keep it in one"
                )
            else:
                objects = old.objects if record.objects is None else record.objects
                joined[_place(record)] = replace(
                    old, captions=old.captions + record.captions, boxes=_boxes_of(old, record), objects=objects
                )
    return list(joined.values())


def _boxes_of(*records: Record) -> tuple[Mapping[int, Boxes], ...]:
    """One mapping for each caption of the records together, or none at all."""
    if not any(record.boxes for record in records):
        return ()
    return tuple(boxes for record in records for boxes in record.boxes or [{}] * len(record.captions))


def _place(record: Record) -> str:
    return str(record.image) if isinstance(record.image, ShardPicture) else os.path.realpath(record.image)


def _with_objects(records: list[Record], path: Path) -> Iterable[Record]:
    """The records with `Record.objects` from the instances beside their captions; as they are where there are none."""
    file = None
    with contextlib.suppress(DataError):  # a format without a file of captions, such as shards
        file = find_instances(caption_file(path))
    if file is None:
        return records
    instances = Instances(file)
    refuse_ambiguous(records, instances)
    found = []
    for record in records:
        known = instances.of(record.image)
        objects = None if known is None else {name: known.boxes.get(name, ()) for name in known.annotated}
        found.append(replace(record, objects=objects))
    return found
