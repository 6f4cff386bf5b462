"""A picture to its caption: open, encode, decode, results. `load` makes a `Captioner` of a model's name or path."""

import os
from typing import TYPE_CHECKING, Any

from captioner.backends.choice import open_backend
from captioner.errors import CheckpointError, OptionError
from captioner.foreign import name_of, parse_heads
from captioner.shipped import DEFAULT_MODEL, find_model

if TYPE_CHECKING:
    from captioner.pipeline.captioner import Captioner

__all__ = ["Captioner", "load"]


def __getattr__(name: str) -> Any:
    """`Captioner`, imported when it is first asked for: `load` opens the model meanwhile."""
    if name != "Captioner":
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    from captioner.pipeline.captioner import Captioner

    return Captioner


def load(
    model: str | os.PathLike[str] = DEFAULT_MODEL,
    *,
    device: str | None = "auto",
    backend: str = "auto",
    threads: int | None = None,
    wait: bool = True,
    map_heads: str = "",
) -> "Captioner":
    """A model by name or path.

    Args:
        model: the name of a model that ships, the path of a model file, an exported folder, a folder in the form of
            transformers, or "hf:owner/name" for a model of the Hugging Face hub, which is fetched.
        device: where it computes: "cpu", "cuda", "cuda:1", "mps", or a device of ONNX Runtime ("coreml", "directml",
            "openvino"); "auto" (or None) for the best that there is.
        backend: the runtime that computes it: a name of `captioner.backends.base.BACKENDS`. "auto" is "onnx" on a CPU
            for exported folders and for model files that have graphs (``graphs/NAME`` beside it, made from this very
            file), and "torch" for others and on an accelerator. A model of transformers runs on "huggingface" alone.
        threads: for the computation on a CPU, and, 8 at most, for opening pictures; None for what the runtime chooses:
            "onnx" takes what the environment's OMP_NUM_THREADS says, or looks every few seconds how many cores others
            leave free.
        wait: until the whole model is open. Without, parts of it may be opened beside the first pictures, and the
            first caption raises what is wrong with them, and "onnx" does not optimise the graph of a reranker: one
            caption comes sooner, and many take longer.
        map_heads: of a foreign model, the attention heads whose mean makes the maps, as text; see
            `captioner.foreign.parse_heads`. "" for all. A model of ours has the choice in its file.

    Raises:
        CheckpointError: there is no such model, or its file is damaged.
        OptionError: there is no such device or backend, or what it needs is not installed.
    """
    path = find_model(model)
    device = str(device or "auto")
    if not isinstance(map_heads or "", str):
        raise OptionError(f"map_heads is a text, not {map_heads!r:.60}", remedy="give it as '5:0,5:3'")
    heads = parse_heads(map_heads or "")
    opened = open_backend(backend or "auto", path, device=device, threads=threads, wait=wait, map_heads=heads)
    from captioner.pipeline.captioner import Captioner

    try:
        return Captioner(opened, name=name_of(path), file=None if path.is_dir() else path, threads=threads)
    except (TypeError, OptionError) as error:
        raise CheckpointError(f"{path}: damaged, or made by another version ({error})") from None
