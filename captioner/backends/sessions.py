"""Sessions of ONNX Runtime: execution providers, threads, memory."""

import contextlib
import ctypes
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from captioner.backends.accelerators import has_nvidia_gpu
from captioner.errors import CheckpointError, OptionError, one_line

# From 1.29 on, onnxruntime reports its use to its maker, from a thread of its own. Captioning is offline, and a forked
# child would abort at its end, because it waits for that thread.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime
from onnxruntime import InferenceSession

__all__ = ["PROVIDERS", "InferenceSession", "find_provider", "make_session"]

onnxruntime.disable_telemetry_events()  # where somebody else imported it first

_LARGE = 32 << 20  # bytes
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "directml": "DmlExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}
"""Devices, and what computes on them: an execution provider of the installed onnxruntime."""


def find_provider(device: str) -> tuple[str, list[Any]]:
    """The device that a name means, and the execution providers for it, the first wanted first.

    Raises:
        OptionError: the installed onnxruntime does not compute on it.
    """
    available = onnxruntime.get_available_providers()
    if device == "auto":
        device = "cuda" if PROVIDERS["cuda"] in available and has_nvidia_gpu() else "cpu"
    kind, colon, number = device.partition(":")
    provider = PROVIDERS.get(kind)
    here = ", ".join(name for name, one in PROVIDERS.items() if one in available)
    is_number = kind in ("cuda", "directml") and number.isdecimal() and number.isascii()
    if provider is None or (colon and not is_number):
        raise OptionError(f"there is no device '{device}' for the backend onnx", remedy=f"here are {here}")
    if provider not in available:
        raise OptionError(
            f"the installed onnxruntime {onnxruntime.__version__} has no {provider} for the device '{device}'",
            remedy=f"here are {here}",
        )
    if provider == PROVIDERS["cpu"]:
        return device, [provider]
    options = {"device_id": number or "0"} if kind in ("cuda", "directml") else {}
    return device, [(provider, options), PROVIDERS["cpu"]]


def make_session(
    path: Path,
    graph: bytes,
    initialisers: Mapping[str, NDArray[Any]],
    *,
    device: str,
    low_peak: bool = True,
    optimise: bool = True,
) -> InferenceSession:
    """A session of a graph with its weights.

    Args:
        path: of the graph, for messages.
        graph: its bytes.
        initialisers: that the bytes lack.
        device: see `find_provider`.
        low_peak: return freed memory while a large session starts: a lower peak, and a slower start.
        optimise: let ONNX Runtime rewrite the graph and compute its constants while the session starts, for faster
            runs.

    Raises:
        CheckpointError: the graph is damaged, or of a version that the installed onnxruntime does not know.
        OptionError: the device does not work.
    """
    found, providers = find_provider(device)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # see `captioner.backends.onnx.OnnxBackend`
    options.log_severity_level = 4  # what goes wrong is reported as an error
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_mem_pattern = not device.startswith("directml")  # which does not know it
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in initialisers.values()]
    try:
        options.add_external_initializers(list(initialisers), values)
        with _freed_blocks_returned(sum(array.nbytes for array in initialisers.values()) if low_peak else 0):
            session = InferenceSession(graph, options, providers=providers)
    except Exception as error:  # onnxruntime's exceptions have no common class
        raise CheckpointError(
            f"{path}: onnxruntime {onnxruntime.__version__} does not open it ({one_line(_reason(error))})",
            remedy="it is damaged or too new; try --backend torch",
        ) from None
    wanted = providers[0] if isinstance(providers[0], str) else providers[0][0]
    if session.get_providers()[0] != wanted:
        raise OptionError(f"onnxruntime cannot use the device '{found}' here ({wanted} did not start)")
    values.clear()
    _return_memory()
    return session


def _reason(error: Exception) -> str:
    """What onnxruntime says is wrong, without the place in its own code."""
    return re.sub(r"^\[ONNXRuntimeError\].*/onnxruntime_src/.*\) (?=[A-Z])", "", str(error), flags=re.DOTALL)


@contextlib.contextmanager
def _freed_blocks_returned(size: int) -> Iterator[None]:
    """Let large blocks that are freed within it go back to the system at once, for a session of ``size`` bytes.

    A session holds its weights several times while it starts. glibc keeps freed blocks for later ones, the larger the
    more of them it has seen, so that the peak of a large model is 17 MiB higher. A small model gains nothing.
    """
    if size < _LARGE or _malloc_is_set():
        yield
        return
    _set_malloc(_M_MMAP_THRESHOLD, 1 << 17)
    try:
        yield
    finally:  # what glibc's own adjustment, which is off from now on, comes to in the end
        _set_malloc(_M_MMAP_THRESHOLD, 32 << 20)
        _set_malloc(_M_TRIM_THRESHOLD, 64 << 20)


def _malloc_is_set() -> bool:
    """Whether the environment sets the thresholds of glibc's malloc, which then stay as they are."""
    if "MALLOC_TRIM_THRESHOLD_" in os.environ or "MALLOC_MMAP_THRESHOLD_" in os.environ:
        return True
    return "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")


def _set_malloc(parameter: int, value: int) -> None:
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).mallopt(parameter, value)


def _return_memory() -> None:
    """Give what a session's start left over back to the system: a third of the peak, which the next step would add to.

    The C library keeps it otherwise. Only glibc needs to be asked, and can be.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
