"""JSON lines: an object on each line, with a picture and its ``caption``, or the list of its ``captions``."""

from collections.abc import Iterable
from typing import Any

from captioner.data.readers.formats import READERS, Entry, Format, Source, grouped
from captioner.data.readers.rows import Row, first_line, json_rows


@READERS.register("json lines")
class JsonLines(Format):
    """``captions.jsonl``, with ``split`` and ``boxes`` where they are there; lines of a picture are put together."""

    patterns = ("captions.jsonl", "captions.ndjson")
    split_lists = True

    def recognises(self, source: Source) -> bool:
        if source.name.endswith((".jsonl", ".ndjson")):
            return True
        return not source.is_json and first_line(source.text).startswith("{")

    def entries(self, source: Source) -> list[Entry]:
        return grouped(finished(json_rows(source.path, source.text)))


def finished(rows: Iterable[Row]) -> list[Row]:
    """Of the rows that ``captioner review`` wrote, the last of each picture, and none that is flagged or a draft. Other
    rows stay."""
    last: dict[object, Row] = {}
    for i, (place, row) in enumerate(rows):
        key = ("image", str(row.get("image"))) if "status" in row and "original" in row else i
        last[key] = place, row
    return [(place, row) for place, row in last.values() if not _is_open(row)]


def _is_open(row: dict[str, Any]) -> bool:
    return "original" in row and row.get("status") in ("flagged", "draft")
