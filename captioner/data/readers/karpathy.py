"""Karpathy's ``dataset_*.json``: an object with ``images`` that hold their ``sentences`` and their ``split``."""

from pathlib import PurePosixPath
from typing import Any

from captioner.data.readers.fields import caption_text, image_name, picture_id, split_name
from captioner.data.readers.formats import READERS, Entry, Format, Source
from captioner.errors import DataError


@READERS.register("karpathy")
class Karpathy(Format):
    """The splits of Karpathy and Fei-Fei, CVPR 2015. A picture lies at ``filepath``/``filename``.

    Ids are ``cocoid`` where every image has one, else ``filename``; where two folders hold a file of one name, they
    are the paths.
    """

    patterns = ("dataset*.json",)
    needs_split = True

    def recognises(self, source: Source) -> bool:
        content = source.json
        return isinstance(content, dict) and isinstance(content.get("images"), list) and "annotations" not in content

    def entries(self, source: Source) -> list[Entry]:
        images = source.json["images"]
        numbered = all(isinstance(image, dict) and type(image.get("cocoid")) is int for image in images)
        entries = [self._entry(image, f"{source.path}, image {i}", numbered) for i, image in enumerate(images)]
        if not numbered and len({entry.id for entry in entries}) < len(entries):
            by_path = [entry for entry in entries if entry.image is not None]
            if len({entry.image for entry in by_path}) == len(entries):
                return [Entry(**{**vars(entry), "id": entry.image}) for entry in entries]
        return entries

    def _entry(self, image: Any, place: str, numbered: bool) -> Entry:
        key = picture_id(image, place, ("cocoid",) if numbered else ("filename",))
        sentences = image.get("sentences")
        if not isinstance(sentences, list):
            raise DataError(f"{place}: picture {key!r} has no list of 'sentences'")
        name, folder = image_name({"filename": image.get("filename")}), image.get("filepath")
        if folder is not None and not isinstance(folder, str):
            raise DataError(f"{place}: 'filepath' is {folder!r:.40}, not the name of a folder")
        if name is not None and folder:
            name = image_name({"filename": str(PurePosixPath(folder) / name)})
        return Entry(
            place=place,
            id=key,
            image=name,
            captions=tuple(_sentence(sentence, place, key) for sentence in sentences),
            split=split_name(image["split"], place) if "split" in image else None,
        )


def _sentence(sentence: Any, place: str, key: int | str) -> str:
    """The sentence as it was written, or its tokens where only these are there."""
    if isinstance(sentence, dict) and "raw" not in sentence and "tokens" in sentence:
        tokens = sentence["tokens"]
        if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
            raise DataError(f"{place}: the 'tokens' of picture {key!r} are {tokens!r:.40}, not a list of texts")
        return " ".join(tokens)
    return caption_text(sentence, place, key, ("raw",))
