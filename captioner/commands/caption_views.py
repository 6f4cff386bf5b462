"""What ``captioner caption`` does for clips and for views of a word: ``--frames``, ``--heads`` and ``--contrast``."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captioner.commands.console import ReaderGone, report, text_of
from captioner.commands.decoding_options import readable
from captioner.commands.model_options import load_model
from captioner.commands.packages import require
from captioner.errors import CaptionerError, OptionError

if TYPE_CHECKING:
    from captioner.options import Greedy
    from captioner.pipeline import Captioner
    from captioner.results import Caption

_NOT_WITH = (
    *("output", "overwrite", "sidecar", "xmp", "alt_text", "prefix", "suffix", "from", "shard", "include", "exclude"),
    *(
        "existing",
        "separator",
        "xmp_name",
        "column",
        "failures",
        "move_failed",
        "watch",
        "dry_run",
        "picture_gain",
        "min_confidence",
        "sort",
    ),
)


def add_view_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of clips and views."""
    views = parser.add_argument_group("clips, and views of a word (these need torch)")
    views.add_argument(
        "--frames",
        type=int,
        metavar="N",
        help="read each file as a clip (GIF, WebP, or a video with captioner[video]): one caption over N frames of it",
    )
    views.add_argument(
        "--heads", metavar="WORD", help="--figure and --page show what every attention head looked at for this word"
    )
    views.add_argument(
        "--contrast",
        metavar="WORD=OTHER",
        help="--figure and --page show why this word and not the other: the difference of their gradient maps",
    )


def wanted(options: argparse.Namespace) -> bool:
    """Whether this module does the work of the command."""
    return options.frames is not None or options.heads is not None or options.contrast is not None


def run_views(options: argparse.Namespace, decoding: "Greedy", model_file: Path) -> int:
    """Caption each file, and show what was asked for: 0, 1 if some files failed, 2 if all did.

    Raises:
        CaptionerError: options that do not go together, a model that does not load.
    """
    from captioner.commands.files import check_single, model_files, refuse_overwriting

    _check(options)
    check_single(figure=Path(options.figure) if options.figure else None, page=options.page)
    pictures = [Path(picture) for picture in options.pictures]
    refuse_overwriting({"--figure": options.figure, "--page": options.page}, (*pictures, *model_files(model_file)))
    model = load_model(options)
    shown, failed = [], 0
    for picture in pictures:
        try:
            caption = _caption(model, picture, options, readable(decoding, options, model))
            views = _views(model, caption, options)
        except CaptionerError as error:
            report(error)
            failed += 1
            continue
        text = text_of(caption, name=str(picture) if len(pictures) > 1 else None)
        try:
            print(caption.as_json() if options.json else text, flush=True)
        except ReaderGone:
            if not (options.figure or options.page):
                raise  # else the files are wanted all the same
        shown += [caption, *(view.as_caption() for view in views)]
        if options.figure:
            (views[0] if views else caption).figure(options.figure, smooth=not options.cells)
    if options.page and shown:
        from captioner.show.page import page_with_views

        page_with_views(shown, options.page, smooth=not options.cells)
    return (1 if failed < len(pictures) else 2) if failed else 0


def _check(options: argparse.Namespace) -> None:
    name = "frames" if options.frames is not None else "heads" if options.heads is not None else "contrast"
    remedy = f"use {'--json, ' if options.frames is not None else ''}--figure or --page"
    for other in _NOT_WITH:
        value = getattr(options, other, None)
        if value or (value == 0 and value is not False):  # 0 is a minimum of confidence
            given = other.replace("_", "-")
            raise OptionError(f"--{name} does not go with --{given}", remedy=remedy)
    if options.heads is not None and options.contrast is not None:
        raise OptionError("--heads and --contrast are two views of a word", remedy="ask for one at a time")
    if options.frames is not None and (options.heads is not None or options.contrast is not None):
        raise OptionError("--frames goes with neither --heads nor --contrast", remedy="leave one of them out")
    if options.frames is not None and options.explain not in (None, "attention"):
        raise OptionError(f"the maps of clips are attention, not {options.explain}", remedy="leave out --explain")
    if options.contrast is not None:
        word, _, different = options.contrast.partition("=")
        if not word or not different or word == different:
            raise OptionError(
                f"--contrast is WORD=OTHER, of two words, not '{options.contrast}'", remedy="--contrast dog=cat"
            )
    if options.figure and len(options.pictures) > 1:
        raise OptionError(
            f"--figure {options.figure} is one file for {len(options.pictures)}", remedy="give one picture, or --page"
        )
    if options.frames is None and not (options.figure or options.page):
        raise OptionError(
            f"--{name} is a view of a figure or page", remedy="add --figure words.png or --page words.html"
        )
    if options.figure:
        require("matplotlib", "--figure")


def _caption(model: "Captioner", picture: Path, options: argparse.Namespace, decoding: "Greedy") -> "Caption":
    from dataclasses import replace

    from captioner.image import MAX_PIXELS

    max_pixels = options.max_pixels or MAX_PIXELS
    if options.frames is None:
        return model.caption(picture, options=decoding, explain=options.explain, max_pixels=max_pixels)
    from captioner.data.clips import frames_of

    frames = frames_of(picture, options.frames, max_pixels=max_pixels)
    return replace(model.caption_clip(frames, options=decoding, max_pixels=max_pixels), image=str(picture))


def _views(model: "Captioner", caption: "Caption", options: argparse.Namespace) -> list[Any]:
    if options.heads is not None:
        return [model.heads(caption, options.heads)]
    if options.contrast is not None:
        word, _, other = options.contrast.partition("=")
        return [model.contrast(caption, word, other)]
    return []
