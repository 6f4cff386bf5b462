"""The options of every command that runs a model."""

import argparse
from typing import TYPE_CHECKING

from captioner.errors import OptionError

if TYPE_CHECKING:
    from captioner.pipeline import Captioner


def add_model_options(
    parser: "argparse.ArgumentParser | argparse._ArgumentGroup",
    *,
    default: str | None,
    threads: str = "of the computation on a CPU (default: onnx looks how many cores others leave free)",
) -> None:
    """Declare --model, --device, --backend and --threads.

    Args:
        parser: of the command, or a group in it.
        default: the model; None where the command must know whether any of the options was given.
        threads: the help of --threads.
    """
    parser.add_argument("--model", default=default, help="a name that 'captioner models' lists, or a model file")
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


def check_model_options(options: argparse.Namespace) -> None:
    """Raise OptionError for a number of threads that is none."""
    if options.threads is not None and not 1 <= options.threads <= 1024:
        raise OptionError(f"--threads must be from 1 to 1024, not {options.threads}")


def load_model(options: argparse.Namespace, *, wait: bool = True) -> "Captioner":
    """The model that the options ask for; ``wait`` as in `captioner.pipeline.load`.

    Raises:
        CheckpointError: there is no such model, or its file is damaged.
        OptionError: there is no such device or backend.
    """
    from captioner.pipeline import load
    from captioner.shipped import DEFAULT_MODEL

    check_model_options(options)
    return load(
        options.model or DEFAULT_MODEL,
        device=options.device or "auto",
        backend=options.backend or "auto",
        threads=options.threads,
        wait=wait,
    )
