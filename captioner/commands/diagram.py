"""What ``captioner models NAME --diagram FILE`` does: draw how a model attends."""

from pathlib import Path

from captioner.commands.console import report
from captioner.errors import OptionError


def draw(model: str | None, target: str) -> int:
    """Draw the diagram of a model; where there is no graphviz, write its source and say so. Raises CaptionerError."""
    from captioner.commands.files import refuse_overwriting
    from captioner.foreign import refuse_foreign
    from captioner.header import read_header
    from captioner.pipeline import load
    from captioner.shipped import DEFAULT_MODEL, find_model
    from captioner.show.diagram import FORMATS, diagram, write_diagram

    if Path(target).suffix.lower() not in FORMATS:
        raise OptionError(f"--diagram {target}: a diagram ends in {', '.join(FORMATS)}", remedy="name such a file")
    path = find_model(model or DEFAULT_MODEL)
    refuse_foreign(path, "--diagram")
    refuse_overwriting({"--diagram": target}, [path])
    source = diagram(read_header(path), load(path, device="cpu").backend.grid_shape, name=path.stem)
    written = write_diagram(source, target)
    if written != Path(target):
        report(f"{written}: the source alone, because graphviz' program dot is not installed")
    print(written)
    return 0
