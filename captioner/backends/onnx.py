"""Models in ONNX Runtime: the runtime of captioning on CPUs. It starts faster than torch can be imported."""

import ctypes
import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from captioner.backends.base import BACKENDS, Encoded, Pixels, Scored, State, Step, Tokens, no_gradients
from captioner.backends.graph_files import (
    GRAPHS,
    Description,
    Weights,
    check_digest,
    describe,
    graph_folder,
    make_initialisers,
    read_graph,
)
from captioner.errors import CheckpointError, OptionError
from captioner.header import Header, damaged, read_header
from captioner.image import Geometry
from captioner.tokenizer.vocabulary import END, START, Vocabulary

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "directml": "DmlExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}
"""Devices, and what computes on them: an execution provider of the installed onnxruntime."""

_MOST_THREADS = 8  # one picture's convolutions gain nothing from more
_Arrays = tuple[NDArray[Any], ...]


@dataclass(frozen=True)
class OnnxEncoded:
    """The first state's tensors of B pictures."""

    tensors: _Arrays
    images: int

    def __len__(self) -> int:
        return self.images


@dataclass(frozen=True)
class OnnxState:
    """The tensors of a decoder's state, N rows of B pictures.

    Attributes:
        tensors: in the order of the graph.
        axes: what the first axis of each is: "row", "image" or "none".
        images: B.
    """

    tensors: _Arrays
    axes: tuple[str, ...]
    images: int

    def select(self, rows: NDArray[np.int64], images: NDArray[np.int64] | None = None) -> "OnnxState":
        """See `captioner.backends.base.State.select`."""
        chosen = {"row": rows, "image": images, "none": None}
        tensors = tuple(
            tensor if (places := chosen[axis]) is None else tensor[places]
            for tensor, axis in zip(self.tensors, self.axes, strict=True)
        )
        return OnnxState(tensors, self.axes, self.images if images is None else len(images))


