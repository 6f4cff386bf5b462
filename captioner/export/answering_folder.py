"""An answering model as a folder that needs no captioner: graphs with their weights, ``config.json`` and an example.

`captioner.asking.load_answering` opens it too.
"""

import copy
from pathlib import Path
from typing import Any

from captioner import checkpoint
from captioner.backends.graph_files import ANSWERING_GRAPHS
from captioner.backends.onnx_answering import open_answering_graphs
from captioner.backends.torch_answering import TorchAnsweringBackend
from captioner.errors import OptionError
from captioner.export.answers import answering_parity, export_answering_graphs
from captioner.export.folder import (
    EXAMPLE,
    calibration_pixels,
    check_folder,
    common_config,
    stored_graphs,
    write_with_example,
)
from captioner.export.parity import TOLERANCE, Parity
from captioner.export.precision import TOLERANCES, check_precision, reduce_precision
from captioner.header import EXPORTED, read_header
from captioner.model.quantised import quantise


def export_answering_folder(
    model_file: str | Path, folder: str | Path, *, precision: str = "fp32", calibrate: Path | None = None
) -> Parity:
    """Write an answering model as a folder, and check it against torch.

    Args:
        model_file: of a trained model.
        folder: that is written: ``encode.onnx`` and ``answer.onnx`` with their weights, ``config.json`` (words of
            questions, answers, preprocessing, grid, provenance, scores, how far it is from torch) and ``example.py``,
            which needs only numpy, pillow and onnxruntime. It must be new, empty, or an exported folder, which is
            replaced.
        precision, calibrate: as of `captioner.export.folder.export_folder`.

    Returns:
        How far the folder is from torch.

    Raises:
        CheckpointError: the model file is missing or damaged.
        OptionError: as of `captioner.export.folder.export_folder`.
    """
    path, folder = Path(model_file), Path(folder)
    check_precision(precision)
    if calibrate is not None and precision != "int8":
        raise OptionError(f"pictures to calibrate on are for the precision int8, not {precision}")
    check_folder(folder, {EXPORTED, EXAMPLE, *(f"{name}.onnx" for name in ANSWERING_GRAPHS)})
    header, model = read_header(path), checkpoint.load_answering(path)
    torch_backend = TorchAnsweringBackend(model)
    pixels = [] if calibrate is None else calibration_pixels(calibrate, torch_backend)
    if precision == "int8":
        smaller = copy.deepcopy(model)
        quantise(smaller.model.answerer)
        graphs = export_answering_graphs(smaller, digest=header["digest"])
    else:
        stored = stored_graphs(path, header, ANSWERING_GRAPHS)
        graphs = stored or export_answering_graphs(model, digest=header["digest"])
    reduce_precision(graphs, model.model, precision, pixels)
    contents = {f"{name}.onnx": graphs[name].SerializeToString(deterministic=True) for name in ANSWERING_GRAPHS}
    files = {name: (folder / f"{name}.onnx", contents[f"{name}.onnx"]) for name in ANSWERING_GRAPHS}
    found = answering_parity(torch_backend, open_answering_graphs(folder, header, files))
    tolerance = TOLERANCES.get(precision, TOLERANCE)
    if not found.log_p <= tolerance:
        raise OptionError(
            f"the exported model computes something else than torch: log-probabilities differ by {found.log_p:.2g}",
            remedy="export it with another precision",
        )
    config: dict[str, Any] = {
        **common_config(path, header, torch_backend, precision, found),
        "answers": header["answers"],
        **({"calibration": len(pixels)} if precision == "int8" else {}),
    }
    write_with_example(folder, contents, config)
    return found
