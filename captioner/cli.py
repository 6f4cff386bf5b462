"""The command line. One small function per command; torch is imported only by those that need it.

Exit codes: 0 all well; 1 some pictures failed, each named on standard error, the others done; 2 wrong usage,
or nothing could be done.
"""

import argparse
import json
import os
import re
import sys
import traceback
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captioner.commands.progress import progress
from captioner.errors import CaptionerError, DataError, OptionError
from captioner.training.processes import in_group, leave
from captioner.version import __version__

if TYPE_CHECKING:
    from captioner.data.writers import PageFile
    from captioner.decoding import Greedy
    from captioner.pipeline import Captioner


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; its exit code. In a launched process it does not return, but ends it with that code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if not hasattr(options, "run"):
        parser.print_help()
        return 2
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="surrogateescape")  # file names need not be text
    try:
        code = _run(options)
    except Exception:  # a fault of ours or the machine's, shown whole; but in a group nothing may pass `leave` by
        if not in_group():
            raise
        traceback.print_exc()
        code = 1
    leave(code)
    return code


def _run(options: argparse.Namespace) -> int:
    try:
        code: int = options.run(options)
        sys.stdout.flush()
    except CaptionerError as error:
        return _complain(str(error))
    except KeyboardInterrupt:
        _complain("interrupted")
        return 130
    except BrokenPipeError:  # the reader of our output has gone: nobody is left to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


def _complain(message: str) -> int:
    print(_one_line(message), file=sys.stderr)
    return 2


def _one_line(message: object) -> str:
    return _printable(f"captioner: {' '.join(str(message).split())}")


class _Parser(argparse.ArgumentParser):
    """Wrong usage gets one line, not the whole usage before it."""

    def error(self, message: str) -> Any:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="captioner", description="Caption pictures, and show where each word looked.")
    parser.add_argument("--version", action="version", version=f"captioner {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=_Parser)
    _add_caption(commands.add_parser("caption", help="caption pictures or folders of them"))
    _add_evaluate(commands.add_parser("evaluate", help="the COCO scores of captions"))
    _add_ground(commands.add_parser("ground", help="whether the maps lie on what the words name"))
    _add_train(commands.add_parser("train", help="train a model"))
    _add_serve(commands.add_parser("serve", help="serve a page for your pictures, and an HTTP API"))
    _add_tools(commands)
    models = commands.add_parser("models", help="list the models that ship")
    models.add_argument("--json", action="store_true", help="everything the files say about themselves, as JSON")
    models.set_defaults(run=run_models)
    return parser


# caption


def _add_caption(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pictures", nargs="+", metavar="PICTURE", help="a picture, or a folder of them")
    parser.add_argument("--model", default="default", help="a name that 'captioner models' lists, or a model file")
    parser.add_argument("--device", help="cpu, cuda, ...; the CPU if not given")
    output = parser.add_argument_group("output")
    output.add_argument("--json", action="store_true", help="one JSON object a picture, with the maps")
    output.add_argument(
        "--output", type=Path, metavar="FILE", help=".txt, .jsonl or .csv; goes on where it was stopped"
    )
    output.add_argument(
        "--figure",
        type=Path,
        metavar="FILE",
        help="draw each word's map over the picture: .png, .pdf or .svg; a folder for several pictures",
    )
    output.add_argument(
        "--page", type=Path, metavar="FILE", help="one .html page for all pictures: hover a word, see its map"
    )
    output.add_argument("--cells", action="store_true", help="show the cells of the maps as they are, not smoothed")
    parser.add_argument(
        "--explain",
        choices=("attention", "gradient", "occlusion"),
        help="what the maps are made of; occlusion is slow. Default: what was found truest for the model",
    )
    search = parser.add_argument_group("how words are chosen (default: what the model's file says)")
    search.add_argument("--beam", type=int, metavar="N", help="width of the beam; 1 is greedy")
    search.add_argument("--n-best", type=int, metavar="N", help="captions kept for each picture")
    search.add_argument("--length-penalty", type=float, metavar="A", help="score = sum(log p) / words ** A")
    search.add_argument("--max-length", type=int, metavar="N", help="most words")
    search.add_argument("--min-length", type=int, metavar="N", help="fewest words")
    search.add_argument("--no-repeat-ngram", type=int, metavar="N", help="no N words in a row twice")
    search.add_argument("--sample", action="store_true", help="draw words at random rather than the likeliest")
    search.add_argument("--temperature", type=float, help="of sampling; below 1 is safer")
    search.add_argument("--top-k", type=int, metavar="N", help="sample from the N likeliest words")
    search.add_argument("--top-p", type=float, metavar="P", help="sample from the words that make up P")
    search.add_argument("--seed", type=int, help="of sampling")
    work = parser.add_argument_group("work")
    work.add_argument("--batch", type=int, default=16, metavar="N", help="pictures at a time (default 16)")
    work.add_argument("--max-pixels", type=int, metavar="N", help="refuse larger pictures (default 100,000,000)")
    parser.set_defaults(run=run_caption)


def run_caption(options: argparse.Namespace) -> int:
    """Caption pictures."""
    from captioner.data.pictures import find_pictures
    from captioner.data.writers import FigureFiles, ResultsFile

    if options.max_pixels is not None and options.max_pixels < 1:
        raise OptionError(f"--max-pixels must be at least 1, not {options.max_pixels}")
    found, failures = find_pictures(options.pictures)
    failed = len(failures)
    for failure in failures:
        _complain(failure)
    if not found:
        return 2
    several = found != [Path(options.pictures[0])]  # a folder, and be there one picture in it
    figures = FigureFiles(options.figure, found, several=several) if options.figure else None
    page = _page_file(options, len(found))
    results = ResultsFile(options.output) if options.output else None
    there = results.done if results is not None else set()
    skipped = sum(os.fspath(picture) in there for picture in found)
    # What a results file has is not done anew, unless a page needs its maps.
    todo = [picture for picture in found if page is not None or os.fspath(picture) not in there]
    done = len(found) - len(todo)
    if todo:
        from captioner.image import MAX_PIXELS
        from captioner.pipeline import load
        from captioner.results import Failure

        model = load(options.model, device=options.device)
        how = _decoding_options(options, model)
        with page or nullcontext(), progress("captions", len(todo)) as (advance, say):
            for caption in model.caption_all(
                todo,
                options=how,
                explain=options.explain,
                batch=options.batch,
                max_pixels=options.max_pixels or MAX_PIXELS,
            ):
                if isinstance(caption, Failure):
                    failed += 1
                    advance()
                    say(_one_line(caption))
                    continue
                if figures is not None:
                    figures.write(caption, smooth=not options.cells)
                if page is not None:
                    page.write(caption)
                if results is not None:
                    if caption.image not in there:
                        results.write(caption)
                elif options.json:
                    print(json.dumps(caption.as_dict()), flush=True)
                else:
                    print(
                        f"{_printable(caption.image)}\t{caption.text}" if len(found) > 1 else caption.text, flush=True
                    )
                done += 1
                advance()
    if results is not None:
        results.close()
        already = f" ({skipped} were there)" if skipped else ""
        print(f"{options.output}: {done} captions{already}", file=sys.stderr)
    return (1 if done else 2) if failed else 0


# Control characters, line and paragraph separators, marks that turn the writing round, and what is no character.
_OBEYED = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def _printable(name: str) -> str:
    """A file's name on one line, without what a terminal would obey."""
    return _OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), name)


