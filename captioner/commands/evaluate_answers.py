"""The scores of answers, for ``captioner evaluate --questions``: by type, with intervals and baselines."""

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from captioner.commands.console import message_line, report
from captioner.commands.files import check_json, check_output, model_files, refuse_overwriting, write_whole
from captioner.commands.ranges import check_not_negative, check_positive, check_resamples
from captioner.errors import DataError, OptionError

if TYPE_CHECKING:
    from captioner.asking import Asker, EncodedPicture
    from captioner.data.questions import AskedQuestion

_OF_CAPTIONS = (
    "references",
    "document_frequencies",
    "save_document_frequencies",
    "compare",
    "hallucination",
    "meteor",
    "spice",
    "per_image",
    "map_heads",
    "beam",
    "rerank",
)
_MEASURES = ("VQA accuracy", "exact", "WUPS 0.9", "WUPS 0.0")
Answers = Mapping[int | str, str]


def run(options: argparse.Namespace) -> int:
    """Score answers: 0, or 1 if questions failed and --partial scored the others. Raises CaptionerError."""
    from captioner.data.questions import named_as, read_answers, read_questions, read_vqa_annotations
    from captioner.metrics.vqa import has_wordnet

    for name in _OF_CAPTIONS:
        value = getattr(options, name)
        is_default = value is None or value is False or (name == "references" and value == 0)
        if not is_default:
            raise OptionError(f"--{name.replace('_', '-')} is of captions, and goes not with --questions")
    if options.results is None and options.images is None:
        raise OptionError("give answers to score: --results FILE, or --images DIR to answer the questions first")
    if options.images is None:
        for name in ("model", "device", "backend", "threads", "save_results"):
            if getattr(options, name) is not None:
                raise OptionError(f"--{name.replace('_', '-')} goes with --images, not with --results")
    check_positive(options, "threads")
    check_resamples(options)
    check_not_negative(options, "seed")
    check_json("--save-results", options.save_results)
    if options.save_results is not None:
        check_output("--save-results", options.save_results, begins=b"[")
    refuse_overwriting({"--save-results": options.save_results}, _inputs(options))
    questions: dict[int | str, AskedQuestion] = {}
    for number, one in enumerate(read_questions(options.questions)):
        key = one.id if one.id is not None else number
        if questions.setdefault(key, one) is not one:
            raise DataError(f"{options.questions}: two questions have the id {key!r}", remedy="give each its own")
    truth = named_as(read_vqa_annotations(options.annotations), questions)
    kept, total = _kept(questions, truth, options)
    columns: dict[str, Answers] = {}
    failed = 0
    if options.images is not None:
        asked = {key: questions[key] for key in kept}
        columns, failed = _ask(options, asked)
        if options.save_results is not None:
            rows = [{"question_id": key, "answer": answer} for key, answer in columns["answers"].items()]
            write_whole(options.save_results, json.dumps(rows))
        if failed and not options.partial:
            raise DataError(
                f"{failed} questions could not be answered",
                remedy="mend their pictures, or score the others (--partial)",
            )
    else:
        answers = named_as(read_answers(options.results), questions)
        _refuse_unknown(answers, questions, options)
        columns = {"answers": answers}
    lacking = [key for key in kept if key not in columns["answers"]]
    if lacking and not options.partial:
        raise DataError(
            f"{len(lacking)} of {len(kept)} questions have no answer; the first is {lacking[0]!r}",
            remedy="answer them, or score the others (--partial)",
        )
    kept = [key for key in kept if all(key in answers for answers in columns.values())]
    if not kept:
        raise DataError("no question has both an answer and an annotation; check that both use the same ids")
    if len(kept) < total:
        report(f"partial: {len(kept):,} of {total:,} questions scored")
    table = _scores(kept, truth, columns, options, with_wordnet=has_wordnet())
    print(json.dumps(table, indent=1) if options.json else _text(table), flush=True)
    return 1 if failed else 0


def _inputs(options: argparse.Namespace) -> Iterator[Path]:
    """Every file that the run may read."""
    yield from (path for path in (options.questions, options.annotations, options.results) if path is not None)
    if options.images is not None:
        from captioner.commands.evaluation_pictures import pictures_in
        from captioner.shipped import find_model

        yield from pictures_in(options.images)
        yield from model_files(find_model(options.model or "answers", answering=True))


