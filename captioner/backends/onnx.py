"""Models in ONNX Runtime: the runtime of captioning on CPUs. It starts faster than torch can be imported."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from captioner.backends.base import (
    BACKENDS,
    Encoded,
    Pixels,
    Scored,
    State,
    Step,
    Tokens,
    consensus_scores,
    no_gradients,
)
from captioner.backends.graph_files import (
    RERANK,
    Description,
    check_digest,
    describe,
    graph_folder,
    graphs_of,
    make_initialisers,
    read_graph,
    shared_weights,
)
from captioner.backends.sessions import InferenceSession, find_provider, make_session
from captioner.backends.threads import Threads, check_threads
from captioner.errors import CheckpointError, OptionError, one_line
from captioner.header import read_exported, read_header, require_captions
from captioner.metadata import Header
from captioner.tokenizer.vocabulary import END, START, Vocabulary

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from captioner.geometry import Geometry

_Arrays = tuple[NDArray[Any], ...]


@dataclass(frozen=True)
class OnnxEncoded:
    """The first state's tensors of B pictures, and what a reranker reads of them."""

    tensors: _Arrays
    images: int
    pooled: NDArray[np.float32] | None = None

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

    def select(self, rows: NDArray[np.int64], images: NDArray[np.int64] | None = None) -> OnnxState:
        """See `captioner.backends.base.State.select`."""
        chosen = {"row": rows, "image": images, "none": None}
        tensors = tuple(
            tensor if (places := chosen[axis]) is None else tensor.take(places, 0)
            for tensor, axis in zip(self.tensors, self.axes, strict=True)
        )
        return OnnxState(tensors, self.axes, self.images if images is None else len(images))