def _page_file(options: argparse.Namespace, count: int) -> "PageFile | None":
    """Where the page of so many pictures goes, if one is asked for."""
    from captioner.data.writers import PageFile

    if options.page is None:
        return None
    if count > PageFile.MOST:
        raise OptionError(f"--page {options.page}: {count} pictures are too many for a page, {PageFile.MOST} at most")
    folder = Path(options.pictures[0]).resolve().name if len(options.pictures) == 1 else ""
    title = (folder or "Captions") if count > 1 else None
    return PageFile(options.page, title=title, several=count > 1, smooth=not options.cells)


def _decoding_options(options: argparse.Namespace, model: "Captioner") -> "Greedy | None":
    """What the command line says of decoding; None if it says nothing."""
    shared = _given(options, "max_length", "min_length", "no_repeat_ngram")
    sampling = _given(options, "temperature", "top_k", "top_p", "seed")
    beam = _given(options, "n_best", "length_penalty") | ({} if options.beam is None else {"width": options.beam})
    if options.sample:
        from captioner.decoding import Sampling

        if options.beam is not None or options.length_penalty is not None:
            raise OptionError("--sample draws at random: --beam and --length-penalty do not go with it")
        samples = {"samples": options.n_best} if options.n_best is not None else {}
        return Sampling(**shared, **sampling, **samples)
    if sampling:
        name = next(iter(sampling)).replace("_", "-")
        raise OptionError(f"--{name} is an option of sampling: add --sample")
    return model.options(**shared, **beam) if shared or beam else None


def _given(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    return {name: getattr(options, name) for name in names if getattr(options, name) is not None}


# models


def run_models(options: argparse.Namespace) -> int:
    """List the shipped models."""
    from captioner.checkpoint import read_header
    from captioner.pipeline import shipped_models
    from captioner.tokenizer.vocabulary import SPECIAL

    models = shipped_models()
    if not models:
        raise DataError("no models ship with this installation: give a model file with --model")
    for name, path in models.items():
        header = read_header(path)
        if options.json:
            print(json.dumps({"name": name, "path": str(path), "bytes": path.stat().st_size, **header}))
            continue
        config, test = header["config"], header.get("about", {}).get("test", {})
        scores = "  ".join(f"{measure} {value:.1f}" for measure, value in test.get("scores", {}).items())
        print(
            f"{name:<12} {path.stat().st_size / 1e6:5.1f} MB  {config['encoder']['backbone']} + "
            f"{config['decoder']['kind']}, {len(header['vocabulary']) - len(SPECIAL):,} words  "
            f"{test.get('on', '')}{': ' if scores else ''}{scores}"
        )
    return 0


# evaluate


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    from captioner.commands import evaluate

    evaluate.add_arguments(parser)
    parser.set_defaults(run=evaluate.run)


# serve


def _add_serve(parser: argparse.ArgumentParser) -> None:
    from captioner.commands import serve

    serve.add_arguments(parser)
    parser.set_defaults(run=serve.run)


# ground


def _add_ground(parser: argparse.ArgumentParser) -> None:
    from captioner.commands import ground

    ground.add_arguments(parser)
    parser.set_defaults(run=ground.run)


# export, average, plot, scenes


def _add_tools(commands: Any) -> None:
    from captioner.commands import average, export, plot, scenes

    for name, command, text in (
        ("export", export, "make a model file ready for release"),
        ("average", average, "average the weights of models that share a start"),
        ("plot", plot, "draw the loss and the dev scores of runs"),
        ("scenes", scenes, "draw a data set of scenes with captions and boxes"),
    ):
        parser = commands.add_parser(name, help=text)
        command.add_arguments(parser)
        parser.set_defaults(run=command.run)


# train


def _add_train(parser: argparse.ArgumentParser) -> None:
    from captioner.commands import train

    train.add_arguments(parser)
    parser.set_defaults(run=train.run)


if __name__ == "__main__":
    sys.exit(main())
