"""The runtime of a model: ONNX Runtime on CPUs, torch on accelerators and for models without graphs."""

import importlib
import importlib.util
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from captioner.backends.accelerators import torch_may_use_one
from captioner.backends.base import BACKENDS, AnsweringBackend, Backend
from captioner.backends.graph_files import ANSWERING_GRAPHS, GRAPHS, graph_folder
from captioner.errors import OptionError, one_line
from captioner.foreign import EXTRA, is_foreign

FOREIGN = "huggingface"

_OURS = ("onnx", "torch")  # registered when they are imported
_ONNX_ONLY_DEVICES = ("coreml", "directml", "openvino")


def open_backend(
    backend: str,
    path: Path,
    *,
    device: str = "auto",
    threads: int | None = None,
    map_heads: Sequence[tuple[int, int | None]] = (),
    wait: bool = True,
) -> Backend:
    """A model in a runtime.

    Args:
        backend: a name of `captioner.backends.base.BACKENDS`, whose module is imported first; or "auto", see
            `captioner.pipeline.load`.
        path: of a model file, or of an exported folder.
        device: to compute on.
        threads: on a CPU; None for what the runtime chooses.
        map_heads: (layer, head) of a foreign model's heads that make the maps, head None for all; empty for all.
        wait: see `captioner.pipeline.load`; a runtime that opens a model at once takes no notice of it.

    Raises:
        CheckpointError: the file is damaged.
        OptionError: there is no such backend or device, or what it needs is not installed.
    """
    if is_foreign(path):
        if backend not in ("auto", FOREIGN):
            raise OptionError(
                f"{path}: a model in the form of transformers runs on {FOREIGN}, not on {backend}",
                remedy="leave --backend out",
            )
        return _open_foreign(path, device=device, threads=threads, map_heads=map_heads)
    if map_heads:
        raise OptionError(
            "map_heads chooses heads of foreign models; a model of ours has its choice in its file",
            remedy="leave --map-heads out, or measure a choice with 'captioner select-heads'",
        )
    if backend == FOREIGN:
        raise OptionError(f"{path}: no model in the form of transformers", remedy="leave --backend out")
    if backend == "auto":
        backend = _choose(path, device)
    return _open(backend, path, device=device, threads=threads, wait=wait)


def open_answering(backend: str, path: Path, *, device: str = "auto", threads: int | None = None) -> AnsweringBackend:
    """An answering model in a runtime: "onnx", "torch", or "auto", which chooses as for captions.

    Raises:
        CheckpointError: the file is damaged, or of a captioning model.
        OptionError: there is no such backend or device, or what it needs is not installed.
    """
    kind = device.partition(":")[0]
    if backend == "auto":
        has_graphs = path.is_dir() or all((graph_folder(path) / f"{name}.onnx").is_file() for name in ANSWERING_GRAPHS)
        runs_graphs = has_graphs and importlib.util.find_spec("onnxruntime") is not None
        has_torch = importlib.util.find_spec("torch") is not None and not path.is_dir()
        on_cpu = kind == "cpu" or (kind == "auto" and not (has_torch and torch_may_use_one()))
        use_onnx = path.is_dir() or (runs_graphs and (on_cpu or not has_torch or kind in _ONNX_ONLY_DEVICES))
        backend = "onnx" if use_onnx else "torch"
    if backend not in _OURS:
        raise OptionError(f"questions are answered by the backends {' and '.join(_OURS)}, not '{backend}'")
    needed = "onnxruntime" if backend == "onnx" else "torch"
    if importlib.util.find_spec(needed) is None:
        raise OptionError(
            f"the backend '{backend}' needs {needed}, which is not installed", remedy=f"pip install {needed}"
        )
    if backend == "onnx":
        from captioner.backends.onnx_answering import open_onnx

        return open_onnx(os.fspath(path), device=device, threads=threads)
    from captioner.backends.torch_answering import open_torch

    return open_torch(os.fspath(path), device=device, threads=threads)


class OnTorch:
    """A captioning model on torch, for what no other runtime computes.

    Args:
        backend: that captions; it serves where it runs on torch itself.
        name: of the model.
        file: that the model came from; None where there is none.
    """

    def __init__(self, backend: Backend, *, name: str, file: Path | None) -> None:
        self._name, self._file, self._runs_on, self._device = name, file, backend.name, backend.device
        self._opened = backend if backend.name in ("torch", FOREIGN) else None
        self._lock = threading.Lock()

    def open(self) -> Backend:
        """The model on torch; loaded at the first call, on the device of the other runtime where torch knows it.

        Raises:
            OptionError: torch is not installed, or the model came from no file.
        """
        with self._lock:
            if self._opened is None:
                if self._file is None:
                    raise OptionError(
                        f"this needs the model on torch, and '{self._name}' runs on {self._runs_on} alone",
                        remedy="load its .safetensors file",
                    )
                if importlib.util.find_spec("torch") is None:
                    raise OptionError("this needs torch, which is not installed", remedy="pip install torch")
                known = self._device == "cpu" or self._device.startswith("cuda")
                self._opened = open_backend("torch", self._file, device=self._device if known else "cpu")
            return self._opened


def _open_foreign(path: Path, **chosen: Any) -> Backend:
    for needed in ("torch", "transformers"):
        if importlib.util.find_spec(needed) is None:
            raise OptionError(
                f"{path}: a model in the form of transformers needs {needed}, which is not installed", remedy=EXTRA
            )
    return _open(FOREIGN, path, **{name: value for name, value in chosen.items() if value not in (None, ())})


def _choose(path: Path, device: str) -> str:
    """The name of the runtime that "auto" means. Raises OptionError where none of them is installed."""
    kind = device.partition(":")[0]
    has_graphs = path.is_dir() or all((graph_folder(path) / f"{name}.onnx").is_file() for name in GRAPHS)
    has_torch = importlib.util.find_spec("torch") is not None and not path.is_dir()
    on_cpu = kind == "cpu" or (kind == "auto" and not (has_torch and torch_may_use_one()))
    runs_graphs = has_graphs and importlib.util.find_spec("onnxruntime") is not None
    if path.is_dir() or kind in _ONNX_ONLY_DEVICES or (runs_graphs and (on_cpu or not has_torch)):
        return "onnx"
    if has_torch:
        return "torch"
    runtimes, package = ("onnxruntime or torch", "onnxruntime") if has_graphs else ("torch", "torch")
    raise OptionError(f"{path} runs on {runtimes}, which is not installed", remedy=f"pip install {package}")


def _open(
    backend: str, path: Path, *, device: str, threads: int | None = None, wait: bool = True, **further: Any
) -> Backend:
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
        except ImportError as error:  # a library that it needs does not load
            raise OptionError(
                f"the backend '{backend}' cannot be imported ({one_line(error)})", remedy="install what it needs again"
            ) from None
    if backend not in BACKENDS:
        known = ", ".join(sorted({"auto", "huggingface", *_OURS, *BACKENDS}))
        raise OptionError(f"no backend is called '{backend}'; there are {known}")
    chosen: dict[str, Any] = {} if threads is None else {"threads": threads}
    if backend == "onnx" and not wait:
        chosen["wait"] = False
    return BACKENDS[backend](os.fspath(path), device=device, **chosen, **further)
