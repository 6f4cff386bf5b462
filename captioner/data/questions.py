"""Questions about pictures in files: JSON lines, and the official VQA questions and annotations."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from captioner.data.readers.fields import SPLIT_NAMES, one_type
from captioner.data.readers.rows import json_rows, parse_json
from captioner.data.readers.text import read_text
from captioner.errors import DataError
from captioner.formats import SUFFIXES

_Value = TypeVar("_Value")


@dataclass(frozen=True, kw_only=True)
class AskedQuestion:
    """A question of a file.

    Attributes:
        image: the picture as the file names it: a path below the folder of the pictures, or COCO's number.
        question: the text.
        id: of the question, where it has one.
        type: of the answer or of the question, where it is known.
        answers: of people, where they are known.
        answer: the most frequent of them.
        split: of the picture, where it is known.
    """

    image: str | int
    question: str
    id: int | str | None = None
    type: str = ""
    answers: tuple[str, ...] = ()
    answer: str = ""
    split: str = ""

    @property
    def name(self) -> str:
        """The picture's name, for messages and results."""
        return str(self.image)


def read_questions(path: Path) -> list[AskedQuestion]:
    """The questions of a file, in its order: JSON lines with ``image`` and ``question``, or the official VQA questions
    file; gzipped too.

    Raises:
        DataError: it cannot be read, it has no questions, a question has no text or no picture, or an id is there
            twice.
    """
    text = read_text(path)
    name = path.name.lower().removesuffix(".gz")
    if name.endswith(".json"):
        content = parse_json(text, path=path)
        rows = content.get("questions") if isinstance(content, dict) else None
        if not isinstance(rows, list):
            raise DataError(f"{path}: no 'questions' in it", remedy="give an official questions file, or JSON lines")
        placed = [(f"{path}, question {i}", row) for i, row in enumerate(rows, 1)]
    else:
        placed = list(json_rows(path, text))
    if not placed:
        raise DataError(f"{path}: no questions in it", remedy="give an official questions file, or JSON lines")
    found: list[AskedQuestion] = []
    places: dict[int | str, str] = {}
    for place, row in placed:
        one = _question(row, place)
        if one.id is not None and (before := places.setdefault(one.id, place)) != place:
            raise DataError(
                f"{place}: a second question with the id {one.id!r}; the first is at {before}",
                remedy="give each its own id",
            )
        found.append(one)
    return found


def _question(row: Any, place: str) -> AskedQuestion:
    if not isinstance(row, dict):
        raise DataError(f"{place}: {row!r:.60} is not an object")
    question = row.get("question")
    if not isinstance(question, str):
        raise DataError(f"{place}: 'question' is {question!r:.40}, not a text")
    image = row.get("image", row.get("image_id"))
    if not isinstance(image, (str, int)) or isinstance(image, bool) or image == "":
        raise DataError(f"{place}: 'image' is {image!r:.40}, not the name of a picture")
    given = row.get("answers") or []
    if not isinstance(given, list):
        raise DataError(f"{place}: 'answers' is {given!r:.40}, not a list of texts")
    answers = tuple(_text_of(one, "one of 'answers'", place) for one in given)
    most = max(answers, key=answers.count, default="")
    answer = most if row.get("answer") is None else _text_of(row["answer"], "'answer'", place)
    return AskedQuestion(
        image=image,
        question=question,
        id=_id_of(row, place),
        type=str(row.get("type") or ""),
        answers=answers,
        answer=answer,
        split=named_split(row.get("split"), place),
    )


def named_split(value: object, place: str) -> str:
    """The split that a field or an option names, one that captions have under its name there ("val" is "dev"); others,
    such as "testdev", stay as they are. Raises DataError for what is no text."""
    if not isinstance(value, str | None):
        raise DataError(f"{place}: 'split' is {value!r:.40}, not a text")
    text = (value or "").strip()
    return SPLIT_NAMES.get(text.casefold(), text)


def _id_of(row: Mapping[str, Any], place: str) -> int | str | None:
    """The id of a question, under either of its names; None where it has none. Raises DataError."""
    for name in ("question_id", "id"):
        key = row.get(name)
        if key is not None:
            if not isinstance(key, (int, str)) or isinstance(key, bool):
                raise DataError(f"{place}: '{name}' is {key!r:.40}, neither a number nor a text")
            return key
    return None


def _text_of(answer: object, what: str, place: str) -> str:
    """An answer as text, which may be written as a number. Raises DataError for what is no answer."""
    if isinstance(answer, bool) or not isinstance(answer, (str, int, float)):
        raise DataError(f"{place}: {what} is {answer!r:.40}, not a text")
    return str(answer)