class OnnxBackend:
    """The two graphs of a model as a `captioner.backends.base.Backend`.

    Threads may share one. A forked child builds sessions of its own when it first needs them, because the parent's
    threads do not exist there; on a device other than a CPU it gets an error.

    Args:
        graphs: makes the sessions: takes a number of threads, returns them by name. It is called again in a child.
        description: of the step graph.
        vocabulary, about, digest: of the model.
        device: that the sessions compute on.
        threads: for the sessions.

    Raises:
        CheckpointError: the graphs are damaged.
    """

    name = "onnx"

    def __init__(
        self,
        graphs: "Callable[[int], dict[str, onnxruntime.InferenceSession]]",
        description: Description,
        *,
        vocabulary: Vocabulary,
        about: Mapping[str, Any],
        digest: str,
        device: str,
        threads: int,
    ) -> None:
        self.vocabulary, self.about, self.digest, self.device = vocabulary, about, digest, device
        self.side, self.pad, self.max_length = description["side"], description["pad"], description["max_length"]
        height, width = description["grid_shape"]
        self.grid_shape = (height, width)
        self.threads = threads
        self._axes = tuple(leaf["axis"] for leaf in description["state"])
        self._names = [leaf["name"] for leaf in description["state"]]
        self._changed = [i for i, leaf in enumerate(description["state"]) if not leaf["kept"]]
        self._make_sessions = graphs
        self._sessions = graphs(threads)
        self._forked = False
        self._lock = threading.Lock()
        _alive.add(self)

    def encode(self, pixels: Pixels, geometries: Sequence[Geometry]) -> OnnxEncoded:
        """See `captioner.backends.base.Backend.encode`."""
        feed: dict[str, NDArray[Any]] = {"pixels": np.ascontiguousarray(pixels)}
        if self.pad:
            feed["mask"] = np.stack([geometry.mask for geometry in geometries])
        return OnnxEncoded(tuple(self._session("encode").run(self._names, feed)), len(pixels))

    def begin(self, encoded: Encoded) -> OnnxState:
        """See `captioner.backends.base.Backend.begin`."""
        assert isinstance(encoded, OnnxEncoded)
        return OnnxState(encoded.tensors, self._axes, encoded.images)

    def step(self, tokens: NDArray[np.int64], state: State) -> Step:
        """See `captioner.backends.base.Backend.step`."""
        (log_p, maps, off_grid), after = self._step(tokens, state, ["log_p", "map", "off_grid"])
        return Step(log_p=log_p, maps=maps, off_grid=off_grid, state=after)

    def score(self, encoded: Encoded, captions: Tokens) -> list[list[Scored]]:
        """See `captioner.backends.base.Backend.score`; word by word, a caption that has ended goes no further."""
        # Of each picture the longest captions come first, so that those that go on are its first rows.
        order = [np.argsort([-len(caption) for caption in some], kind="stable").tolist() for some in captions]
        rows = [[captions[i][j] for j in places] for i, places in enumerate(order)]
        shape = (len(rows), max(map(len, rows)), max(len(caption) for some in rows for caption in some) + 1)
        log_p = np.zeros(shape, dtype=np.float32)
        maps = np.zeros((*shape, *self.grid_shape), dtype=np.float32)
        off_grid = np.zeros(shape, dtype=np.float32)
        state, images, per_image = self.begin(encoded), list(range(shape[0])), 1
        for t in range(shape[2]):
            alive = [sum(len(caption) >= t for caption in rows[i]) for i in images]
            most, going = max(alive), np.flatnonzero(alive)
            if most != per_image or len(going) < len(images):
                kept = going[:, None] * per_image + np.minimum(np.arange(most), per_image - 1)
                state = state.select(kept.ravel(), going if len(going) < len(images) else None)
                images, per_image = [images[i] for i in going], most
            read, wanted = np.full((2, len(images), most), END, dtype=np.int64)
            for row, i in enumerate(images):
                for column, caption in enumerate(rows[i][:most]):
                    read[row, column] = (START, *caption, END)[min(t, len(caption) + 1)]
                    wanted[row, column] = (*caption, END)[min(t, len(caption))]
            (logits, step_maps, off), state = self._step(read.ravel(), state, ["logits", "map", "off_grid"])
            place = (np.asarray(images)[:, None], np.arange(most), t)
            log_p[place] = _log_probabilities(logits, wanted.ravel()).reshape(-1, most)
            maps[place] = step_maps.reshape(len(images), most, *self.grid_shape)
            off_grid[place] = off.reshape(-1, most)
        return [
            [
                Scored(*(array[i, places.index(j), : len(caption) + 1] for array in (log_p, maps, off_grid)))
                for j, caption in enumerate(captions[i])
            ]
            for i, places in enumerate(order)
        ]

    def gradients(self, encoded: Encoded, captions: Tokens) -> list[list[Scored]]:
        """There are none; see `captioner.backends.base.Backend.gradients`."""
        raise no_gradients(self)

    def _step(
        self, tokens: NDArray[np.int64], state: State, outputs: list[str]
    ) -> tuple[list[NDArray[np.float32]], OnnxState]:
        """Some outputs of the step graph, and the state after it."""
        assert isinstance(state, OnnxState)
        images, per_image = state.images, len(tokens) // state.images
        feed = {
            name: tensor.reshape(images, per_image, *tensor.shape[1:]) if axis == "row" else tensor
            for name, tensor, axis in zip(self._names, state.tensors, self._axes, strict=True)
        }
        feed["tokens"] = np.asarray(tokens, dtype=np.int64).reshape(images, per_image)
        names = [f"next_{self._names[i]}" for i in self._changed]
        results = self._session("step").run([*outputs, *names], feed)
        tensors = list(state.tensors)
        for i, tensor in zip(self._changed, results[len(outputs) :], strict=True):
            tensors[i] = tensor
        return results[: len(outputs)], OnnxState(tuple(tensors), self._axes, images)

    def _session(self, graph: str) -> onnxruntime.InferenceSession:
        if self._forked:
            with self._lock:
                if self._forked:
                    self._sessions = self._make_sessions(1)
                    self._forked = False
        return self._sessions[graph]

    def _after_fork(self) -> None:
        # The sessions must never be freed here: their end would wait for threads that only the parent has.
        for session in self._sessions.values():
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))
        if self.device != "cpu":
            self._make_sessions = self._refuse_fork
        self._lock, self._forked = threading.Lock(), True

    def _refuse_fork(self, threads: int) -> "dict[str, onnxruntime.InferenceSession]":
        raise OptionError(
            f"a process was forked from one with a model on {self.device}", remedy="load the model in each process"
        )


_alive: "weakref.WeakSet[OnnxBackend]" = weakref.WeakSet()


def _after_fork() -> None:
    for backend in list(_alive):
        backend._after_fork()


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_after_fork)


def _log_probabilities(logits: NDArray[np.float32], targets: NDArray[np.int64]) -> NDArray[np.float32]:
    """Log-probabilities (N,) of targets (N,) under logits (N, V), over the whole vocabulary."""
    highest = logits.max(-1)
    total = np.log(np.exp(logits - highest[:, None]).sum(-1))
    return np.asarray(logits[np.arange(len(targets)), targets] - highest - total)


