"""The command ``captioner ask``: questions about pictures in, answers out."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from captioner.commands.console import message_line, printable, report, stopping_on_signals
from captioner.commands.model_options import add_model_options, check_model_options
from captioner.commands.packages import import_numpy, require
from captioner.errors import OptionError

if TYPE_CHECKING:
    from captioner.asking import Asker
    from captioner.data.writers.answers import AnswersFile
    from captioner.results import Answer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.description = "Answer questions about a picture, or many questions of a file."
    parser.add_argument("picture", nargs="?", metavar="PICTURE", help="a picture")
    parser.add_argument("question", nargs="*", metavar="QUESTION", help="one question or more about it")
    add_model_options(parser, default="answers", foreign=False)
    parser.add_argument(
        "--n-best", type=int, default=1, metavar="N", help="answers to each question, the likeliest first"
    )
    output = parser.add_argument_group("output")
    output.add_argument("--json", action="store_true", help="print one JSON object for each question, with the map")
    output.add_argument(
        "--figure", type=Path, metavar="FILE", help="draw the maps over the picture: a .png, .pdf or .svg file"
    )
    output.add_argument("--page", type=Path, metavar="FILE", help="write an .html page of all answers")
    output.add_argument("--cells", action="store_true", help="show the cells of the maps without interpolation")
    many = parser.add_argument_group("many questions at once")
    many.add_argument(
        "--questions",
        type=Path,
        metavar="FILE",
        help="JSON lines with image and question, or an official VQA questions file; gzipped too",
    )
    many.add_argument(
        "--images", type=Path, metavar="DIR", help="the folder of their pictures (default: the file's own)"
    )
    many.add_argument(
        "--output", type=Path, metavar="FILE", help="a .jsonl file: a line out for each in; a stopped run goes on"
    )
    many.add_argument("--overwrite", action="store_true", help="start --output again")


def run(options: argparse.Namespace) -> int:
    """Run the command: 0, 1 if some questions failed, 2 if all did. Raises CaptionerError."""
    check_model_options(options)
    import_numpy()
    if options.questions is not None:
        return _run_file(options)
    for name in ("images", "output"):
        if getattr(options, name) is not None:
            raise OptionError(f"--{name} goes with --questions")
    if options.overwrite:
        raise OptionError("--overwrite goes with --questions and --output")
    if options.picture is None:
        raise OptionError("nothing to ask about", remedy="give a picture and a question, or --questions FILE")
    if not options.question:
        raise OptionError(f"no question about {options.picture}", remedy='add one: "what is the dog catching?"')
    return _run_picture(options)


def load_asker(options: argparse.Namespace) -> "Asker":
    """The answering model that the options ask for. Raises as `captioner.asking.load_answering`."""
    from captioner.asking import load_answering

    return load_answering(
        options.model or "answers",
        device=options.device or "auto",
        backend=options.backend or "auto",
        threads=options.threads,
    )


def _run_picture(options: argparse.Namespace) -> int:
    from captioner.commands.files import check_single, model_files, refuse_overwriting
    from captioner.shipped import find_model

    check_single(figure=options.figure, page=options.page)
    if options.cells and options.figure is None and options.page is None:
        remedy = "add --figure map.png or --page map.html"
        raise OptionError("--cells is of the maps of a figure or page", remedy=remedy)
    model = find_model(options.model, answering=True)
    refuse_overwriting({"--figure": options.figure, "--page": options.page}, (options.picture, *model_files(model)))
    if options.figure is not None:
        require("matplotlib", "--figure")
    asker = load_asker(options)
    answers = asker.ask(options.picture, list(options.question), n_best=options.n_best)
    for line in dict.fromkeys(_unknown(answer) for answer in answers):
        if line:
            report(line)
    if options.figure is not None:
        from captioner.show.figure import draw_answers, save_figure

        save_figure(draw_answers(answers, smooth=not options.cells), options.figure)
    if options.page is not None:
        from captioner.show.page import page, save_page

        save_page(page(answers, smooth=not options.cells), options.page)
    for answer in answers:
        print(answer.as_json() if options.json else _text(answer, named=len(answers) > 1))
    return 0


def _text(answer: "Answer", *, named: bool) -> str:
    """The answer on a line, after its question where there are several; further answers on lines of their own."""
    best = f"{printable(answer.question)}\t{answer.text}" if named else answer.text
    return "\n".join([best, *(f"\t{other.text}" for other in answer.alternatives)])


def _unknown(answer: "Answer") -> str:
    """A line that names the words that the model does not know; empty where it knows all."""
    words = [f"'{word.text}'" for word in answer.words if not word.known]
    if not words:
        return ""
    return printable(
        f"the model '{answer.model}' does not know {', '.join(words)}: the answer rests on the other words"
    )


def _run_file(options: argparse.Namespace) -> int:
    from captioner.commands.files import model_files, refuse_overwriting
    from captioner.data.questions import read_questions
    from captioner.data.writers import Provenance, digest_of
    from captioner.data.writers.answers import AnswersFile
    from captioner.shipped import find_model

    if options.picture is not None:
        raise OptionError(f"--questions names its pictures; {options.picture} is one too many")
    for name in ("figure", "page", "json", "cells"):
        if getattr(options, name):
            raise OptionError(f"--{name} shows the questions of one picture, and goes not with --questions")
    if options.output is None:
        raise OptionError("--questions needs --output FILE.jsonl")
    folder = options.images if options.images is not None else options.questions.parent
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "no such folder"
        raise OptionError(f"--images {folder}: {what}", remedy="give the folder of the pictures")
    model = find_model(options.model, answering=True)
    refuse_overwriting({"--output": options.output}, (options.questions, *model_files(model)))
    asked = read_questions(options.questions)
    made_by = Provenance(model=model.stem, digest=digest_of(model), decoding={"n_best": options.n_best})
    opened = AnswersFile(options.output, asked, provenance=made_by, images=folder, overwrite=options.overwrite)
    with stopping_on_signals(), opened as file:
        failed = _answer_all(options, file, folder) if file.todo else 0
        there = f" ({file.resumed} were there)" if file.resumed else ""
        done = len(asked) - failed
        answers = "1 answer" if done == 1 else f"{done} answers"
        lacking = f"; {failed} failed" if failed else ""
        print(printable(f"{options.output}: {answers}{there}{lacking}"), file=sys.stderr)
    return (1 if failed < len(asked) else 2) if failed else 0


def _answer_all(options: argparse.Namespace, file: "AnswersFile", folder: Path) -> int:
    """Answer what has no line yet; how many questions failed. A picture of consecutive questions is encoded once."""
    from itertools import groupby

    from captioner.commands.progress import progress
    from captioner.data.questions import QuestionPictures
    from captioner.errors import CaptionerError
    from captioner.results import Failure

    groups = [list(some) for _, some in groupby(file.todo, key=lambda one: one.image)]
    path_of = QuestionPictures(folder)
    pictures = [path_of(some[0].image) for some in groups]  # refuses ambiguous ones before any work
    asker = load_asker(options)
    asker.check_number(options.n_best)
    file.begin()
    failed = 0
    with progress("answers", len(file.todo)) as (advance, print_line):
        for some, encoded in zip(groups, asker.encode_all(pictures), strict=True):
            for one in some:
                try:
                    if isinstance(encoded, Failure):
                        raise CaptionerError(encoded.error, remedy=encoded.remedy)
                    answer = asker.ask(encoded, one.question, n_best=options.n_best)
                except CaptionerError as error:
                    failed += 1
                    file.write_failure(one, str(error))
                    what = str(error) if isinstance(encoded, Failure) else f"{one.name}: {error}"
                    print_line(message_line(what))
                else:
                    file.write(one, answer)
                advance()
    return failed
