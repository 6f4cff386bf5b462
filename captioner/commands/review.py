"""The command ``captioner review``: a local page to walk pictures, and accept, edit or flag the caption of each."""

import argparse
import importlib.util
import logging
import sys
from pathlib import Path

from captioner.commands.console import report
from captioner.commands.model_options import add_model_options, check_model_options, load_model
from captioner.errors import OptionError

_NEEDED = {
    "fastapi": "fastapi",
    "fastapi_offline": "fastapi-offline",
    "uvicorn": "uvicorn",
    "python_multipart": "python-multipart",
}
_HOST = "127.0.0.1"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.description = (
        "Walk pictures in the browser with the keyboard: accept, edit or flag the caption of each. Every decision is "
        "on the disk before the next picture; started again, the command goes on where it was."
    )
    parser.add_argument("pictures", nargs="+", metavar="PICTURE", help="a picture, or a folder of them")
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="FILE",
        help="the .jsonl file of the edits, which a later run goes on with",
    )
    parser.add_argument("--port", type=int, default=8001, help="0 for any that is free (default 8001)")
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    add_model_options(parser, default="default")


def run(options: argparse.Namespace) -> int:
    """Serve the page until SIGTERM or SIGINT; 0, or 1 if some pictures are left out. Raises CaptionerError."""
    from captioner.commands.files import model_files, refuse_overwriting
    from captioner.data.pictures import find_pictures
    from captioner.data.writers import EditsFile
    from captioner.shipped import find_model

    check_model_options(options)
    missing = [name for module, name in _NEEDED.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise OptionError(f"the page needs {', '.join(missing)}", remedy="pip install 'captioner[serve]'")
    found = find_pictures(options.pictures, leave_out=[options.output])
    if found.containers:
        raise OptionError(
            f"{found.containers[0]}: holds several pictures, and review walks files",
            remedy="write its pictures into a folder first",
        )
    for line in (*found.failures, *found.notes):
        report(line)
    if not found.files:
        return 2
    refuse_overwriting({"--output": options.output}, (*found.files, *model_files(find_model(options.model))))
    with EditsFile(options.output) as edits:
        for note in edits.notes:
            report(note)
        from captioner.serve.server import listen

        with listen(_HOST, options.port) as sock:
            from captioner.serve.connections import Connections
            from captioner.serve.review import Review, create_review
            from captioner.serve.server import make_server, serve_until_signal

            logging.getLogger("python_multipart").setLevel(logging.CRITICAL)
            review = Review(found.files, load_model(options), edits)
            address = f"http://{_HOST}:{sock.getsockname()[1]}/"
            print(f"captioner: review on {address} (Ctrl-C stops)", file=sys.stderr, flush=True)
            if options.open:
                import webbrowser

                webbrowser.open(address)
            serve_until_signal(make_server(create_review(review), Connections(64)), review, sock)
        made = review.progress()
        print(f"{options.output}: {made['done']} of {made['pictures']} pictures are done", file=sys.stderr)
    return 1 if found.failures else 0
