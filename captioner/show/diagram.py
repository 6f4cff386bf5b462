"""How a model attends, as a graph in the DOT language: from picture to words, with the shapes at every arrow.

It is computed from what a model file says about itself. Graphviz' program ``dot`` makes pictures of it; without it the
source can still be written, and any graphviz viewer shows it.
"""

import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captioner.errors import OptionError
from captioner.tokenizer.vocabulary import SPECIAL

FORMATS = (".svg", ".png", ".gv")
_SECONDS = 60
_COLOURS = {"data": "#e8f0fe", "part": "#f5f5f5", "weights": "#fdebd0", "off": "#fadbd8", "words": "#e6f4ea"}


@dataclass(frozen=True)
class _Mechanism:
    """What is drawn of an attention mechanism.

    Attributes:
        title, paper: of it.
        score: of a query and a cell.
        weigh: from scores to weights.
        beside: what has weights beside the cells: its label, and whether that weight is off the grid.
        context: from weights to the context.
    """

    title: str
    paper: str
    score: str
    weigh: str = "softmax over the cells"
    beside: tuple[str, bool] | None = None
    context: str = "weighted sum of the cells"


_ADDITIVE = "v · tanh(W q + U k)"
_DOT = "q · k / √A"
_MECHANISMS = {
    "additive": _Mechanism("additive attention", "Bahdanau et al. 2015", _ADDITIVE),
    "dot": _Mechanism("scaled dot product", "Vaswani et al. 2017", _DOT),
    "multihead": _Mechanism("multi-head attention", "Vaswani et al. 2017", _DOT + ", each head"),
    "hard": _Mechanism(
        "hard attention", "Xu et al. 2015, 4.1", _ADDITIVE, context="one cell: drawn in training, then the likeliest"
    ),
    "local": _Mechanism(
        "local attention",
        "Luong et al. 2015",
        _DOT,
        "softmax inside the window, with a Gaussian",
        ("centre, predicted from the query", False),
    ),
    "local_previous": _Mechanism(
        "local attention",
        "Luong et al. 2015",
        _DOT,
        "softmax inside the window, with a Gaussian",
        ("centre: where the word before was seen", False),
    ),
    "adaptive": _Mechanism(
        "adaptive attention",
        "Lu et al. 2017",
        _ADDITIVE,
        "one softmax over cells and sentinel",
        ("visual sentinel", True),
        "weighted sum of cells and sentinel",
    ),
    "memory": _Mechanism(
        "memory attention",
        "Cornia et al. 2020",
        _DOT + ", each head",
        "one softmax over cells and slots",
        ("memory slots", True),
        "weighted sum of cells and slots",
    ),
    "attention_on_attention": _Mechanism(
        "attention on attention",
        "Huang et al. 2019",
        _DOT + ", each head",
        beside=("gate: σ of query and context", False),
        context="gate x information vector",
    ),
    "channel": _Mechanism(
        "channel and spatial attention",
        "Chen et al. 2017",
        _ADDITIVE + ", of weighed channels",
        beside=("channels: softmax, for each word", False),
        context="weighted sum of the weighed cells",
    ),
    "hierarchical": _Mechanism(
        "hierarchical attention",
        "Yang et al. 2016",
        _ADDITIVE,
        "softmax inside regions, x softmax over regions",
        ("regions", False),
    ),
    "temporal": _Mechanism(
        "temporal attention",
        "Yao et al. 2015",
        _ADDITIVE,
        "softmax inside frames, x softmax over frames",
        ("frames", False),
    ),
}
_REFINERS = {
    "transformer_encoder": "positions",
    "se": "squeeze-and-excitation: a gate for each channel",
    "eca": "efficient channel attention: a gate for each channel",
    "spatial": "spatial attention: a gate for each cell",
    "cbam": "CBAM: gates for channels, then for cells",
    "self_attention": "self-attention of the cells, residual gate",
    "relative_self_attention": "self-attention with relative positions, residual gate",
    "selective_kernel": "selective kernels: softmax over branches",
    "coarse_cells": "coarse cells: softmax inside each",
    "latent_queries": "latent queries: attention pooling",
}


