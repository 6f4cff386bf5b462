"""Questions about pictures in JSON lines: an object on each line with ``image``, ``question`` and its answers."""

from captioner.data.readers.fields import Id, image_name, picture_id, split_name
from captioner.data.readers.formats import READERS, Entry, Format, Source
from captioner.data.readers.rows import first_line, json_rows
from captioner.data.records import AnsweredQuestion
from captioner.errors import DataError


@READERS.register("questions")
class Questions(Format):
    """``questions.jsonl`` for training answering models: ``answers`` of several people, or one ``answer``;
    ``split``, ``type`` and ``source`` where they are known.

    The picture of a line is named by ``image``; lines of a picture are put together.
    """

    patterns = ("questions.jsonl", "questions.ndjson")
    split_lists = True

    def recognises(self, source: Source) -> bool:
        line = first_line(source.text)
        return not source.is_json and line.startswith("{") and '"question"' in line

    def entries(self, source: Source) -> list[Entry]:
        places: dict[Id, str] = {}
        splits: dict[Id, str | None] = {}
        images: dict[Id, str | None] = {}
        asked: dict[Id, list[AnsweredQuestion]] = {}
        for place, row in json_rows(source.path, source.text):
            key = picture_id(row, place, ("image", "image_id"))
            split = split_name(row["split"], place) if "split" in row else None
            if splits.setdefault(key, split) != split:
                raise DataError(f"{place}: {key} is in the splits '{splits[key]}' and '{split}': keep it in one")
            places.setdefault(key, place)
            images.setdefault(key, image_name(row))
            asked.setdefault(key, []).append(_question(row, place))
        return [
            Entry(
                place=place,
                id=key,
                image=images[key],
                captions=(),
                split=splits[key],
                questions=tuple(asked[key]),
            )
            for key, place in places.items()
        ]


def _question(row: dict[str, object], place: str) -> AnsweredQuestion:
    text, answers = row.get("question"), row.get("answers") or [row.get("answer")]
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{place}: 'question' is {text!r:.40}, not a text")
    if not isinstance(answers, list) or not all(isinstance(one, str) and one.strip() for one in answers):
        raise DataError(f"{place}: neither 'answers', a list of texts, nor 'answer'")
    right = row.get("answer") if row.get("answers") else ""
    more = (value if isinstance(value, str) else "" for value in (row.get("type"), row.get("source"), right))
    return AnsweredQuestion(text, tuple(answers), *more)