def idle_cores() -> int:
    """Cores that this process may use and that nobody else keeps busy now; at least 1.

    Two threads on two cores with a busy neighbour are slower than one: at each layer one waits for the other. The load
    of the last minute counts what has ended since; the number of running processes counts what ends in a moment. The
    smaller of both is taken.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        busy = os.getloadavg()[0]
        running = Path("/proc/loadavg").read_text().split()[3].split("/")[0]
        busy = min(busy, int(running) - 1)
    except (OSError, AttributeError, ValueError, IndexError):  # each where the system has no such thing
        busy = 0.0
    return max(1, min(cores, round(cores - busy)))


def choose_threads(threads: int | None = None) -> int:
    """Threads for a session: as asked for, or as OMP_NUM_THREADS says, or as many as cores are idle.

    Raises:
        OptionError: fewer than 1.
    """
    if threads is not None:
        if type(threads) is not int or threads < 1:
            raise OptionError(f"threads must be a whole number of at least 1, not {threads!r}")
        return threads
    from_environment = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    if from_environment.isdigit() and int(from_environment) >= 1:
        return int(from_environment)
    return min(_MOST_THREADS, idle_cores())


def find_provider(device: str) -> tuple[str, list[Any]]:
    """The device that a name means, and the execution providers for it, the first wanted first.

    Raises:
        OptionError: the installed onnxruntime does not compute on it.
    """
    available = onnxruntime.get_available_providers()
    if device == "auto":
        device = "cuda" if PROVIDERS["cuda"] in available else "cpu"
    kind, _, number = device.partition(":")
    provider = PROVIDERS.get(kind)
    here = ", ".join(name for name, one in PROVIDERS.items() if one in available)
    if provider is None or (number and not (kind in ("cuda", "directml") and number.isdigit())):
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
    path: Path, graph: bytes, initialisers: Mapping[str, NDArray[np.float32]], *, device: str, threads: int
) -> onnxruntime.InferenceSession:
    """A session of a graph with its weights.

    Args:
        path: of the graph, for messages.
        graph: its bytes.
        initialisers: that the bytes lack.
        device: see `find_provider`.
        threads: see `choose_threads`.

    Raises:
        CheckpointError: the graph is damaged, or of a version that the installed onnxruntime does not know.
        OptionError: the device does not work.
    """
    found, providers = find_provider(device)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4  # what goes wrong is reported as an error
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in initialisers.values()]
    try:
        options.add_external_initializers(list(initialisers), values)
        session = onnxruntime.InferenceSession(graph, options, providers=providers)
    except Exception as error:  # onnxruntime's exceptions have no common class
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{path}: onnxruntime {onnxruntime.__version__} does not open it ({reason})",
            remedy="it is damaged or too new; try --backend torch",
        ) from None
    wanted = providers[0] if isinstance(providers[0], str) else providers[0][0]
    if session.get_providers()[0] != wanted:
        raise OptionError(f"onnxruntime cannot use the device '{found}' here ({wanted} did not start)")
    return session


@BACKENDS.register("onnx")
def open_model(path: str, *, device: str = "auto", threads: int | None = None) -> OnnxBackend:
    """The backend of a model file that has graphs, ``graphs/NAME`` beside it.

    Raises:
        CheckpointError: the model file or a graph is missing, damaged, or not of the other.
        OptionError: there is no such device.
    """
    file = Path(path)
    find_provider(device)  # an unknown device is reported before a file is read
    header, folder = read_header(file), graph_folder(file)
    graphs = {name: (folder / f"{name}.onnx", read_graph(folder / f"{name}.onnx")) for name in GRAPHS}
    return open_graphs(file, header, graphs, device=device, threads=threads)


def open_graphs(
    file: Path,
    header: Header,
    graphs: Mapping[str, tuple[Path, bytes]],
    *,
    device: str = "cpu",
    threads: int | None = 1,
) -> OnnxBackend:
    """The backend of graphs without weights.

    Args:
        file: the model file, which has the weights.
        header: of the model file.
        graphs: by name their paths and contents.
        device: see `find_provider`.
        threads: see `choose_threads`.

    Raises:
        CheckpointError: a file is damaged, or the graphs are of another model file.
        OptionError: there is no such device.
    """
    found, _ = find_provider(device)
    descriptions = {}
    for name, (path, content) in graphs.items():
        descriptions[name] = describe(path, content)
        check_digest(path, descriptions[name], file, header["digest"])

    def make_sessions(count: int) -> dict[str, onnxruntime.InferenceSession]:
        sessions = {}
        for name, (path, content) in graphs.items():
            try:
                with file.open("rb") as opened:
                    weights = make_initialisers(descriptions[name]["initialisers"], Weights(opened, header, file))
            except (KeyError, ValueError, TypeError, OSError) as error:
                raise damaged(file, error) from None
            sessions[name] = make_session(path, content, weights, device=found, threads=count)
        return sessions

    return OnnxBackend(
        make_sessions,
        descriptions["step"],
        vocabulary=Vocabulary(tuple(header["vocabulary"])),
        about=header["about"],
        digest=header["digest"],
        device=found,
        threads=choose_threads(threads),
    )
