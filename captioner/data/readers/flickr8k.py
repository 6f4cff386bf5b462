"""Flickr8k's token file: ``name.jpg#0``, tab, caption; the lists of its splits stand beside it."""

from captioner.data.readers.formats import READERS, Entry, Format, Source, grouped
from captioner.data.readers.rows import first_line, is_token_line, token_rows
from captioner.errors import DataError


@READERS.register("flickr8k")
class Flickr8k(Format):
    """``Flickr8k.token.txt``, also that of Flickr30k. Pictures that no list names are in no split."""

    patterns = ("*.token", "*.token.txt")
    split_lists = True
    distributed = False

    def recognises(self, source: Source) -> bool:
        if source.name.endswith((".token", ".token.txt")):
            return True
        return not source.is_json and is_token_line(first_line(source.text))

    def entries(self, source: Source) -> list[Entry]:
        rows = list(token_rows(source.path, source.text))
        places: dict[str, str] = {}
        for place, row in rows:
            first = places.setdefault(row["key"], place)
            if first is not place:
                raise DataError(f"{place}: a second caption with the id {row['key']!r}; the first is at {first}")
        return grouped(rows)
