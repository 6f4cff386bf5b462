"""The options of every command that runs a model."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from captioner.errors import OptionError
from captioner.shipped import DEFAULT_MODEL, SHIPPED_DEFAULT

if TYPE_CHECKING:
    from captioner.pipeline import Captioner


def add_model_options(
    parser: "argparse.ArgumentParser | argparse._ArgumentGroup",
    *,
    default: str | None,
    threads: str = "of the computation on a CPU (default: onnx looks how many cores others leave free)",
    foreign: bool = True,
    heads: bool = True,
    remark: str = "",
) -> None:
    """Declare --model, --device, --backend, --threads and, for foreign models, --map-heads.

    Args:
        parser: of the command, or a group in it.
        default: the model; None, for the default model, where the command must know whether any of the options was
            given.
        threads: the help of --threads.
        foreign: the command runs foreign models too.
        heads: and takes their maps from the heads that --map-heads names.
        remark: what the help of --model says after the default's name.
    """
    parser.add_argument(
        "--model",
        default=default,
        help=f"a name that 'captioner models' lists (default: {_name_of(default)}{remark}), or a model file"
        + (", a folder in the form of transformers, hf:owner/name" if foreign else ""),
    )
    auto = None if default is None else "auto"
    parser.add_argument(
        "--device",
        default=auto,
        help="auto, cpu, cuda, cuda:1, mps, or what the installed onnxruntime has: coreml, directml, openvino (default "
        "auto, the best that there is)",
    )
    parser.add_argument(
        "--backend",
        metavar="NAME",
        default=auto,
        help="the runtime: onnx, which starts faster; torch; or one that an installed package registers (default auto: "
        "onnx on a CPU where the model has graphs, else torch)",
    )
    parser.add_argument("--threads", type=int, metavar="N", help=threads)
    if not (foreign and heads):
        return
    parser.add_argument(
        "--map-heads",
        metavar="LAYER[:HEAD],...",
        help="of a foreign model: the attention heads whose mean makes the maps, counted from 0; 5 is all of layer 5, "
        "5:0 its first, =-1 the last layer (default: all)",
    )


def _name_of(default: str | None) -> str:
    return SHIPPED_DEFAULT if default in (None, DEFAULT_MODEL) else default


def check_model_options(options: argparse.Namespace) -> None:
    """Raise OptionError for a number of threads that is none, and for heads of another form."""
    if getattr(options, "map_heads", None) is not None:
        from captioner.foreign import parse_heads

        parse_heads(options.map_heads)
    if options.threads is not None and not 1 <= options.threads <= 1024:
        raise OptionError(f"--threads must be from 1 to 1024, not {options.threads}")


def check_plain(options: argparse.Namespace, model: Path) -> None:
    """Choose the backend for ``--plain``. Raises OptionError where that is not torch, or the model is a foreign one."""
    from captioner.foreign import refuse_foreign

    refuse_foreign(model, "--plain")
    if options.backend not in ("auto", "torch"):
        raise OptionError(
            f"--plain runs on torch, where heads can be chosen, and not on {options.backend}",
            remedy="leave --backend out",
        )
    options.backend = "torch"


def load_model(options: argparse.Namespace, *, wait: bool = True) -> "Captioner":
    """The model that the options ask for; ``wait`` as in `captioner.pipeline.load`.

    Raises:
        CheckpointError: there is no such model, or its file is damaged.
        OptionError: there is no such device or backend.
    """
    from captioner.pipeline import load

    check_model_options(options)
    return load(
        options.model or DEFAULT_MODEL,
        device=options.device or "auto",
        backend=options.backend or "auto",
        threads=options.threads,
        map_heads=getattr(options, "map_heads", None) or "",
        wait=wait,
    )