def _kept(
    questions: Mapping[int | str, "AskedQuestion"],
    truth: Mapping[int | str, "AskedQuestion"],
    options: argparse.Namespace,
) -> tuple[list[int | str], int]:
    """The questions that are scored: annotated, and of the split that is asked for; and how many that split has."""
    from captioner.data.questions import named_split

    asked = list(questions)
    if options.split is not None:
        wanted = named_split(options.split, "--split")
        if not wanted:
            raise OptionError("--split is empty", remedy="name a split, or leave it out for all questions")
        asked = [key for key in questions if questions[key].split == wanted]
        if not asked:
            there = ", ".join(sorted({one.split for one in questions.values() if one.split})) or "none"
            raise DataError(
                f"{options.questions}: no question of the split '{options.split}'", remedy=f"its splits are {there}"
            )
    lacking = [key for key in asked if key not in truth]
    if lacking and not options.partial:
        raise DataError(
            f"{options.annotations}: {len(lacking)} of {len(asked)} questions are not annotated; the first is "
            f"{lacking[0]!r}",
            remedy="score the others with --partial",
        )
    kept = [key for key in asked if key in truth]
    for key in kept:
        asks, annotates = questions[key].image, truth[key].image
        if _are_others(asks, annotates):
            raise DataError(
                f"{options.annotations}: question {key!r} is about picture {annotates}, and in {options.questions} "
                f"about {asks}",
                remedy="give the annotations of these questions",
            )
    return kept, len(asked)


def _are_others(one: str | int, other: str | int) -> bool:
    """Whether they name two pictures. A number and a file's name may be of one."""
    if isinstance(one, str) and isinstance(other, str):
        stems = PurePosixPath(one).stem, PurePosixPath(other).stem
        numbers = [int(found[0]) for stem in stems if (found := re.search(r"\d+$", stem))]
        of_coco = any(stem.isdecimal() for stem in stems) and len(numbers) == 2 and numbers[0] == numbers[1]
        return stems[0] != stems[1] and not of_coco
    return type(one) is type(other) and one != other


def _refuse_unknown(
    answers: Answers, questions: Mapping[int | str, "AskedQuestion"], options: argparse.Namespace
) -> None:
    """Answers to questions that were not asked are no score of these. Raises DataError."""
    unknown = [key for key in answers if key not in questions]
    if not unknown or options.partial:
        return
    if len(unknown) == len(answers):
        remedy = f"check that both use the same ids, such as {next(iter(questions))!r}"
    else:
        remedy = "remove them, or score the others (--partial)"
    raise DataError(
        f"{options.results}: {len(unknown)} of {len(answers)} answers are to questions that {options.questions} has "
        f"not; the first is {unknown[0]!r}",
        remedy=remedy,
    )


def _ask(options: argparse.Namespace, asked: Mapping[int | str, "AskedQuestion"]) -> tuple[dict[str, Answers], int]:
    """The model's answers; those without the picture, of which a gray one takes the place; and those about the picture
    of another question. ``--no-baselines`` leaves the last two out. How many failed is returned too."""
    from captioner.asking import load_answering
    from captioner.commands.progress import progress
    from captioner.data.questions import QuestionPictures
    from captioner.errors import CaptionerError
    from captioner.results import Failure

    pictures: dict[str | int, list[int | str]] = {}
    for key, one in asked.items():
        pictures.setdefault(one.image, []).append(key)
    files = list(map(QuestionPictures(options.images), pictures))  # refuses ambiguous ones before any work
    asker = load_answering(
        options.model or "answers",
        device=options.device or "auto",
        backend=options.backend or "auto",
        threads=options.threads,
    )
    found: dict[str, dict[int | str, str]] = {"answers": {}, "without the picture": {}, "shuffled pictures": {}}
    baselines = not options.no_baselines
    blank = asker.encode(np.full((asker.backend.side, asker.backend.side, 3), 128, dtype=np.uint8))
    failed = 0
    first: EncodedPicture | None = None
    before: tuple[list[int | str], EncodedPicture] | None = None
    with progress("answers", len(pictures)) as (advance, print_line):
        for (image, keys), encoded in zip(pictures.items(), asker.encode_all(files), strict=True):
            if isinstance(encoded, Failure):
                failed += len(keys)
                print_line(message_line(encoded))
                advance()
                continue
            try:
                _add(asker, encoded, asked, keys, found["answers"])
                if baselines:
                    _add(asker, blank, asked, keys, found["without the picture"])
                # Each picture goes to the questions of the one before, the first to the last.
                if baselines and before is not None:
                    _add(asker, encoded, asked, before[0], found["shuffled pictures"])
            except CaptionerError as error:
                failed += len(keys)
                print_line(message_line(f"{image}: {error}"))
            first, before = first or encoded, (keys, encoded)
            advance()
        if baselines and before is not None and first is not None:
            _add(asker, first, asked, before[0], found["shuffled pictures"])
    if before is None or first is before[1]:
        del found["shuffled pictures"]  # one picture cannot be exchanged
    if not baselines:
        found = {"answers": found["answers"]}
    return dict(found), failed


