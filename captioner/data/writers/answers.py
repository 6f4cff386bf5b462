"""Answers in a file of JSON lines: one line for each question, in the order of the questions."""

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from captioner.data.questions import AskedQuestion
from captioner.data.writers.provenance import Provenance
from captioner.errors import OptionError
from captioner.partial import append_whole, open_locked, place_of, remove_stale, rewrite_locked, written_whole
from captioner.results import Answer

_BEGINNING = b'{"image": '  # of every line


class AnswersFile:
    """The results of a run; used as ``with AnswersFile(path, asked) as file``. A stopped run goes on after its last
    whole line, which must be of the same questions, of the same model and of the same options. What failed is
    asked again first, and its lines are replaced in their places when all of it is done.

    Until `begin` nothing that was there is changed. A line that a kill cut off is then removed; a whole line without a
    line feed, as editors leave it, gets one. What made the answers stands in a hidden file beside them,
    ``.answers.jsonl.run.json`` beside ``answers.jsonl``.

    Args:
        path: of the file, .jsonl.
        asked: all questions, in order.
        provenance: what answers them; None where that is not to be compared.
        images: the folder of the pictures, which is compared with the provenance. It is stored relative to the file, so
            that both can be moved together.
        overwrite: start again.

    Attributes:
        todo: the questions that failed before, then those that have no line yet.
        resumed: how many lines were there that are not failures.

    Raises:
        OptionError: another ending, a file of other questions, of another model or of something else, one that another
            run writes, or that cannot be written.
    """

    def __init__(
        self,
        path: Path,
        asked: Sequence[AskedQuestion],
        *,
        provenance: Provenance | None = None,
        images: Path | None = None,
        overwrite: bool = False,
    ) -> None:
        if path.suffix.lower() not in (".jsonl", ".ndjson"):
            raise OptionError(f"--output {path}: answers go to a .jsonl file, not to '{path.suffix}'")
        self.path = path
        self._count = 0  # of the lines that were there
        self._failed: list[int] = []  # which of them are failures
        self._again: list[bytes] = []  # the new lines of the first of these
        self._provenance, self._images = provenance, images
        self._end, self._lacks_line_feed, self._begun = 0, False, False
        self._place = place_of(path, option="--output")
        self._sidecar = self._place.with_name(f".{self._place.name}.run.json")
        try:
            opened = open_locked(self._place)
        except OSError as error:
            raise OptionError(f"--output {path}: cannot be written ({error.strerror})") from None
        if opened is None:
            raise OptionError(f"--output {path} is written by another run", remedy="wait for it, or name another file")
        descriptor, self._created = opened
        self._file = os.fdopen(descriptor, "r+b")
        try:
            if overwrite:
                self._refuse_foreign()
            else:
                self._read_lines(asked)
                self._compare()
        except BaseException:
            self._file.close()
            raise
        self.resumed = self._count - len(self._failed)
        self.todo = [*(asked[i] for i in self._failed), *asked[self._count :]]

    def _refuse_foreign(self) -> None:
        """A file that something else wrote is not overwritten. Raises OptionError."""
        for number, line in enumerate(self._file, 1):
            self._row(line, number)

    def _read_lines(self, asked: Sequence[AskedQuestion]) -> None:
        """Find the end of the last whole line; the lines before are those of the first questions."""
        for line in self._file:
            row = self._row(line, self._count + 1)
            if row is None:
                break
            there = str(row["image"]), row["question"]
            if self._count == len(asked) or not _is_of(row, asked[self._count]):
                raise OptionError(
                    f"--output {self.path}: line {self._count + 1} answers another question ({str(there[1])[:60]!r}) "
                    "than that line of --questions",
                    remedy="name another file, or give --overwrite",
                )
            if "error" in row:
                self._failed.append(self._count)
            self._count += 1
            self._end += len(line)
            self._lacks_line_feed = not line.endswith(b"\n")

    def _row(self, line: bytes, number: int) -> dict[str, Any] | None:
        """A line that `write` wrote; None for one that a kill cut off. Raises OptionError for any other."""
        try:
            row = json.loads(line)
            if isinstance(row, dict) and row.keys() >= {"image", "question"} and row.keys() & {"answer", "error"}:
                return row
        except (ValueError, RecursionError):
            if not line.endswith(b"\n") and (line.startswith(_BEGINNING) or _BEGINNING.startswith(line)):
                return None
        raise OptionError(
            f"--output {self.path}: line {number} is no answer of this program", remedy="name another file"
        ) from None

    def _compare(self) -> None:
        """Raises OptionError where another model or other options gave the answers that are there."""
        if self._provenance is None or not self._count:
            return
        try:
            stored = json.loads(self._sidecar.read_bytes())
        except (OSError, ValueError, RecursionError):  # of an older version, or removed
            return
        differences = self._provenance.differences(stored) if isinstance(stored, dict) else []
        folder = stored.get("images") if isinstance(stored, dict) else None
        if isinstance(folder, str) and self._images is not None:
            before = os.path.realpath(self._place.parent / folder)
            if before != os.path.realpath(self._images):
                differences.append(f"pictures of {before}, not of {self._images}")
        if differences:
            raise OptionError(
                f"--output {self.path}: holds answers of another run: {'; '.join(differences)}",
                remedy="start again with --overwrite, or give another --output",
            )

    def begin(self) -> None:
        """Make the file ready for further lines. Raises OptionError if it cannot be written."""
        self._begun = True
        try:
            self._file.seek(self._end)
            self._file.truncate()
            if self._lacks_line_feed:
                self._file.write(b"\n")
                self._file.flush()
            if self._provenance is not None and (not self._count or not self._sidecar.exists()):
                remove_stale(self._place.parent)
                about = self._provenance.as_dict()
                if self._images is not None:
                    about["images"] = self._folder_beside(self._images)
                with written_whole(self._sidecar) as partial:
                    partial.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise OptionError(f"--output {self.path}: cannot be written ({error.strerror})") from None

    def _folder_beside(self, images: Path) -> str:
        real = os.path.realpath(images)
        try:
            return os.path.relpath(real, self._place.parent)
        except ValueError:  # on another drive
            return real

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if len(self._again) < len(self._failed):  # else they are in the file
                self._replace_failed()
            if self._created and not self._begun:
                with suppress(OSError):
                    self._place.unlink()
        finally:
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
        # Half a surrogate pair has no UTF-8; JSON's escape of it is read back as what it was.
        line = json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
        if len(self._again) < len(self._failed):
            self._again.append(line)
            if len(self._again) == len(self._failed):
                self._replace_failed()
            return
        try:
            append_whole(self._file.fileno(), line)  # a buffer would keep what could not be written, for later
        except OSError as error:
            raise OptionError(f"--output {self.path}: cannot be written ({error.strerror})") from None

    def _replace_failed(self) -> None:
        """Put the new lines of questions that failed in the place of the old ones."""
        if not self._again:
            return
        try:
            self._file.seek(0)
            lines = list(self._file)
            for place, line in zip(self._failed, self._again, strict=False):
                lines[place] = line
            before, self._file = self._file, os.fdopen(rewrite_locked(self._place, b"".join(lines)), "r+b")
            before.close()
            self._file.seek(0, os.SEEK_END)
        except OSError as error:
            raise OptionError(f"--output {self.path}: cannot be written ({error.strerror})") from None


def _is_of(row: dict[str, Any], asked: AskedQuestion) -> bool:
    """Whether a line answers this question."""
    key = row.get("question_id")
    same_id = key is None or asked.id is None or key == asked.id
    return same_id and (str(row["image"]), row["question"]) == (asked.name, asked.question)
