"""What ``captioner models NAME --diagram FILE`` does: draw how a model attends."""

from pathlib import Path
from typing import TYPE_CHECKING

from captioner.commands.console import report
from captioner.errors import OptionError

if TYPE_CHECKING:
    from captioner.backends.base import RunningModel


def draw(model: str | None, target: str) -> int:
    """Draw the diagram of a model; where there is no graphviz, write its source and say so. Raises CaptionerError."""
    from captioner.commands.files import model_files, refuse_overwriting
    from captioner.foreign import refuse_foreign
    from captioner.header import read_header
    from captioner.shipped import DEFAULT_MODEL, find_model
    from captioner.show.dot import FORMATS, write_diagram

    if Path(target).suffix.lower() not in FORMATS:
        raise OptionError(f"--diagram {target}: a diagram ends in {', '.join(FORMATS)}", remedy="name such a file")
    path = find_model(model or DEFAULT_MODEL, answering=None)
    refuse_foreign(path, "--diagram")
    inputs = model_files(path)
    for written in (Path(target), Path(target).with_suffix(".gv")):  # the source, where there is no graphviz
        refuse_overwriting({"--diagram": written}, inputs)
    header = read_header(path)
    if header["answers"]:
        from captioner.asking import load_answering
        from captioner.show.answer_diagram import answer_diagram

        source = answer_diagram(header, _grid(load_answering(path, device="cpu").backend), name=path.stem)
    else:
        from captioner.pipeline import load
        from captioner.show.diagram import diagram

        source = diagram(header, _grid(load(path, device="cpu").backend), name=path.stem)
    written = write_diagram(source, target)
    if written != Path(target):
        report(f"{written}: the source alone, because graphviz' program dot is not installed")
    print(written)
    return 0


def _grid(backend: "RunningModel") -> tuple[int, int]:
    """(h, w) of the encoder's grid, of which a map may be finer."""
    from captioner.backends.base import HasFineMaps

    scale = backend.map_scale if isinstance(backend, HasFineMaps) else 1
    rows, columns = backend.grid_shape
    return rows // scale, columns // scale