class OnnxBackend:
    """The graphs of a model as a `captioner.backends.base.Backend`.

    On a CPU each picture is encoded by itself, on one core, and the pictures of a batch are spread over threads: a
    picture's features then stay in the core's cache, and no thread waits for another at each layer, which is slow as
    soon as a neighbour keeps a core busy. Threads may share a backend.

    A forked child can use it, on a CPU; elsewhere it gets an error.

    Args:
        open_graph: returns what starts the session of a graph by its name, and what the graph says about itself.
        vocabulary, about, digest: of the model.
        device: that the sessions compute on.
        threads: how many pictures are encoded side by side on a CPU.
        reranks: whether there is the graph `captioner.backends.graph_files.RERANK` too.
        wait: until the sessions are open. Otherwise they are opened one after the other beside what the caller does
            next, such as opening the first picture.

    Raises:
        CheckpointError: the graphs do not fit the vocabulary or the description; without ``wait`` `encode` raises what
            is wrong with a session.
    """

    name = "onnx"

    def __init__(
        self,
        open_graph: Callable[[str], tuple[Callable[[], InferenceSession], Description]],
        *,
        vocabulary: Vocabulary,
        about: Mapping[str, Any],
        digest: str,
        device: str,
        threads: Threads,
        reranks: bool = False,
        wait: bool = True,
    ) -> None:
        self.vocabulary, self.about, self.digest, self.device = vocabulary, about, digest, device
        self._open = open_graph
        self._sessions: dict[str, InferenceSession] = {}
        self._starts: dict[str, Callable[[], InferenceSession]] = {}
        self._starts["encode"], description = open_graph("encode")
        self.side, self.pad, self.max_length = description["side"], description["pad"], description["max_length"]
        height, width = description["grid_shape"]
        self.grid_shape, self.map_scale = (height, width), description.get("map_scale", 1)
        self.threads = threads
        self.reranks = reranks
        self._axes = tuple(leaf["axis"] for leaf in description["state"])
        self._names = [leaf["name"] for leaf in description["state"]]
        self._changed = [i for i, leaf in enumerate(description["state"]) if not leaf["kept"]]
        self._process = os.getpid()
        self._pool: Executor | None = None
        self._lock = threading.Lock()
        if wait:
            self.session("step")
        else:
            # Not a daemon: if the interpreter ends while one is inside ONNX Runtime, the process aborts.
            threading.Thread(target=self._open_ahead).start()

    @property
    def encodes_beside(self) -> bool:
        """See `captioner.backends.base.EncodesBeside`: a step runs on one core, and leaves the others free."""
        return self.device == "cpu" and self.threads.most > 1

    def encode(self, pixels: Pixels, geometries: Sequence[Geometry]) -> OnnxEncoded:
        """See `captioner.backends.base.Backend.encode`."""
        self.session("step")  # what its start holds for a moment and what the encoder holds are not held at once
        feed: dict[str, NDArray[Any]] = {"pixels": np.ascontiguousarray(pixels)}
        if self.pad:
            feed["mask"] = np.stack([geometry.mask for geometry in geometries])
        names, axes = list(self._names), list(self._axes)
        if self.reranks:
            names.append("pooled")
            axes.append("image")
        if self.device != "cpu" or len(pixels) == 1:
            return self._encoded(self._run("encode", names, feed), len(pixels))

        def encode_one(i: int) -> list[NDArray[Any]]:
            return self._run("encode", names, {name: array[i : i + 1] for name, array in feed.items()})

        each = self._spread(encode_one, len(pixels))
        joined = [
            parts[0] if axis == "none" else np.concatenate(parts)
            for axis, parts in zip(axes, zip(*each, strict=True), strict=True)
        ]
        return self._encoded(joined, len(pixels))

    def _encoded(self, found: list[NDArray[Any]], images: int) -> OnnxEncoded:
        count = len(self._names)
        return OnnxEncoded(tuple(found[:count]), images, found[count] if self.reranks else None)

    def consensus(self, encoded: Encoded, captions: Tokens) -> list[NDArray[np.float32]]:
        """See `captioner.backends.base.HasReranker.consensus`; the graph is opened when it is first asked for."""
        assert isinstance(encoded, OnnxEncoded) and encoded.pooled is not None

        def compute(tokens: NDArray[np.int64], pooled: NDArray[np.float32]) -> NDArray[np.float32]:
            found: NDArray[np.float32] = self._run(RERANK, ["consensus"], {"tokens": tokens, "pooled": pooled})[0]
            return found

        return consensus_scores(captions, encoded.pooled, compute)

    def begin(self, encoded: Encoded) -> OnnxState:
        """See `captioner.backends.base.Backend.begin`."""
        assert isinstance(encoded, OnnxEncoded)
        return OnnxState(encoded.tensors, self._axes, encoded.images)

    def step(self, tokens: NDArray[np.int64], state: State) -> Step:
        """See `captioner.backends.base.Backend.step`."""
        (log_p, maps, off_grid), after = self._step(tokens, state, ["log_p", "map", "off_grid"])
        return Step(log_p=log_p, maps=maps, off_grid=off_grid, state=after)

    def score(self, encoded: Encoded, captions: Tokens) -> list[list[Scored]]:
        """See `captioner.backends.base.Backend.score`; the graph is opened when it is first asked for."""
        assert isinstance(encoded, OnnxEncoded)
        copies = max(map(len, captions), default=0)
        if not copies:
            return [[] for _ in captions]
        steps = max(len(caption) for some in captions for caption in some) + 1
        tokens = np.full((len(captions), copies, max(steps, 2)), END, dtype=np.int64)  # (B, k, T)
        places: list[int] = []
        targets: list[int] = []
        for i, some in enumerate(captions):
            for j, caption in enumerate(some):
                tokens[i, j, : len(caption) + 1] = (START, *caption)
                begin = (i * copies + j) * tokens.shape[2]
                places += range(begin, begin + len(caption) + 1)
                targets += [*caption, END]
        feed = {"tokens": tokens, "places": np.asarray(places), "targets": np.asarray(targets)}
        feed |= dict(zip(self._names, encoded.tensors, strict=True))
        taken = {one.name for one in self.session("score").get_inputs()}
        found = self._run("score", ["log_p", "map", "off_grid"], {name: feed[name] for name in feed if name in taken})
        ends = np.cumsum([len(caption) + 1 for some in captions for caption in some])[:-1]
        parts = zip(*(np.split(array, ends) for array in found), strict=True)
        return [[Scored(*next(parts)) for _ in some] for some in captions]

    def gradients(self, encoded: Encoded, captions: Tokens) -> list[list[Scored]]:
        """There are none; see `captioner.backends.base.Backend.gradients`."""
        raise no_gradients(self)

    def _check_shapes(self, step: InferenceSession) -> None:
        """The graphs fit the vocabulary and the description. Raises CheckpointError."""
        outputs = {output.name: output.shape for output in step.get_outputs()}
        inputs = {each.name: each.shape for each in self._sessions["encode"].get_inputs()}
        if self.reranks and "pooled" not in {each.name for each in self._sessions["encode"].get_outputs()}:
            raise CheckpointError(
                "the model's graphs are of an earlier version",
                remedy="'captioner export MODEL --graphs' writes them again",
            )
        found = {
            "words": ((outputs.get("log_p") or [None])[-1], len(self.vocabulary)),
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

    def session(self, graph: str) -> InferenceSession:
        """The session of a graph, opened when it is first asked for; that of the steps after the encoder's."""
        if graph not in self._sessions:
            if graph == "step":
                self.session("encode")
            self._after_fork()
            with self._lock:
                if graph not in self._sessions:
                    start = self._starts.pop(graph, None) or self._open(graph)[0]
                    session = start()
                    if graph == "step":
                        self._check_shapes(session)
                    self._sessions[graph] = session
        return self._sessions[graph]

    def _open_ahead(self) -> None:
        with contextlib.suppress(CheckpointError, OptionError):  # who needs the session gets the error
            self.session("step")
            if self.reranks:
                self.session(RERANK)

    def _after_fork(self) -> None:
        """A forked child has none of its parent's threads, and may have its lock."""
        if self._process != os.getpid():
            self._process, self._pool, self._lock = os.getpid(), None, threading.Lock()

    def _spread(self, work: Callable[[int], list[NDArray[Any]]], count: int) -> list[list[NDArray[Any]]]:
        """The results of work for the numbers up to ``count``, by this thread and others beside it."""
        found: list[list[NDArray[Any]]] = [[]] * count
        numbers = iter(range(count))

        def run() -> None:
            for i in numbers:  # each goes to one thread
                found[i] = work(i)

        helpers = min(self.threads.now(), count) - 1
        running = [self._helpers().submit(run) for _ in range(helpers)]
        run()
        for one in running:
            one.result()
        return found

    def _helpers(self) -> Executor:
        self._after_fork()
        with self._lock:
            if self._pool is None:
                from concurrent.futures import ThreadPoolExecutor

                self._pool = ThreadPoolExecutor(max(1, self.threads.most - 1), "encode")
            return self._pool

    def _run(self, graph: str, outputs: list[str], feed: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        if self.device != "cpu" and self._process != os.getpid():
            raise OptionError(
                f"this process was forked from one with a model on {self.device}",
                remedy="load the model in each process",
            )
        session = self.session(graph)
        try:
            results: list[NDArray[Any]] = session.run(outputs, feed)
        except Exception as error:  # onnxruntime's exceptions have no common class
            raise CheckpointError(
                f"the graph '{graph}' of the model does not compute ({one_line(error)})",
                remedy="it is damaged; try another",
            ) from None
        return results


@BACKENDS.register("onnx")
def open_model(path: str, *, device: str = "auto", threads: int | None = None, wait: bool = True) -> OnnxBackend:
    """The backend of a model file that has graphs, ``graphs/NAME`` beside it, or of an exported folder.

    Args:
        path: of the file or folder.
        device, threads, wait: see `captioner.pipeline.load`.

    Raises:
        CheckpointError: the model file or a graph is missing, damaged, or not of the other.
        OptionError: there is no such device.
    """
    file = Path(path)
    find_provider(device)  # an unknown device is reported before a file is read
    exported = file.is_dir()
    header, folder = (read_exported(file), file) if exported else (read_header(file), graph_folder(file))
    require_captions(header, file)

    def read(name: str) -> bytes:
        return read_graph(folder / f"{name}.onnx")

    return open_graphs(file, header, folder, read, device=device, threads=threads, wait=wait)


def open_graphs(
    file: Path,
    header: Header,
    folder: Path,
    read: Callable[[str], bytes],
    *,
    device: str = "cpu",
    threads: int | None = 1,
    wait: bool = True,
) -> OnnxBackend:
    """The backend of a model's graphs.

    Args:
        file: the model file, which has the weights; or an exported folder, whose graphs have them.
        header: of the model file, or of the folder.
        folder: of the graphs, for messages.
        read: returns the content of a graph by name. "score" and "rerank" are read when they are first needed.
        device: see `find_provider`.
        threads: see `captioner.backends.threads`; None to choose them by what else the machine does.
        wait: see `OnnxBackend`. Without, one caption is expected: the graph "rerank" is not optimised, because that
            takes longer than its one run, and an eighth of the memory of `best`.

    Raises:
        CheckpointError: a file is damaged, or the graphs are of another model file.
        OptionError: there is no such device.
    """
    found, _ = find_provider(device)
    chosen = Threads(check_threads(threads))

    def open_graph(name: str) -> tuple[Callable[[], InferenceSession], Description]:
        path, content = folder / f"{name}.onnx", read(name)
        description = describe(path, content, graph=name)
        check_digest(path, description, file, header["digest"])
        weights: Mapping[str, NDArray[Any]] = {}
        if "weights" in description:
            weights = shared_weights(path, description, read("step"))
        else:
            weights = make_initialisers(description["initialisers"], file, header)
        return partial(make_session, path, content, weights, device=found, optimise=wait or name != RERANK), description

    return OnnxBackend(
        open_graph,
        vocabulary=Vocabulary(tuple(header["vocabulary"])),
        about=header["about"],
        digest=header["digest"],
        device=found,
        threads=chosen,
        reranks=RERANK in graphs_of(header["config"]),
        wait=wait,
    )
