"""Which runtime computes a model: ONNX Runtime on CPUs where there are graphs, torch otherwise."""

import importlib
import importlib.util
import os
from pathlib import Path
from typing import Any

from captioner.backends.base import BACKENDS, Backend
from captioner.backends.graph_files import ForeignGraphError, graph_folder
from captioner.errors import OptionError


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
    """The model in the runtime that suits it."""
    if path.is_dir():
        return _open("onnx", path, device=device, threads=threads)
    has_torch = importlib.util.find_spec("torch") is not None
    on_cpu = device == "cpu" or (device == "auto" and not (has_torch and _has_cuda()))
    wants_onnx = on_cpu or not has_torch or device.partition(":")[0] in ("coreml", "directml", "openvino")
    if wants_onnx and graph_folder(path).is_dir() and importlib.util.find_spec("onnxruntime") is not None:
        try:
            return _open("onnx", path, device=device, threads=threads)
        except ForeignGraphError:  # the model file was written again since
            if not has_torch:
                raise
    if not has_torch:
        runtimes = "onnxruntime or torch" if graph_folder(path).is_dir() else "torch"
        raise OptionError(f"{path} runs on {runtimes}, which is not installed", remedy="pip install torch")
    return _open("torch", path, device=device, threads=threads)


def _has_cuda() -> bool:
    """A GPU for torch, which is imported only where the system has the driver of one."""
    windows = Path(os.environ.get("SYSTEMROOT", "C:/Windows"), "System32", "nvcuda.dll")
    if not any(path.exists() for path in (Path("/proc/driver/nvidia"), Path("/dev/dxg"), windows)):
        return False
    import torch

    return torch.cuda.is_available()


def _open(backend: str, path: Path, *, device: str, threads: int | None = None) -> Backend:
    """A model in one runtime, whose module is imported first.

    Raises:
        OptionError: there is no such backend, or what it needs is not installed.
    """
    if backend not in BACKENDS and backend.isidentifier():
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
