"""Models in ONNX Runtime: the runtime of captioning on CPUs. It starts faster than torch can be imported."""

import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
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
from captioner.backends.sessions import InferenceSession, choose_threads, find_provider, make_session
from captioner.errors import CheckpointError, OptionError, one_line
from captioner.header import Header, damaged, read_exported, read_header, require_captions
from captioner.image import Geometry
from captioner.tokenizer.vocabulary import END, START, Vocabulary

if TYPE_CHECKING:
    from concurrent.futures import Executor

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

    On a CPU each picture is encoded by itself, on one core, and the pictures of a batch are spread over threads: a
    picture's features then stay in the core's cache, and no thread waits for another at each layer, which is slow as
    soon as a neighbour keeps a core busy. Threads may share a backend.

    A forked child can use it, on a CPU; elsewhere it gets an error.

    Args:
        sessions: of the graphs, by name.
        description: of the step graph.
        vocabulary, about, digest: of the model.
        device: that the sessions compute on.
        threads: pictures that are encoded side by side on a CPU.

    Raises:
        CheckpointError: the graphs do not fit the vocabulary or the description.
    """

    name = "onnx"

    def __init__(
        self,
        sessions: Mapping[str, InferenceSession],
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
        self._sessions = dict(sessions)
        self._axes = tuple(leaf["axis"] for leaf in description["state"])
        self._names = [leaf["name"] for leaf in description["state"]]
        self._changed = [i for i, leaf in enumerate(description["state"]) if not leaf["kept"]]
        self._check_shapes()
        self._process = os.getpid()
        self._pool: Executor | None = None
        self._lock = threading.Lock()

    def encode(self, pixels: Pixels, geometries: Sequence[Geometry]) -> OnnxEncoded:
        """See `captioner.backends.base.Backend.encode`."""
        feed: dict[str, NDArray[Any]] = {"pixels": np.ascontiguousarray(pixels)}
        if self.pad:
            feed["mask"] = np.stack([geometry.mask for geometry in geometries])
        if self.device != "cpu" or len(pixels) == 1:
            return OnnxEncoded(tuple(self._run("encode", self._names, feed)), len(pixels))

        def encode_one(i: int) -> list[NDArray[Any]]:
            return self._run("encode", self._names, {name: array[i : i + 1] for name, array in feed.items()})

        each = list(self._map()(encode_one, range(len(pixels))))
        joined = [
            parts[0] if axis == "none" else np.concatenate(parts)
            for axis, parts in zip(self._axes, zip(*each, strict=True), strict=True)
        ]
        return OnnxEncoded(tuple(joined), len(pixels))

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

    def _check_shapes(self) -> None:
        """The graphs fit the vocabulary and the description. Raises CheckpointError."""
        outputs = {output.name: output.shape for output in self._sessions["step"].get_outputs()}
        inputs = {each.name: each.shape for each in self._sessions["encode"].get_inputs()}
        found = {
            "words": (outputs.get("log_p", [None])[-1], len(self.vocabulary)),
            "cells": (outputs.get("map", [None])[1:], list(self.grid_shape)),
            "pixels a side": (inputs.get("pixels", [])[1:3], [self.side, self.side]),
        }
        for what, (of_graph, of_model) in found.items():
            if of_graph != of_model:
                raise CheckpointError(
                    f"the model has {of_model} {what} and its graphs {of_graph}: one of them is damaged"
                )

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
        results = self._run("step", [*outputs, *names], feed)
        tensors = list(state.tensors)
        for i, tensor in zip(self._changed, results[len(outputs) :], strict=True):
            tensors[i] = tensor
        return results[: len(outputs)], OnnxState(tuple(tensors), self._axes, images)

    def _map(self) -> Callable[..., Iterable[Any]]:
        """`map`, over threads where there are several."""
        if self.threads == 1:
            return map
        if self._process != os.getpid():  # a forked child has none of its parent's threads, and may have its lock
            self._process, self._pool, self._lock = os.getpid(), None, threading.Lock()
        with self._lock:
            if self._pool is None:
                from concurrent.futures import ThreadPoolExecutor

                self._pool = ThreadPoolExecutor(self.threads, "encode")
            return self._pool.map

    def _run(self, graph: str, outputs: list[str], feed: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        if self.device != "cpu" and self._process != os.getpid():
            raise OptionError(
                f"this process was forked from one with a model on {self.device}",
                remedy="load the model in each process",
            )
        try:
            results: list[NDArray[Any]] = self._sessions[graph].run(outputs, feed)
        except Exception as error:  # onnxruntime's exceptions have no common class
            raise CheckpointError(
                f"the graph '{graph}' of the model does not compute ({one_line(error)})",
                remedy="it is damaged; try another",
            ) from None
        return results


def _log_probabilities(logits: NDArray[np.float32], targets: NDArray[np.int64]) -> NDArray[np.float32]:
    """Log-probabilities (N,) of targets (N,) under logits (N, V), over the whole vocabulary."""
    highest = logits.max(-1)
    total = np.log(np.exp(logits - highest[:, None]).sum(-1))
    return np.asarray(logits[np.arange(len(targets)), targets] - highest - total)


@BACKENDS.register("onnx")
def open_model(path: str, *, device: str = "auto", threads: int | None = None) -> OnnxBackend:
    """The backend of a model file that has graphs, ``graphs/NAME`` beside it, or of an exported folder.

    Raises:
        CheckpointError: the model file or a graph is missing, damaged, or not of the other.
        OptionError: there is no such device.
    """
    file = Path(path)
    find_provider(device)  # an unknown device is reported before a file is read
    exported = file.is_dir()
    header, folder = (read_exported(file), file) if exported else (read_header(file), graph_folder(file))
    require_captions(header, file)
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
        file: the model file, which has the weights; or an exported folder, whose graphs have them.
        header: of the model file, or of the folder.
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
        descriptions[name] = describe(path, content, graph=name)
        check_digest(path, descriptions[name], file, header["digest"])

    sessions = {}
    for name, (path, content) in graphs.items():
        weights: dict[str, NDArray[np.float32]] = {}
        if recipes := descriptions[name]["initialisers"]:
            try:
                with file.open("rb") as opened:
                    weights = make_initialisers(recipes, Weights(opened, header, file))
            except (KeyError, ValueError, TypeError, OSError) as error:
                raise damaged(file, error) from None
        sessions[name] = make_session(path, content, weights, device=found)
    return OnnxBackend(
        sessions,
        descriptions["step"],
        vocabulary=Vocabulary(tuple(header["vocabulary"])),
        about=header["about"],
        digest=header["digest"],
        device=found,
        threads=choose_threads(threads),
    )
