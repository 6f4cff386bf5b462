"""One safetensors file is a model: the weights, and everything else in the metadata. Nothing is ever unpickled."""

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor

from captioner.errors import CaptionerError, CheckpointError, OldNameWarning, one_line
from captioner.header import (
    FORMAT,
    damaged,
    read_header,
    require_answers,
    require_captions,
)
from captioner.metadata import FORMAT_VERSION, Header
from captioner.model.answer_model import AnswerConfig, AnswerModel
from captioner.model.caption_model import CaptionModel, ModelConfig
from captioner.model.encoder import interleave_channels
from captioner.old_names import current_weight_name
from captioner.partial import remove_stale, written_whole
from captioner.sharing import SHARED_PARTS, is_shared_name, places_of
from captioner.tokenizer.vocabulary import Vocabulary

_Model = TypeVar("_Model", CaptionModel, AnswerModel)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A model, its vocabulary and its metadata.

    Attributes:
        model: in evaluation mode.
        vocabulary: its words.
        about: the training data, the recipe and the scores; decoding options under "decoding", map options under
            "maps".
    """

    model: CaptionModel
    vocabulary: Vocabulary
    about: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class AnswerCheckpoint:
    """An answering model, its questions' vocabulary, its answers and its metadata.

    Attributes:
        model: in evaluation mode.
        vocabulary: the words of questions.
        answers: that it chooses from, in the order of its output.
        about: the training data, the recipe and the scores.
    """

    model: AnswerModel
    vocabulary: Vocabulary
    answers: tuple[str, ...]
    about: dict[str, Any] = field(default_factory=dict)


def save(
    path: str | Path,
    checkpoint: Checkpoint | AnswerCheckpoint,
    *,
    half: bool = True,
    share_encoder: str | Path | None = None,
) -> None:
    """Write a model file. The old file stays until the new one is whole.

    Args:
        path: of the file, usually ``*.safetensors``.
        checkpoint: the model.
        half: store matrices in 16 bits; statistics, norms and biases stay in 32.
        share_encoder: a model file, beside the one to write or in the folder above, whose encoder is that of the
            model; it is then left out, and so is the refiner if it is the same.

    Raises:
        CheckpointError: the file cannot be written; or as of `shared_encoder`.
    """
    tensors = {name: _stored(tensor, half=half) for name, tensor in checkpoint.model.state_dict().items()}
    header = {
        "config": checkpoint.model.config.as_dict(),
        "vocabulary": list(checkpoint.vocabulary.words),
        "about": checkpoint.about,
    }
    if isinstance(checkpoint, AnswerCheckpoint):
        header["answers"] = list(checkpoint.answers)
    if share_encoder is not None:
        header["shares"], parts = shared_encoder(path, checkpoint, share_encoder, half=half)
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(parts)}
    metadata = {
        "format": FORMAT,
        "version": str(FORMAT_VERSION),
        "model": json.dumps(header, allow_nan=False),
        "weights": _digest(tensors),
    }
    write_tensors(path, tensors, metadata)


def shared_encoder(
    path: str | Path, checkpoint: Checkpoint | AnswerCheckpoint, file: str | Path, *, half: bool = True
) -> tuple[dict[str, str], tuple[str, ...]]:
    """What a model file at ``path`` says of the file whose encoder it shares (see `captioner.header`), and the parts
    that it shares: the encoder, and the refiner if it is the same.

    Arguments as of `save`.

    Raises:
        CheckpointError: that file is missing, cannot be found from ``path``, or has another encoder.
    """
    other = _read_header(file)
    if other["shared"] is not None:
        file, other = other["shared"]
    file = Path(file)
    places = places_of(file.name, os.fspath(path)) if is_shared_name(file.name) else []
    if not any(file.samefile(place) for place in places):
        raise CheckpointError(
            f"{file}: {path} would not find it",
            remedy="put it beside that file or in the folder above, with this ending",
        )
    if other["version"] < FORMAT_VERSION:
        raise CheckpointError(f"{file}: of format version {other['version']}, whose digests leave out the weights")
    theirs = _read_weights(file, other, "cpu", parts=SHARED_PARTS)
    ours = {name: one for name, one in checkpoint.model.state_dict().items() if name.startswith(SHARED_PARTS)}
    different = {
        name
        for name in (*ours, *theirs)
        if name not in ours
        or name not in theirs
        or not torch.equal(_stored(ours[name], half=half).to(theirs[name]), theirs[name])
    }
    if others := sorted(name for name in different if name.startswith("encoder.")):
        raise CheckpointError(
            f"{file}: its {others[0]} is not that of the model", remedy="name the file whose encoder it was trained on"
        )
    parts = SHARED_PARTS if not different else ("encoder.",)
    return {"file": file.name, "digest": other["digest"]}, parts


def load(path: str | Path, *, device: str | torch.device = "cpu") -> Checkpoint:
    """Read the file of a captioning model. One of an older format version is read with an `OldNameWarning`.

    Raises:
        CheckpointError: missing, damaged, not a file of this program, of another version of the format, of an
            answering model, or with weights that are not finite.
    """
    header = _read_header(path)
    require_captions(header, path)
    vocabulary = Vocabulary(tuple(header["vocabulary"]))
    model = _build(
        header,
        Path(path),
        device,
        lambda: CaptionModel(ModelConfig.from_dict(header["config"]), vocabulary_size=len(vocabulary)),
    )
    return Checkpoint(model=model, vocabulary=vocabulary, about=header["about"])


def load_to_train(path: str | Path, *, device: str | torch.device = "cpu") -> Checkpoint:
    """As `load`, without its reranker, which is learned for one encoder, and with all weights in floats."""
    found = load(path, device=device)
    found.model.set_reranker(None)
    found.model.set_quantised(False)
    return found


def load_answering(path: str | Path, *, device: str | torch.device = "cpu") -> AnswerCheckpoint:
    """Read the file of an answering model.

    Raises:
        CheckpointError: as of `load`, or of a captioning model.
    """
    header = _read_header(path)
    require_answers(header, path)
    vocabulary, answers = Vocabulary(tuple(header["vocabulary"])), tuple(header["answers"])
    model = _build(
        header,
        Path(path),
        device,
        lambda: AnswerModel(
            AnswerConfig.from_dict(header["config"]), vocabulary_size=len(vocabulary), answers=len(answers)
        ),
    )
    return AnswerCheckpoint(model=model, vocabulary=vocabulary, answers=answers, about=header["about"])


def _read_header(path: str | Path) -> Header:
    """The header of a model file; a folder is refused, and an older version is named."""
    path = Path(path)
    if path.is_dir():
        raise CheckpointError(f"{path}: no such model file", remedy="an exported folder runs on --backend onnx")
    header = read_header(path)
    if header["version"] < FORMAT_VERSION:
        names = f" with {', '.join(header['renamed'])}" if header["renamed"] else ""
        warnings.warn(
            f"{path.name}: a model file of format version {header['version']}{names}; it still works, and "
            f"'captioner average' or a new training writes version {FORMAT_VERSION}",
            OldNameWarning,
            stacklevel=1,  # one place in this program: a file is named once however often it is loaded
        )
    return header


def _build(header: Header, path: Path, device: str | torch.device, make: Callable[[], _Model]) -> _Model:
    """A model with the weights of its file, in evaluation mode."""
    try:
        with torch.device("meta"):  # shapes alone: the weights come from the file
            model = make()
        state = _read_weights(path, header, device)
        _check_kinds(state, model.state_dict())
        model.load_state_dict(state, assign=True)
    except CheckpointError:
        raise
    except (SafetensorError, RuntimeError, KeyError, TypeError, ValueError, ArithmeticError, CaptionerError) as error:
        raise damaged(path, error) from None
    interleave_channels(model.encoder.stages)
    return model.eval()


def _read_weights(
    path: Path, header: Header, device: str | torch.device, *, parts: tuple[str, ...] = ("",)
) -> dict[str, Tensor]:
    """The weights of a file whose names begin with one of ``parts``, with those that it shares."""
    rename = current_weight_name if header["version"] < FORMAT_VERSION else str
    if any("\udc80" <= letter <= "\udcff" for letter in str(path)):  # bytes that are no UTF-8
        raise CheckpointError(f"{path}: torch opens no model file whose path is not UTF-8", remedy="rename it")
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            names = {name: rename(name) for name in file.keys()}  # noqa: SIM118
            state = {new: _widen(file.get_tensor(old)) for old, new in names.items() if new.startswith(parts)}
    except (OSError, SafetensorError) as error:
        raise damaged(path, error) from None
    if broken := next((name for name, tensor in state.items() if not tensor.isfinite().all()), None):
        raise CheckpointError(
            f"{path}: {broken} holds numbers that are not finite: the training diverged, or the file is damaged"
        )
    if header["shared"] is None:
        return state
    # a refiner of its own is the whole refiner, of another shape perhaps
    left = tuple(part for part in SHARED_PARTS if not any(name.startswith(part) for name in names.values()))
    return _read_weights(Path(header["shared"][0]), header["shared"][1], device, parts=left) | state


def _check_kinds(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Make sure that weights are real numbers and counts are whole ones. Raises ValueError."""
    for name, tensor in state.items():
        if name in expected and (
            tensor.is_floating_point() != expected[name].is_floating_point() or tensor.is_complex()
        ):
            raise ValueError(f"{name} is {str(tensor.dtype).removeprefix('torch.')}")


def write_tensors(path: str | Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file under another name and move it into place when it is whole.

    Raises:
        CheckpointError: the file cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(path.parent)
        with written_whole(path) as partial:
            save_file(tensors, partial, metadata)
    except (OSError, SafetensorError) as error:
        reason = one_line(getattr(error, "strerror", None) or error)
        raise CheckpointError(f"{path}: cannot be written ({reason})") from None


def save_file(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write under this name alone, with the user's usual permissions.

    safetensors' own function writes a file of a random name first, which stays for ever if the process is killed, and
    can be read by its owner alone.
    """
    path.write_bytes(serialise(tensors, metadata))


def _digest(tensors: dict[str, Tensor]) -> str:
    """SHA-256 of the weights as they are stored, with their names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _stored(tensor: Tensor, *, half: bool = True) -> Tensor:
    """A weight as a file holds it."""
    tensor = tensor.detach().cpu()
    return (tensor.half() if half and tensor.dim() > 1 and tensor.is_floating_point() else tensor).contiguous()


def _widen(tensor: Tensor) -> Tensor:
    """In memory of its own, in 32 bits: what the file's pages hold changes if it is overwritten in place."""
    return tensor.to(torch.float32 if tensor.is_floating_point() else tensor.dtype, copy=True)
