"""Answers in a file of JSON lines: one line for each question, in the order of the questions."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from captioner.data.questions import AskedQuestion
from captioner.data.writers.partial import place_of, try_lock
from captioner.errors import OptionError
from captioner.results import Answer


class AnswersFile:
    """The results of a run; used as ``with AnswersFile(path, asked) as file``. A stopped run goes on after its last
    whole line, which must be of the same questions.

    Args:
        path: of the file, .jsonl.
        asked: all questions, in order.
        overwrite: start again.

    Attributes:
        todo: the questions that have no line yet.
        resumed: how many lines were there.
        failed_before: how many of them are failures.

    Raises:
        OptionError: another ending, a file of other questions, one that another run writes, or that cannot be written.
    """

    def __init__(self, path: Path, asked: Sequence[AskedQuestion], *, overwrite: bool = False) -> None:
        if path.suffix.lower() not in (".jsonl", ".ndjson"):
            raise OptionError(f"--output {path}: answers go to a .jsonl file, not to '{path.suffix}'")
        self.path, self.todo = path, list(asked)
        self.resumed = self.failed_before = 0
        place = place_of(path, option="--output")
        try:
            self._file = place.open("r+b" if place.exists() else "w+b")
        except OSError as error:
            raise OptionError(f"--output {path}: cannot be written ({error.strerror})") from None
        if not try_lock(self._file.fileno()):
            self._file.close()
            raise OptionError(f"--output {path} is written by another run", remedy="wait for it, or name another file")
        try:
            end = 0 if overwrite else self._whole_lines(asked)
        except BaseException:
            self._file.close()
            raise
        self._file.seek(end)
        self._file.truncate()
        self.todo = list(asked[self.resumed :])

    def _whole_lines(self, asked: Sequence[AskedQuestion]) -> int:
        """Where the last whole line ends; the lines before are those of the first questions."""
        end = 0
        for line in self._file:
            if not line.endswith(b"\n"):
                break  # a kill cut it off
            try:
                row = json.loads(line)
                there = (str(row["image"]), row["question"])
            except (ValueError, KeyError, TypeError):
                raise OptionError(
                    f"--output {self.path}: line {self.resumed + 1} is no answer of this program",
                    remedy="name another file, or give --overwrite",
                ) from None
            if self.resumed == len(asked) or there != (asked[self.resumed].name, asked[self.resumed].question):
                raise OptionError(
                    f"--output {self.path}: line {self.resumed + 1} answers another question ({there[1][:60]!r}) than "
                    "that line of --questions",
                    remedy="name another file, or give --overwrite",
                )
            self.resumed += 1
            self.failed_before += "error" in row
            end += len(line)
        return end

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, asked: AskedQuestion, answer: Answer) -> None:
        """Append the answer to a question."""
        others = [{"answer": one.text, "probability": round(one.probability, 6)} for one in answer.alternatives]
        self._write(
            asked,
            answer=answer.text,
            probability=round(answer.probability, 6),
            **({"alternatives": others} if others else {}),
        )

    def write_failure(self, asked: AskedQuestion, error: str) -> None:
        """Append the line of a question that has no answer."""
        self._write(asked, error=error)

    def _write(self, asked: AskedQuestion, **values: Any) -> None:
        key = {} if asked.id is None else {"question_id": asked.id}
        row = {"image": asked.image, "question": asked.question, **key, **values}
        try:
            # Half a surrogate pair has no UTF-8; JSON's escape of it is read back as what it was.
            self._file.write(json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")
            self._file.flush()
        except OSError as error:
            raise OptionError(f"--output {self.path}: cannot be written ({error.strerror})") from None
