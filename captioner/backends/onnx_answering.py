"""Answering models in ONNX Runtime: the runtime of asking on CPUs, which needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from captioner.backends.base import AnswerScores, Encoded, Pixels, Tokens
from captioner.backends.graph_files import (
    ANSWERING_GRAPHS,
    Description,
    check_digest,
    describe,
    graph_folder,
    make_initialisers,
    read_graph,
)
from captioner.backends.questions import pad_questions, unpad_answers
from captioner.backends.sessions import InferenceSession, find_provider, make_session
from captioner.backends.threads import Threads, check_threads
from captioner.errors import CheckpointError, one_line
from captioner.header import read_header, require_answers
from captioner.metadata import Header
from captioner.tokenizer.vocabulary import Vocabulary

if TYPE_CHECKING:
    from captioner.geometry import Geometry


@dataclass(frozen=True)
class OnnxGrid:
    """The refined grids of B pictures, (B, h * w, D), and the mask (B, h * w) where pictures are padded."""

    features: NDArray[np.float32]
    mask: NDArray[np.bool_] | None

    def __len__(self) -> int:
        return len(self.features)


class OnnxAnsweringBackend:
    """The two graphs of a model, ``encode`` and ``answer``, as a `captioner.backends.base.AnsweringBackend`.

    Args:
        sessions: of the graphs, by name.
        description: of the answer graph.
        header: of the model file.
        device: that the sessions compute on.
        threads: how many pictures are encoded side by side on a CPU, on one core each.

    Raises:
        CheckpointError: the graphs do not fit the model.
    """

    name = "onnx"

    def __init__(
        self,
        sessions: Mapping[str, InferenceSession],
        description: Description,
        *,
        header: Header,
        device: str,
        threads: Threads,
    ) -> None:
        self.vocabulary, self.answers = Vocabulary(tuple(header["vocabulary"])), tuple(header["answers"])
        self.about, self.digest, self.device = header["about"], header["digest"], device
        self.side, self.pad, self.max_length = description["side"], description["pad"], description["max_length"]
        height, width = description["grid_shape"]
        self.grid_shape, self.map_scale = (height, width), description.get("map_scale", 1)
        self._threads = threads
        self._sessions = dict(sessions)
        outputs = {output.name: output.shape for output in self._sessions["answer"].get_outputs()}
        if (outputs.get("log_p") or [None])[-1] != len(self.answers):
            raise CheckpointError(f"the model has {len(self.answers)} answers and its graphs others: one is damaged")

    @property
    def threads(self) -> int:
        """See `captioner.backends.base.AnsweringBackend`; chosen every few seconds where no number was asked for."""
        return self._threads.now() if self.device == "cpu" else 1

    def encode(self, pixels: Pixels, geometries: Sequence[Geometry]) -> OnnxGrid:
        """See `captioner.backends.base.AnsweringBackend.encode`; one picture at a time, which is fastest on a CPU."""
        masks = np.stack([geometry.mask for geometry in geometries]) if self.pad else None
        found = []
        for i in range(len(pixels)):
            feed: dict[str, NDArray[Any]] = {"pixels": np.ascontiguousarray(pixels[i : i + 1])}
            if masks is not None:
                feed["mask"] = masks[i : i + 1]
            found.append(self._run("encode", ["grid"], feed)[0])
        return OnnxGrid(np.concatenate(found), None if masks is None else masks.reshape(len(masks), -1))

    def answer(self, encoded: Encoded, questions: Tokens) -> list[list[AnswerScores]]:
        """See `captioner.backends.base.AnsweringBackend.answer`."""
        assert isinstance(encoded, OnnxGrid)
        feed: dict[str, NDArray[Any]] = {"grid": encoded.features, "tokens": pad_questions(questions)}
        if encoded.mask is not None:
            feed["mask"] = encoded.mask
        log_p, maps, words = self._run("answer", ["log_p", "map", "words"], feed)
        return unpad_answers(questions, log_p, maps, words)

    def _run(self, graph: str, outputs: list[str], feed: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        try:
            results: list[NDArray[Any]] = self._sessions[graph].run(outputs, feed)
        except Exception as error:  # onnxruntime's exceptions have no common class
            raise CheckpointError(
                f"the graph '{graph}' of the model does not compute ({one_line(error)})",
                remedy="it is damaged; try --backend torch",
            ) from None
        return results


def open_onnx(path: str, *, device: str = "auto", threads: int | None = None) -> OnnxAnsweringBackend:
    """The backend of an answering model's file that has graphs, ``graphs/NAME`` beside it, or of an exported folder.

    Raises:
        CheckpointError: the model file or a graph is missing, damaged, or not of the other; or a captioning model.
        OptionError: there is no such device.
    """
    file = Path(path)
    find_provider(device)
    header = read_header(file)
    require_answers(header, file)
    folder = file if file.is_dir() else graph_folder(file)
    graphs = {name: (folder / f"{name}.onnx", read_graph(folder / f"{name}.onnx")) for name in ANSWERING_GRAPHS}
    return open_answering_graphs(file, header, graphs, device=device, threads=threads)


def open_answering_graphs(
    file: Path,
    header: Header,
    graphs: Mapping[str, tuple[Path, bytes]],
    *,
    device: str = "cpu",
    threads: int | None = 1,
) -> OnnxAnsweringBackend:
    """The backend of graphs, whose weights are in the model file or in an exported folder's graphs; arguments and
    errors as of `captioner.backends.onnx.open_graphs`."""
    found, _ = find_provider(device)
    chosen = Threads(check_threads(threads))

    def open_graph(name: str) -> tuple[InferenceSession, Description]:
        path, content = graphs[name]
        description = describe(path, content, graph=name)
        check_digest(path, description, file, header["digest"])
        weights = make_initialisers(description["initialisers"], file, header)
        return make_session(path, content, weights, device=found, low_peak=False), description

    with ThreadPoolExecutor(len(graphs), "open") as pool:  # side by side: both are needed for the first answer
        opened = dict(zip(graphs, pool.map(open_graph, graphs), strict=True))
    sessions = {name: session for name, (session, _) in opened.items()}
    return OnnxAnsweringBackend(sessions, opened["answer"][1], header=header, device=found, threads=chosen)
