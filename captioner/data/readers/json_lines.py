"""JSON lines: an object on each line, with a picture and its ``caption``, or the list of its ``captions``."""

from captioner.data.readers.formats import READERS, Entry, Format, Source, grouped
from captioner.data.readers.rows import first_line, json_rows


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
        return grouped(json_rows(source.path, source.text))
