"""One safetensors file is a model: weights, and all else in its metadata. Nothing is ever unpickled."""

import contextlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from captioner.errors import CaptionerError, CheckpointError
from captioner.model.caption_model import CaptionModel, ModelConfig
from captioner.model.encoder import interleave_channels
from captioner.tokenizer.vocabulary import Vocabulary

FORMAT = "captioner"
FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A model with its words and what is known about it.

    Attributes:
        model: in evaluation mode.
        vocabulary: its words.
        about: free facts for readers: what it was trained on, the scores that it was measured at, defaults of
            decoding under "decoding".
    """

    model: CaptionModel
    vocabulary: Vocabulary
    about: dict[str, Any] = field(default_factory=dict)


def save(path: str | Path, checkpoint: Checkpoint, *, half: bool = True) -> None:
    """Write a model file; a kill while writing leaves the old file whole.

    Args:
        path: of the file, usually ``*.safetensors``.
        checkpoint: the model.
        half: store matrices in 16 bits; statistics, norms and biases stay in 32.
    """
    tensors = {}
    for name, tensor in checkpoint.model.state_dict().items():
        tensor = tensor.detach().cpu()
        if half and tensor.dim() > 1 and tensor.is_floating_point():
            tensor = tensor.half()
        tensors[name] = tensor.contiguous()
    header = {
        "config": checkpoint.model.config.as_dict(),
        "vocabulary": list(checkpoint.vocabulary.words),
        "about": checkpoint.about,
    }
    write_tensors(path, tensors, {"format": FORMAT, "version": str(FORMAT_VERSION), "model": json.dumps(header)})


def load(path: str | Path, *, device: str | torch.device = "cpu") -> Checkpoint:
    """Read a model file.

    Raises:
        CheckpointError: missing, damaged, not a file of this program, of another version of the format, or with weights
            that are not finite.
    """
    path = Path(path)
    header = read_header(path)
    try:
        config = ModelConfig.from_dict(header["config"])
        vocabulary = Vocabulary(tuple(header["vocabulary"]))
        with torch.device("meta"):  # shapes alone: the weights come from the file
            model = CaptionModel(config, vocabulary_size=len(vocabulary))
        with safe_open(path, framework="pt", device=str(device)) as file:
            state = {name: _widen(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
        if broken := next((name for name, tensor in state.items() if not tensor.isfinite().all()), None):
            raise CheckpointError(f"{path}: {broken} holds what is no number: its training diverged, or it is damaged")
        model.load_state_dict(state, assign=True)
    except CheckpointError:
        raise
    except (SafetensorError, RuntimeError, KeyError, TypeError, CaptionerError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path}: damaged, or made by another version ({reason})") from None
    interleave_channels(model.encoder.stages)
    return Checkpoint(model=model.eval(), vocabulary=vocabulary, about=header["about"])


def read_header(path: str | Path) -> dict[str, Any]:
    """What a model file says about itself, without its weights: "config", "vocabulary", "about".

    Raises:
        CheckpointError: as `load`.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such model file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a whole safetensors file ({error})") from None
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"{path}: a safetensors file, but not a model of captioner")
    if metadata.get("version") != str(FORMAT_VERSION):
        raise CheckpointError(
            f"{path}: format version {metadata.get('version')}, and this captioner reads {FORMAT_VERSION}: "
            "use the captioner that wrote it, or train the model anew"
        )
    try:
        header = json.loads(metadata["model"])
    except (KeyError, json.JSONDecodeError):
        raise CheckpointError(f"{path}: its description is damaged") from None
    kinds = {"config": dict, "vocabulary": list, "about": dict}
    if not isinstance(header, dict) or not all(isinstance(header.get(key), kind) for key, kind in kinds.items()):
        raise CheckpointError(f"{path}: its description is damaged")
    return header


def write_tensors(path: str | Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file under another name and move it into place when it is whole.

    Raises:
        CheckpointError: there it cannot be written.
    """
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.touch()
        mode = partial.stat().st_mode  # as any other file of the user's; safetensors writes for its owner alone
        save_file(tensors, partial, metadata)
        partial.chmod(mode)
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path}: cannot be written ({reason})") from None


def _widen(tensor: Tensor) -> Tensor:
    """In memory of its own, in 32 bits: what the file's pages hold changes if it is overwritten in place."""
    return tensor.to(torch.float32 if tensor.is_floating_point() else tensor.dtype, copy=True)
