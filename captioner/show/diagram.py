"""How a model attends, as a graph in the DOT language: from picture to words, with the shapes at every arrow.

It is computed from what a model file says about itself. `captioner.show.dot` writes it; `captioner.show.answer_diagram`
draws models that answer questions.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from captioner.show.dot import graph, node
from captioner.tokenizer.vocabulary import SPECIAL


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
        header: of its file; see `captioner.metadata.Header`.
        grid: (h, w) of the encoder's grid.
        name: of the model, for the title.
    """
    decoder, *others = _members(header["config"]["decoder"])
    picture = PictureSide.of(header, grid)
    vectors, width, pooled = picture.vectors, picture.width, picture.pooled
    transformer = decoder.get("kind", "decoder") == "transformer"
    query_width = decoder.get("width", "E")
    attention = decoder.get("attention", "multihead")  # the default of every decoder here
    options = decoder.get("attention_options", {})
    mechanism = _MECHANISMS.get(attention, _Mechanism(f"attention '{attention}'", "", "score of query and key"))
    heads, space = decoder.get("heads", 1), decoder.get("attention_width", query_width)
    nodes = [
        *picture.nodes,
        node("keys", f"keys\n{vectors} x {space}", "data"),
        node("values", f"values\n{vectors} x {space if attention in _MANY_HEADS else width}", "data"),
        node("read", "words so far", "words"),
        node("decoder", _decoder_label(decoder), "part"),
        node("query", f"query\n{space}", "data"),
        node("scores", f"scores\n{mechanism.score}\n{heads} x {vectors}", "part"),
        node("weights", f"weights\n{mechanism.weigh}\n{heads} x {vectors}", "weights"),
        node("map", _map_label(decoder, grid, pooled), "weights"),
        node("context", f"context\n{mechanism.context}\n{width}", "data"),
        node("word", f"next word\none of {len(header['vocabulary']) - len(SPECIAL):,}, or the end", "words"),
    ]
    edges = [
        PictureSide.EDGES,
        "grid -> keys -> scores",
        "grid -> values -> context",
        f"read -> decoder -> query -> scores -> weights -> context -> {'mean' if others else 'word'}",
        f"decoder -> {'mean' if others else 'word'}",
    ]
    if others:
        nodes.append(node("mean", f"mean of the probabilities\nof {len(others) + 1} decoders", "data"))
        edges.append("mean -> word")
    for number, one in enumerate(others, 2):
        own = "refiner" in one
        label = f"{_decoder_label(one)}\nwith {'a refiner and ' if own else ''}an attention of its own"
        nodes.append(node(f"member_{number}", label, "part"))
        edges += [f"{'maps' if own else 'grid'} -> member_{number} -> mean", f"read -> member_{number}"]
    if fine := decoder.get("fine_width"):
        nodes += fine_nodes(header, grid)
        edges += ["encoder -> fine -> parts", "grid -> parts", "weights -> parts -> map"]
        edges.append(f'decoder -> parts [label="query {fine}"]')
    else:
        edges.append("weights -> map")
    if not transformer:
        edges.append('context -> decoder [style=dashed, label="next step", constraint=false]')
    if mechanism.beside is not None:
        label, off = mechanism.beside
        shown = "".join(f"\n{key} {value}" for key, value in options.items())
        nodes.append(node("beside", label + shown, "off" if off else "weights"))
        edges += [f"{'decoder' if attention != 'memory' else 'query'} -> beside", "beside -> weights"]
        if attention == "attention_on_attention":
            edges[-1] = "beside -> context"
        if off:
            nodes.append(node("off_grid", "off_grid\nshare of the attention off the picture", "off"))
            edges.append("weights -> off_grid")
    paper = f" ({mechanism.paper})" if mechanism.paper else ""
    return graph(f"{name}: {mechanism.title}{paper}", (*nodes, *edges))


_MANY_HEADS = ("multihead", "memory", "attention_on_attention")


@dataclass(frozen=True)
class PictureSide:
    """What models of both kinds begin with: from the picture to what is attended to.

    Attributes:
        nodes: of the graph; "grid" is what is attended to.
        vectors, width: of what is attended to.
        pooled: whether there are fewer vectors than cells.
    """

    EDGES = "picture -> encoder -> maps -> refiner -> grid"

    nodes: tuple[str, ...]
    vectors: int
    width: int | str
    pooled: bool

    @classmethod
    def of(cls, header: Mapping[str, Any], grid: tuple[int, int]) -> "PictureSide":
        """Arguments as of `diagram`."""
        encoder, refiner = header["config"]["encoder"], header["config"]["refiner"]
        side, width = encoder.get("side"), refiner.get("width", "D")
        tensors = (header["shared"][1] if header.get("shared") else header)["tensors"]
        channels = next(iter(tensors.get("refiner.input_norm.weight", {}).get("shape", ())), "C")
        vectors, pooled = _vectors(refiner, grid[0] * grid[1])
        nodes = (
            node("picture", f"picture\n{side} x {side} x 3", "data"),
            node("encoder", _encoder_label(encoder), "part"),
            node("maps", f"feature maps\n{grid[0]} x {grid[1]} x {channels}", "data"),
            node("refiner", _refiner_label(refiner), "part"),
            node("grid", f"{vectors} {'vectors' if pooled else 'cells'} x {width}", "data"),
        )
        return cls(nodes, vectors, width, pooled)


def doubled(grid: tuple[int, int]) -> tuple[int, int]:
    """The shape of the parts of a grid's cells; see `captioner.model.fine_maps`."""
    return 2 * grid[0], 2 * grid[1]


def fine_nodes(header: Mapping[str, Any], grid: tuple[int, int]) -> tuple[str, ...]:
    """The features of the parts of cells, and how they are weighed."""
    stage, (height, width) = header["config"]["encoder"].get("fine_stage"), doubled(grid)
    norms = [one for name, one in header["tensors"].items() if name.endswith("fine.part_norm.weight")]
    channels = next(iter(norms[0].get("shape", ())), "F") if norms else "F"
    decoder = header["config"].get("decoder")
    of = f"of the {_map_heads(_members(decoder)[0])}\n" if decoder else ""
    weigh = f"{of}softmax over the parts of cells\nof t log weight + q · k"
    return (
        node("fine", f"feature maps of stage {stage}\n{height} x {width} x {channels}", "data"),
        node("parts", f"fine weights\n{weigh}\n{height * width}", "weights"),
    )


def _members(decoder: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The decoders of an ensemble, the one that makes the maps first; or the only decoder."""
    return list(decoder["members"]) if decoder.get("kind") == "ensemble" else [decoder]


def _vectors(refiner: Mapping[str, Any], cells: int) -> tuple[int, bool]:
    """How many vectors are attended to, and whether they are fewer than the cells."""
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


def _map_heads(decoder: Mapping[str, Any]) -> str:
    chosen = decoder.get("map_heads") or "all"
    if chosen != "all":
        return f"mean of {len(chosen)} chosen heads"
    layers = decoder.get("layers", 1) if decoder.get("kind") == "transformer" else 1
    return "mean of all heads" + " of the last layer" * (layers > 1)


def _map_label(decoder: Mapping[str, Any], grid: tuple[int, int], pooled: bool) -> str:
    if decoder.get("fine_width"):
        height, width = doubled(grid)
        return f"map of the word\n{height} x {width}"
    source = "\nthrough each vector's own map" if pooled else ""
    return f"map of the word\n{_map_heads(decoder)}{source}\n{grid[0]} x {grid[1]}"
