"""Flickr8k's token file: ``name.jpg#0``, tab, caption; the lists of its splits stand beside it."""

from captioner.data.readers.formats import READERS, Entry, Format, Source
from captioner.data.readers.rows import first_line, is_token_line, token_lines
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
        keys: dict[str, int] = {}
        captions: dict[str, list[str]] = {}
        first: dict[str, int] = {}
        for number, key, picture, caption in token_lines(source.path, source.text):
            if keys.setdefault(key, number) != number:
                raise DataError(
                    f"{source.path}, line {number}: a second caption with the id {key!r}; the first is on line "
                    f"{keys[key]}",
                    remedy="give each its own number",
                )
            group = captions.get(picture)
            if group is None:
                first[picture], group = number, captions.setdefault(picture, [])
            group.append(caption)
        return [
            Entry(place=f"{source.path}, line {first[picture]}", id=picture, image=picture, captions=tuple(group))
            for picture, group in captions.items()
        ]