class QuestionPictures:
    """The files of questions' pictures. COCO's number is looked for among the pictures whose names end in it.

    Args:
        folder: of the pictures.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbered: dict[int, list[Path]] | None = None  # read at the first number

    def __call__(self, image: str | int) -> Path:
        """The file of a picture as the questions name it, whether it is there or not.

        Raises:
            DataError: several pictures have this number.
        """
        if isinstance(image, str):
            return self._folder / image
        if self._numbered is None:
            self._numbered = self._read_numbers()
        found = self._numbered.get(image, [])
        if len(found) > 1:
            raise DataError(
                f"{self._folder}: picture {image} could be {found[0].name} or {found[1].name}",
                remedy="leave one in the folder, or name the file in the questions",
            )
        return found[0] if found else self._folder / f"{image:012d}.jpg"

    def _read_numbers(self) -> dict[int, list[Path]]:
        numbered: dict[int, list[Path]] = {}
        for file in sorted(self._folder.iterdir()) if self._folder.is_dir() else ():
            digits = file.stem.rpartition("_")[2]
            if digits.isdecimal() and file.suffix.lower() in SUFFIXES and not file.name.startswith("."):
                numbered.setdefault(int(digits), []).append(file)
        return numbered


def read_vqa_annotations(path: Path) -> dict[int | str, AskedQuestion]:
    """People's answers by question: an official VQA annotations file, or JSON lines with ``answers`` or ``answer``.

    Lines without an id are known by their place, from 0, as those of the questions.

    Raises:
        DataError: it cannot be read, or an annotation has no answers or an id twice.
    """
    text = read_text(path)
    found: dict[int | str, AskedQuestion] = {}
    if path.name.lower().removesuffix(".gz").endswith(".json"):
        content = parse_json(text, path=path)
        rows = content.get("annotations") if isinstance(content, dict) else None
        if not isinstance(rows, list):
            raise DataError(f"{path}: no 'annotations' in it", remedy="give an official VQA annotations file")
        for i, row in enumerate(rows, 1):
            place = f"{path}, annotation {i}"
            one = _annotation(row, place)
            assert one.id is not None
            if one.id in found:
                raise DataError(f"{place}: question {one.id!r} is annotated twice")
            found[one.id] = one
        return found
    for i, (place, row) in enumerate(json_rows(path, text)):
        asked = _question(row, place)
        if not asked.answers and not asked.answer:
            raise DataError(f"{place}: neither 'answers' nor 'answer'")
        key = asked.id if asked.id is not None else i
        if key in found:
            raise DataError(f"{place}: question {key!r} is annotated twice")
        found[key] = asked
    return found


def _annotation(row: Any, place: str) -> AskedQuestion:
    given = row.get("answers") if isinstance(row, dict) else None
    if not isinstance(given, list) or not given or not all(isinstance(one, dict) and "answer" in one for one in given):
        raise DataError(f"{place}: {row!r:.80} is no annotation", remedy="give a list 'answers' of {\"answer\": ...}")
    for name in ("question_id", "image_id"):
        if not isinstance(row.get(name), (int, str)) or isinstance(row[name], bool):
            raise DataError(
                f"{place}: '{name}' is {row.get(name)!r:.40}, neither a number nor a text", remedy="give an id"
            )
    answers = tuple(_text_of(one["answer"], "'answer'", place) for one in given)
    return AskedQuestion(
        image=row["image_id"],
        question="",
        id=row["question_id"],
        type=str(row.get("answer_type", "")),
        answers=answers,
        answer=str(row.get("multiple_choice_answer") or max(answers, key=answers.count)),
    )


def read_answers(path: Path) -> dict[int | str, str]:
    """Answers by question: the official results, a list of ``{"question_id", "answer"}``, or the lines that
    ``captioner ask`` writes. Lines without an id are known by their place, from 0; those with an error have no answer.

    Raises:
        DataError: it cannot be read, or an answer is no text or is there twice.
    """
    text = read_text(path)
    if text.lstrip().startswith("["):
        rows = [(f"{path}, answer {i}", row) for i, row in enumerate(parse_json(text, path=path), 1)]
    else:
        rows = list(json_rows(path, text))
    found: dict[int | str, str] = {}
    for i, (place, row) in enumerate(rows):
        key, answer = _result(row, place, i)
        if answer is None:
            continue
        if key in found:
            raise DataError(f"{place}: a second answer to question {key!r}")
        found[key] = answer
    one_type(found, path)
    return found


def named_as(
    found: Mapping[int | str, _Value], questions: Mapping[int | str, AskedQuestion]
) -> dict[int | str, _Value]:
    """What was read by the ids of the questions, where all ids are numbers on one side and texts on the other. Numbers
    that count the lines may be no ids, and stay."""
    if list(found) == list(range(len(found))):
        return dict(found)
    by_text = {str(key): key for key in questions}
    renamed = {by_text.get(str(key), key): value for key, value in found.items()}
    if any(key in questions for key in found) or len(renamed) < len(found) or len(by_text) < len(questions):
        return dict(found)
    return renamed


def _result(row: Mapping[str, Any], place: str, number: int) -> tuple[int | str, str | None]:
    """The id of a row's question, and the answer; None where it says why there is none."""
    if not isinstance(row, dict):
        raise DataError(f"{place}: {row!r:.60} is not an object")
    answer = row.get("answer")
    if not isinstance(answer, str) and not (answer is None and "error" in row):
        raise DataError(f"{place}: 'answer' is {answer!r:.40}, not a text")
    key = _id_of(row, place)
    return (number if key is None else key), answer
