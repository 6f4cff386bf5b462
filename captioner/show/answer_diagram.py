"""How an answering model attends, as a graph in the DOT language: from picture and question to the answer, with the
shapes at every arrow.

It is computed from what a model file says about itself, as `captioner.show.diagram` does for captioning models.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from captioner.show.diagram import PictureSide, doubled, fine_nodes
from captioner.show.dot import cluster, graph, node
from captioner.tokenizer.vocabulary import SPECIAL

_READ = {"word": "words", "phrase": "phrases", "question": "question"}
_DOT = "q · k / √A, each head"


@dataclass(frozen=True)
class _CoAttention:
    """What is drawn of a co-attention mechanism.

    Attributes:
        first: how it begins, from the words (and cells).
        cells, words: how each is weighed.
        parallel: cells and words are weighed at once, both from ``first``; else words after cells.
    """

    first: str
    cells: str
    words: str
    parallel: bool = False


_CO_ATTENTIONS = {
    "parallel": _CoAttention(
        "affinity\nC = tanh(Q W Vᵀ)\n{words} x {cells}",
        "softmax of w · tanh(V Wv + Cᵀ Q Wq)",
        "softmax of w · tanh(Q Wq + C V Wv)",
        parallel=True,
    ),
    "alternating": _CoAttention(
        "summary of the words\nsoftmax of w · tanh(Q Wx)\n{width}",
        "softmax of w · tanh(V Wx + g Wg), g = summary",
        "softmax of w · tanh(Q Wx + g Wg), g = what was seen",
    ),
    "multihead": _CoAttention(
        "summary of the words\na learned query, " + _DOT + "\n{width}",
        "softmax of " + _DOT + ", q = summary",
        "softmax of " + _DOT + ", q = what was seen",
    ),
}


def answer_diagram(header: Mapping[str, Any], grid: tuple[int, int], *, name: str = "model") -> str:
    """The DOT source of how an answering model attends.

    Args:
        header: of its file; see `captioner.metadata.Header`.
        grid: (h, w) of the encoder's grid.
        name: of the model, for the title.
    """
    answerer = header["config"]["answerer"]
    kind = answerer.get("kind", "answerer")
    picture = PictureSide.of(header, grid)
    nodes, edges = _question(header)
    nodes += picture.nodes
    edges.append(PictureSide.EDGES)
    if answerer.get("fine_width"):
        nodes += fine_nodes(header, grid)
    title, paper, more = _ANSWERERS.get(kind, _other)(answerer, picture, grid, nodes, edges)
    if more:
        title += f", {more}"
    if header["config"].get("blind"):
        title += ", blind: zeros take the place of the feature maps"
    nodes.append(node("answer", f"answer\none of {len(header['answers']):,}", "words"))
    return graph(f"{name}: {title}{f' ({paper})' if paper else ''}", (*nodes, *edges))


def _question(header: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """From the question's words to its levels."""
    answerer = header["config"]["answerer"]
    width, vocabulary = answerer.get("width", "D"), len(header["vocabulary"]) - len(SPECIAL)
    length = f"T, at most {answerer['max_length']}" if "max_length" in answerer else "T"
    nodes = [
        node("asked", f"question\n{length}, of {vocabulary:,} words", "words"),
        node("embedding", f"embedding\nT x {answerer.get('embedding', 'E')}", "data"),
        node("word", f"words\ntanh of a projection\nT x {width}", "data"),
        node("lstm", f"LSTM\nhidden state {width}", "part"),
        node("question", f"question\nT x {width}", "data"),
        node("last", f"at the last word\n{width}", "data"),
    ]
    edges = ["asked -> embedding -> word", "lstm -> question", "lstm -> last"]
    if "phrase" in answerer.get("levels", ()):
        nodes.append(node("phrase", f"phrases\nthe strongest of 1, 2 and 3 words\nT x {width}", "data"))
        edges += ["embedding -> phrase", "phrase -> lstm"]
    else:
        edges.append("word -> lstm")
    return nodes, edges