def _add(
    asker: "Asker",
    picture: "EncodedPicture",
    asked: Mapping[int | str, "AskedQuestion"],
    keys: Sequence[int | str],
    to: dict[int | str, str],
) -> None:
    """Add the answers to some questions about a picture; a question that the model cannot read has the answer ""."""
    readable = []
    for key in keys:
        try:
            asker.split(asked[key].question)
            readable.append(key)
        except OptionError:
            to[key] = ""
    for key, answer in zip(readable, asker.ask(picture, [asked[key].question for key in readable]), strict=True):
        to[key] = answer.text


def _scores(
    keys: Sequence[int | str],
    truth: Mapping[int | str, "AskedQuestion"],
    columns: Mapping[str, Answers],
    options: argparse.Namespace,
    *,
    with_wordnet: bool,
) -> dict[str, Any]:
    """Each measure of each type of question, for the answers and the baselines, with intervals."""
    from captioner.metrics.vqa import exact_accuracy, most_frequent_of_type, vqa_accuracy, wups

    types = [truth[key].type or "all" for key in keys]
    right = [truth[key].answer for key in keys]
    prior = most_frequent_of_type(types, right)
    sides = {name: [answers[key] for key in keys] for name, answers in columns.items()}
    if not options.no_baselines:
        sides["most frequent of the type"] = [prior[kind] for kind in types]
    people = [truth[key].answers for key in keys]
    measures: dict[str, Callable[[str, int], float]] = {}
    alone = [key for key, some in zip(keys, people, strict=True) if len(some) < 2]
    if alone and len(alone) < len(keys):
        report(
            f"no VQA accuracy: {len(alone):,} of {len(keys):,} questions have the answer of one person alone; "
            f"the first is {alone[0]}"
        )
    if not alone:
        measures["VQA accuracy"] = lambda answer, i: vqa_accuracy(answer, people[i])
    measures["exact"] = lambda answer, i: exact_accuracy(answer, right[i])
    if with_wordnet:
        measures["WUPS 0.9"] = lambda answer, i: wups(answer, right[i], threshold=0.9)
        measures["WUPS 0.0"] = lambda answer, i: wups(answer, right[i], threshold=0.0)
    images = np.unique([str(truth[key].image) for key in keys], return_inverse=True)[1]
    kinds = np.array(types)
    found: dict[str, Any] = {"questions": len(keys), "types": {}}
    for kind in ["all", *(sorted(set(types) - {"all"}))]:
        chosen = np.flatnonzero(kinds == kind) if kind != "all" or set(types) == {"all"} else np.arange(len(keys))
        rows = {}
        for measure, score in measures.items():
            rows[measure] = {
                name: _estimate(np.array([score(answers[i], int(i)) for i in chosen]), images[chosen], options)
                for name, answers in sides.items()
            }
        found["types"][kind] = {"questions": len(chosen), **rows}
    return found


def _estimate(
    values: "np.ndarray[Any, np.dtype[np.float64]]", pictures: Any, options: argparse.Namespace
) -> dict[str, Any]:
    """A mean, times 100, and its 95% interval by resampling pictures where that is asked for."""
    from captioner.grounding.bootstrap import bootstrap_means

    (found,) = bootstrap_means(100 * values[:, None], pictures, options.bootstrap or 1, options.seed)
    value: dict[str, Any] = {"value": round(found.value, 4)}
    if options.bootstrap:
        interval = found.as_dict()["interval"]
        value["interval"] = interval and [round(each, 4) for each in interval]
    return value


def _text(table: Mapping[str, Any]) -> str:
    """The scores as a table: a row for each type and measure, a column for the answers and each baseline."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    sides = list(next(iter(table["types"].values()))["exact"])
    shown = Table(box=box.SIMPLE, pad_edge=False)
    for title in ("type", "questions", "measure", *sides):
        shown.add_column(title, justify="left" if title in ("type", "measure") else "right", no_wrap=True)
    for kind, rows in table["types"].items():
        for measure in (name for name in _MEASURES if name in rows):
            cells = []
            for side in sides:
                one = rows[measure][side]
                between = " ({:.1f} to {:.1f})".format(*one["interval"]) if one.get("interval") else ""
                cells.append(f"{one['value']:.2f}{between}")
            shown.add_row(kind, str(rows["questions"]), measure, *cells)
    console = Console(width=None if sys.stdout.isatty() else 200)
    with console.capture() as captured:
        console.print(shown)
    return captured.get().rstrip("\n")
