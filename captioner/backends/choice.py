"""The runtime of a model: torch where it is installed, ONNX Runtime where asked for or where torch is missing."""

import importlib
import importlib.util
import os
from pathlib import Path
from typing import Any

from captioner.backends.base import BACKENDS, Backend
from captioner.backends.graph_files import graph_folder
from captioner.errors import OptionError

_OF_ONNX_ALONE = ("coreml", "directml", "openvino")


def open_backend(backend: str, path: Path, *, device: str = "auto", threads: int | None = None) -> Backend:
    """A model in a runtime.

    Args:
        backend: a name of `captioner.backends.base.BACKENDS`, whose module is imported first; or "auto", see
            `captioner.pipeline.load`.
        path: of a model file, or of an exported folder.
        device: to compute on.
        threads: on a CPU; None for what the runtime chooses.

    Raises:
        CheckpointError: the file is damaged.
        OptionError: there is no such backend or device, or what it needs is not installed.
    """
    if backend == "auto":
        return _choose(path, device, threads)
    return _open(backend, path, device=device, threads=threads)


def _choose(path: Path, device: str, threads: int | None) -> Backend:
    """The model in torch where that is installed: the scores of the shipped models were measured with its numbers."""
    if path.is_dir():
        return _open("onnx", path, device=device, threads=threads)
    if importlib.util.find_spec("torch") is not None and device.partition(":")[0] not in _OF_ONNX_ALONE:
        return _open("torch", path, device=device, threads=threads)
    if graph_folder(path).is_dir() and importlib.util.find_spec("onnxruntime") is not None:
        return _open("onnx", path, device=device, threads=threads)
    runtimes = "onnxruntime or torch" if graph_folder(path).is_dir() else "torch"
    raise OptionError(f"{path} runs on {runtimes}, which is not installed", remedy="pip install torch")


def _open(backend: str, path: Path, *, device: str, threads: int | None = None) -> Backend:
    """A model in one runtime, whose module is imported first.

    Raises:
        OptionError: there is no such backend, or what it needs is not installed.
    """
    if backend.isidentifier():
        try:
            importlib.import_module(f"captioner.backends.{backend}")
        except ModuleNotFoundError as error:
            if error.name != f"captioner.backends.{backend}":
                raise OptionError(
                    f"the backend '{backend}' needs {error.name}, which is not installed",
                    remedy=f"pip install {error.name}",
                ) from None
    chosen: dict[str, Any] = {} if threads is None else {"threads": threads}
    return BACKENDS[backend](os.fspath(path), device=device, **chosen)