def _hierarchical(
    answerer: Mapping[str, Any], picture: PictureSide, grid: tuple[int, int], nodes: list[str], edges: list[str]
) -> tuple[str, str, str]:
    """Co-attention at each level, what both found fused from the words up."""
    levels, heads, width = answerer["levels"], answerer.get("heads", 1), answerer.get("width", "D")
    kind = answerer.get("co_attention", "co-attention")
    how = _CO_ATTENTIONS.get(kind, _CoAttention("co-attention '" + kind + "'", "softmax", "softmax"))
    nodes.append(node("cells", f"cells, as wide as the words\n{picture.vectors} x {width}", "data"))
    edges.append("grid -> cells")
    parts = "v + q, v x q" if answerer.get("products") else "v + q"
    for i, level in enumerate(levels):
        first = how.first.format(words="T", cells=picture.vectors, width=width)
        inside = [
            node(f"first_{level}", first, "data"),
            node(f"cells_{level}", f"weights over cells\n{how.cells}\n{heads} x {picture.vectors}", "weights"),
            node(f"words_{level}", f"weights over words\n{how.words}\n{heads} x T", "weights"),
            node(f"seen_{level}", f"v: what was seen\nweighted sum of the cells\n{width}", "data"),
            node(f"read_{level}", f"q: what was read\nweighted sum of the words\n{width}", "data"),
        ]
        nodes.append(cluster(level, f"{kind} co-attention with the {_READ[level]}", inside))
        edges += [f"{level} -> first_{level}", f"first_{level} -> cells_{level} -> seen_{level}"]
        edges += [f"words_{level} -> read_{level}", f"cells -> {'first' if how.parallel else 'cells'}_{level}"]
        edges.append(f"first_{level} -> words_{level}" if how.parallel else f"seen_{level} -> words_{level}")
        below = f", h of the {_READ[levels[i - 1]]}" if i else ""
        nodes.append(node(f"h_{level}", f"fused\nh = tanh(norm(W [{parts}{below}]))\n{width}", "part"))
        edges += [f"seen_{level} -> h_{level}", f"read_{level} -> h_{level}"]
        if i:
            edges.append(f"h_{levels[i - 1]} -> h_{level}")
    share = 0.0
    if count := len(answerer.get("attributes", ())):
        _attributes(count, width, picture, nodes, edges, last_level=levels[-1])
        share = answerer.get("attribute_map", 0.0)
    _classified(answerer, nodes, gate=True)
    edges += [f"h_{levels[-1]} -> gate -> classifier -> answer", "last -> gate"]
    chosen = answerer.get("map_heads") or range((len(levels) - 1) * heads, len(levels) * heads)
    of = f"mean of {_heads(len(chosen))}"
    if share:
        of = "" if share == 1 else f"{1 - share:g} x {of}\n+ {share:g} x "
        of += "mean of the attributes' maps by their weights"
        edges.append("wanted -> map")
        if fine := answerer.get("fine_width"):
            edges += ["encoder -> fine -> parts", "grid -> parts", f'looked -> parts [label="queries {fine}"]']
        edges.append("parts -> map" if fine else "looked -> map")
        if answerer.get("attribute_answers"):
            of += "\nand the map of the answer by its probability"
            edges.append("classifier -> map")
    _shown(
        nodes,
        doubled(grid) if answerer.get("fine_width") else grid,
        picture,
        of=of,
        words=f"of the level above, mean of {_heads(heads)}",
    )
    drawn = [i for i in range(len(levels)) if share != 1 and any(one // heads == i for one in chosen)]
    edges += [f"cells_{levels[i]} -> map" for i in drawn]
    edges.append(f"words_{levels[-1]} -> weights")
    return (
        f"{kind} co-attention at the {' and '.join(_READ[level] for level in levels)}",
        "Lu et al. 2016",
        ("one for all levels" if answerer.get("shared") and len(levels) > 1 else ""),
    )


def _attributes(
    count: int, width: Any, picture: PictureSide, nodes: list[str], edges: list[str], *, last_level: str
) -> None:
    """Which words the picture shows: added to the words of the question, and attended to under it."""
    inside = [
        node(
            "looked",
            f"weights of each attribute\nsoftmax of a learned query · cells\n{count} x {picture.vectors}",
            "weights",
        ),
        node("shown", f"logits\nwhether the picture shows it\n{count}", "data"),
        node("wanted", f"weights over attributes\nsoftmax of q · k / √A + log P\n{count}", "weights"),
        node("there", f"context\nweighted sum of their embeddings\n{width}", "data"),
    ]
    nodes.append(cluster("attributes", f"{count} attributes: words whose presence is predicted", inside))
    edges += ["grid -> looked -> shown -> wanted -> there", "last -> wanted", f"there -> h_{last_level}"]
    edges.append("shown -> embedding")


def _pooled(
    answerer: Mapping[str, Any], picture: PictureSide, grid: tuple[int, int], nodes: list[str], edges: list[str]
) -> tuple[str, str, str]:
    """Latent queries pool the picture; the question weighs what they found."""
    latents, heads, width = answerer.get("latents", "N"), answerer.get("heads", 1), answerer.get("width", "D")
    nodes += [
        node("latents", f"latent queries\nlearned, the same for every question\n{latents} x {width}", "data"),
        node("pool", f"weights of each query\nsoftmax of {_DOT}\n{latents} x {heads} x {picture.vectors}", "weights"),
        node("found", f"what the queries found\n{latents} x {width}", "data"),
        node("word_weights", "weights over words\nsoftmax of products with the last word\nT", "weights"),
        node("vector", f"question vector\nat the last word + weighted sum\n{width}", "data"),
        node("chosen", f"weights over queries\nsoftmax of products with the question\n{latents}", "weights"),
        node("seen", f"what was seen\nweighted sum\n{width}", "data"),
        node("fused", f"fused\n[seen x tanh(question), question]\n2 x {width}", "part"),
    ]
    _classified(answerer, nodes, gate=False)
    edges += [
        "grid -> pool -> found -> seen -> fused -> classifier -> answer",
        "latents -> pool",
        "question -> word_weights -> vector -> chosen -> seen",
        "last -> word_weights",
        "found -> chosen",
        "vector -> fused",
        "pool -> map",
        "chosen -> map",
        "word_weights -> weights",
    ]
    many = len(answerer.get("map_heads") or range(heads))
    _shown(nodes, grid, picture, of=f"the queries' maps by their weights, mean of {_heads(many)}", words="as above")
    return "latent queries pool the picture, the question weighs them", "Jaegle et al. 2021", ""


def _other(
    answerer: Mapping[str, Any], picture: PictureSide, grid: tuple[int, int], nodes: list[str], edges: list[str]
) -> tuple[str, str, str]:
    """An answerer of somebody else's, of which no more is known."""
    kind = answerer.get("kind", "answerer")
    nodes.append(node("fused", f"answerer '{kind}'", "part"))
    edges += ["grid -> fused", "question -> fused", "last -> fused", "fused -> answer", "fused -> map"]
    edges.append("fused -> weights")
    _shown(nodes, grid, picture, of="its weights over the cells", words="its weights over the words")
    return f"answerer '{kind}'", "", ""


_Draw = Callable[[Mapping[str, Any], PictureSide, tuple[int, int], list[str], list[str]], tuple[str, str, str]]
_ANSWERERS: dict[str, _Draw] = {"hierarchical": _hierarchical, "pooled": _pooled}


def _classified(answerer: Mapping[str, Any], nodes: list[str], *, gate: bool) -> None:
    if gate:
        width = answerer.get("width", "D")
        nodes.append(node("gate", f"gated by the whole question\nh x (1 + tanh(W last))\n{width}", "part"))
    nodes.append(node("classifier", f"classifier\nhidden layer of {answerer.get('hidden', 'H')}", "part"))


def _shown(nodes: list[str], grid: tuple[int, int], picture: PictureSide, *, of: str, words: str) -> None:
    """What an answer shows: its map and its words."""
    through = "\nthrough each vector's own map" if picture.pooled else ""
    nodes.append(node("map", f"map of the answer\n{of}{through}\n{grid[0]} x {grid[1]}", "weights"))
    nodes.append(node("weights", f"weights of the question's words\n{words}\nT", "weights"))


def _heads(count: int) -> str:
    return "one head" if count == 1 else f"{count} heads"
