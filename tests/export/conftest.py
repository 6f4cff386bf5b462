"""A tiny model with graphs beside it, so that no test traces it again."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from captioner import checkpoint
from captioner.header import read_header


@pytest.fixture(scope="session", autouse=True)
def _one_table_of_operators() -> Iterator[None]:
    """What torch's exporter knows of 500 operators, half a second at each trace, is put together once."""
    with pytest.MonkeyPatch.context() as patch:
        with suppress(ImportError):  # it is torch's own matter where it is
            from torch.onnx._internal.exporter._registration import ONNXRegistry

            patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(cache(ONNXRegistry.from_torchlib)))
        yield


@pytest.fixture(scope="session")
def model_file(exported: Callable[[str], Path]) -> Path:
    return exported("lstm-padded")


@pytest.fixture
def traced_again(
    model_file: Path, for_all_processes: Callable[[str, Callable[[Path], object]], Path]
) -> Callable[..., dict[str, Any]]:
    """In the place of `captioner.export.graphs.export_graphs`: the graphs of ``model_file``, which were traced a second
    time, once for all test processes."""

    onnx = pytest.importorskip("onnx", reason="needs the extra 'export', which is not installed")

    def trace(folder: Path) -> None:
        from captioner.export.graphs import export_graphs

        graphs = export_graphs(checkpoint.load(model_file), digest=read_header(model_file)["digest"])
        for name, graph in graphs.items():
            onnx.save(graph, folder / f"{name}.onnx")

    folder = for_all_processes("traced-again", trace)
    return lambda *_, **__: {name: onnx.load(folder / f"{name}.onnx") for name in ("encode", "step", "score")}