def diagram(header: Mapping[str, Any], grid: tuple[int, int], *, name: str = "model") -> str:
    """The DOT source of how a model attends.

    Args:
        header: of its file; see `captioner.header.Header`.
        grid: (h, w) of the encoder's grid.
        name: of the model, for the title.
    """
    config, tensors = header["config"], header["tensors"]
    encoder, refiner, decoder = config["encoder"], config["refiner"], config["decoder"]
    side, cells = encoder.get("side"), grid[0] * grid[1]
    channels = next(iter(tensors.get("refiner.input_norm.weight", {}).get("shape", ())), "C")
    width, kind = refiner.get("width", "D"), decoder.get("kind", "decoder")
    transformer = kind == "transformer"
    query_width = decoder.get("width", "E")
    attention = decoder.get("attention", "multihead")  # the default of every decoder here
    options = decoder.get("attention_options", {})
    mechanism = _MECHANISMS.get(attention, _Mechanism(f"attention '{attention}'", "", "score of query and key"))
    heads, space = decoder.get("heads", 1), decoder.get("attention_width", query_width)
    vectors, pooled = _vectors(refiner, cells)
    nodes = [
        _node("picture", f"picture\n{side} x {side} x 3", "data"),
        _node("encoder", _encoder_label(encoder), "part"),
        _node("maps", f"feature maps\n{grid[0]} x {grid[1]} x {channels}", "data"),
        _node("refiner", _refiner_label(refiner), "part"),
        _node("grid", f"{vectors} {'vectors' if pooled else 'cells'} x {width}", "data"),
        _node("keys", f"keys\n{vectors} x {space}", "data"),
        _node("values", f"values\n{vectors} x {space if attention in _MANY_HEADS else width}", "data"),
        _node("read", "words so far", "words"),
        _node("decoder", _decoder_label(decoder), "part"),
        _node("query", f"query\n{space}", "data"),
        _node("scores", f"scores\n{mechanism.score}\n{heads} x {vectors}", "part"),
        _node("weights", f"weights\n{mechanism.weigh}\n{heads} x {vectors}", "weights"),
        _node("map", _map_label(decoder, grid, pooled), "weights"),
        _node("context", f"context\n{mechanism.context}\n{width}", "data"),
        _node("word", f"next word\none of {len(header['vocabulary']) - len(SPECIAL):,}, or the end", "words"),
    ]
    edges = [
        "picture -> encoder -> maps -> refiner -> grid",
        "grid -> keys -> scores",
        "grid -> values -> context",
        "read -> decoder -> query -> scores -> weights -> context -> word",
        "weights -> map",
        "decoder -> word",
    ]
    if not transformer:
        edges.append('context -> decoder [style=dashed, label="next step", constraint=false]')
    if mechanism.beside is not None:
        label, off = mechanism.beside
        shown = "".join(f"\n{key} {value}" for key, value in options.items())
        nodes.append(_node("beside", label + shown, "off" if off else "weights"))
        edges += [f"{'decoder' if attention != 'memory' else 'query'} -> beside", "beside -> weights"]
        if attention == "attention_on_attention":
            edges[-1] = "beside -> context"
        if off:
            nodes.append(_node("off_grid", "off_grid\nhow little the picture mattered", "off"))
            edges.append("weights -> off_grid")
    paper = f" ({mechanism.paper})" if mechanism.paper else ""
    title = f"{name}: {mechanism.title}{paper}"
    body = "\n".join(f"  {line};" for line in (*nodes, *edges))
    return (
        f"digraph attention {{\n  graph [label={_quoted(title)}, labelloc=t, rankdir=TB, fontname={_FONT}, "
        f"nodesep=0.35, ranksep=0.4, bgcolor=white];\n"
        f'  node [shape=box, style="rounded,filled", fontname={_FONT}, fontsize=11, color="#888888"];\n'
        f'  edge [color="#555555", fontname={_FONT}, fontsize=10];\n{body}\n}}\n'
    )


_MANY_HEADS = ("multihead", "memory", "attention_on_attention")
_FONT = '"DejaVu Sans,Helvetica,Arial,sans-serif"'


def _vectors(refiner: Mapping[str, Any], cells: int) -> tuple[int, bool]:
    """How many vectors the decoder attends to, and whether they are fewer than the cells."""
    if refiner.get("kind") == "latent_queries":
        return int(refiner["queries"]), True
    if refiner.get("kind") == "coarse_cells":
        return int(refiner["regions"]) ** 2, True
    return cells, False


def _encoder_label(encoder: Mapping[str, Any]) -> str:
    lines = [f"encoder\n{encoder.get('backbone')}"]
    if encoder.get("attention"):
        after = ", ".join(map(str, encoder["attention_after"]))
        lines.append(f"{encoder['attention'].replace('_', ' ')} after stage {after}")
    return "\n".join(lines)


def _refiner_label(refiner: Mapping[str, Any]) -> str:
    kind = refiner.get("kind", "transformer_encoder")
    lines = ["refiner", _REFINERS.get(kind, kind)]
    if refiner.get("layers"):
        lines.append(f"{refiner['layers']} layers of self-attention")
    return "\n".join(lines)


def _decoder_label(decoder: Mapping[str, Any]) -> str:
    if decoder.get("kind") == "transformer":
        return f"Transformer\n{decoder['layers']} layers x {decoder['heads']} heads\nstate {decoder['width']}"
    width = f"\nhidden state {decoder['width']}" if "width" in decoder else ""
    return f"{str(decoder.get('kind', 'decoder')).upper()}{width}"


def _map_label(decoder: Mapping[str, Any], grid: tuple[int, int], pooled: bool) -> str:
    chosen = decoder.get("map_heads") or "all"
    heads = "all heads" if chosen == "all" else f"{len(chosen)} chosen heads"
    source = "\nthrough each vector's own map" if pooled else ""
    return f"map of the word\nmean of {heads}{source}\n{grid[0]} x {grid[1]}"


def _node(name: str, label: str, kind: str) -> str:
    return f'{name} [label={_quoted(label)}, fillcolor="{_COLOURS[kind]}"]'


def _quoted(text: str) -> str:
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
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        raise OptionError(f"{path}: cannot be written ({error.strerror or error})") from None
    return path


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
