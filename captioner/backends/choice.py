"""The runtime of a model: ONNX Runtime on CPUs, torch on accelerators and for models without graphs."""

import importlib
import importlib.util
import os
import platform
import re
import sys
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
    kind = device.partition(":")[0]
    has_graphs = path.is_dir() or graph_folder(path).is_dir()
    has_torch = importlib.util.find_spec("torch") is not None and not path.is_dir()
    on_cpu = kind == "cpu" or (kind == "auto" and not (has_torch and _has_accelerator()))
    runs_graphs = has_graphs and importlib.util.find_spec("onnxruntime") is not None
    if path.is_dir() or kind in _OF_ONNX_ALONE or (runs_graphs and (on_cpu or not has_torch)):
        name = "onnx"
    elif has_torch:
        name = "torch"
    else:
        runtimes, package = ("onnxruntime or torch", "onnxruntime") if has_graphs else ("torch", "torch")
        raise OptionError(f"{path} runs on {runtimes}, which is not installed", remedy=f"pip install {package}")
    return _open(name, path, device=device, threads=threads)


def _has_accelerator() -> bool:
    """Whether torch may find a GPU here. It is not asked: importing it takes longer than captioning."""
    if sys.platform == "darwin":
        return platform.machine() == "arm64"
    driver = Path(os.environ.get("SYSTEMROOT", "C:/Windows"), "System32/nvcuda.dll")
    if not any(path.exists() for path in (Path("/dev/nvidiactl"), Path("/dev/kfd"), driver)):
        return False
    origin = getattr(importlib.util.find_spec("torch"), "origin", None)
    try:
        version = Path(origin or "").with_name("version.py").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return True
    return re.search(r"^(cuda|hip)\b.*= *['\"]", version, re.MULTILINE) is not None


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
