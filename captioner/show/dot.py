"""Graphs in the DOT language, and files of them.

Graphviz' program ``dot`` makes pictures of them; without it the source can still be written, and any graphviz viewer
shows it.
"""

import io
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from captioner.errors import OptionError
from captioner.partial import written_output

FORMATS = (".svg", ".png", ".gv")
_SECONDS = 60
_COLOURS = {"data": "#e8f0fe", "part": "#f5f5f5", "weights": "#fdebd0", "off": "#fadbd8", "words": "#e6f4ea"}
_FONT = '"DejaVu Sans,Helvetica,Arial,sans-serif"'


def node(name: str, label: str, kind: str) -> str:
    """A box: its name in edges, its text, and its colour: "data", "part", "weights", "off" or "words"."""
    return f'{name} [label={quoted(label)}, fillcolor="{_COLOURS[kind]}"]'


def cluster(name: str, label: str, nodes: Iterable[str]) -> str:
    """A frame around boxes."""
    body = "; ".join(nodes)
    frame = f'label={quoted(label)}; labeljust=l; style="rounded,dashed"; color="#888888"'
    return f"subgraph cluster_{name} {{ {frame}; {body} }}"


def graph(title: str, lines: Iterable[str]) -> str:
    """The source of a graph, of boxes, frames and edges (``a -> b``)."""
    body = "\n".join(f"  {line};" for line in lines)
    return (
        f"digraph attention {{\n  graph [label={quoted(title)}, labelloc=t, rankdir=TB, fontname={_FONT}, "
        f"nodesep=0.35, ranksep=0.4, bgcolor=white];\n"
        f'  node [shape=box, style="rounded,filled", fontname={_FONT}, fontsize=11, color="#888888"];\n'
        f'  edge [color="#555555", fontname={_FONT}, fontsize=10];\n{body}\n}}\n'
    )


def quoted(text: str) -> str:
    """A text of the DOT language."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def write_diagram(source: str, path: str | Path) -> Path:
    """Draw a diagram into a file.

    Args:
        source: what `diagram` returned.
        path: ends in .svg, .png or .gv. Without the program ``dot``, and for .gv, the source is written.

    Returns:
        The file that was written: ``path``, or the .gv beside it where there is no ``dot``.

    Raises:
        OptionError: another ending, a file that cannot be written, or ``dot`` fails.
    """
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise OptionError(f"{path}: a diagram ends in {', '.join(FORMATS)}, not '{path.suffix}'")
    program = shutil.which("dot")
    if path.suffix.lower() == ".gv" or program is None:
        path = path.with_suffix(".gv")
        content = source.encode()
    else:
        content = _draw(program, source, path)
        if path.suffix.lower() == ".png":
            content = _marked(content)
    with written_output(path) as partial:
        partial.write_bytes(content)
    return path


def _marked(content: bytes) -> bytes:
    """A PNG file that names captioner as its program: a later run may replace it."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    info, buffer = PngInfo(), io.BytesIO()
    info.add_text("Software", "captioner, graphviz")
    with Image.open(io.BytesIO(content)) as drawn:
        drawn.save(buffer, "PNG", pnginfo=info, dpi=drawn.info.get("dpi"))
    return buffer.getvalue()


def _draw(program: str, source: str, path: Path) -> bytes:
    format_ = path.suffix.lower().lstrip(".")
    dots = ("-Gdpi=110",) if format_ == "png" else ()
    try:
        done = subprocess.run(
            [program, f"-T{format_}", *dots], input=source.encode(), capture_output=True, timeout=_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        reason = getattr(error, "stderr", None) or str(error).encode()
        raise OptionError(
            f"{path}: graphviz' dot failed ({' '.join(reason.decode('utf-8', 'replace').split())[:200]})",
            remedy="write a .gv file, and draw it yourself",
        ) from None
    return done.stdout
