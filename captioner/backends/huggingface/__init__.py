"""Models in the form of transformers, with our decoding and our maps."""

import json
import logging
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers

from captioner.backends.base import BACKENDS
from captioner.backends.huggingface import (  # noqa: F401 - they register themselves
    blip,
    blip2,
    conversation,
    florence2,
    git,
    vision_encoder_decoder,
)
from captioner.backends.huggingface.backend import HuggingFaceBackend, special_ids
from captioner.backends.huggingface.families import FAMILIES, TILED, Parts, first_of
from captioner.backends.huggingface.inputs import fitting_of, tiled
from captioner.backends.torch import find_device
from captioner.errors import CaptionerError, CheckpointError, OptionError, one_line
from captioner.foreign import EXTRA, describe, name_of
from captioner.geometry import Fitting
from captioner.model.vision import import_torchvision
from captioner.tokenizer.subwords import Subwords

__all__ = ["HuggingFaceBackend", "open_foreign"]

_OLDEST = 5

import_torchvision()  # transformers imports it when it is first asked for an image processor


@BACKENDS.register("huggingface")
def open_foreign(
    path: str,
    *,
    device: str = "auto",
    threads: int | None = None,
    map_heads: Sequence[tuple[int, int | None]] = (),
) -> HuggingFaceBackend:
    """The backend of a folder in the form of transformers.

    Args:
        path: of the folder.
        device: to compute on.
        threads: of torch in this process from now on; None leaves them as they are.
        map_heads: see `HuggingFaceBackend`.

    Raises:
        CheckpointError: a file is missing or damaged, or the model makes no captions.
        OptionError: the model has no maps (it cuts pictures into tiles, or its attention is fused), it would need code
            from its repository, or there is no such device, layer or head.
    """
    if int(transformers.__version__.partition(".")[0]) < _OLDEST:
        raise OptionError(f"transformers {transformers.__version__} is older than {_OLDEST}", remedy=EXTRA)
    folder = Path(path)
    name = name_of(folder)
    kind, wanted = _checked_type(folder, name)
    if threads is not None:
        if type(threads) is not int or threads < 1:
            raise OptionError(f"threads must be a whole number of at least 1, not {threads!r}")
        torch.set_num_threads(threads)
    found = find_device(device)
    family_class = FAMILIES[kind]
    try:
        with _quiet():
            parts = _parts(folder, name, kind)
            model = _model(folder, wanted, name, found)
            family = family_class(model, parts)
            return _backend(family, folder, map_heads)
    except CaptionerError:
        raise
    except Exception as error:  # a stranger's files make transformers raise anything
        raise CheckpointError(
            f"{name}: transformers {transformers.__version__} cannot run it "
            f"({one_line(f'{type(error).__name__}: {error}')})"
        ) from None


def _checked_type(folder: Path, name: str) -> tuple[str, str]:
    """The model's type and class, which one of the families takes."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    kind = one_line(str(config["model_type"]))[:40]
    architectures = config.get("architectures")
    named = [one_line(str(one))[:80] for one in architectures] if isinstance(architectures, list) else []
    if kind in TILED:
        raise tiled(name, kind)
    if kind not in FAMILIES:
        if config.get("auto_map"):
            raise OptionError(
                f"{name}: the model '{kind}' runs by code from its own repository, which is not executed here",
                remedy=f"use one of {', '.join(FAMILIES)}",
            )
        raise OptionError(
            f"{name}: models of the type '{kind}' make no captions here", remedy=f"use one of {', '.join(FAMILIES)}"
        )
    classes = FAMILIES[kind].classes
    unfit = [one for one in named if one not in classes]
    if unfit:
        raise OptionError(f"{name}: {unfit[0]} makes no captions", remedy=f"use a model of {' or '.join(classes)}")
    return kind, next(iter(named), classes[0])


def _parts(folder: Path, name: str, kind: str) -> Parts:
    """Tokeniser and image processor.

    Raises:
        CheckpointError: one of them is missing.
        OptionError: the tokeniser does not say where its pieces stand in a text, or pictures are cut into tiles.
    """
    found: dict[str, Any] = {}
    for what, loader in (
        ("tokeniser", transformers.AutoTokenizer),
        ("image processor", transformers.AutoImageProcessor),
    ):
        try:
            found[what] = loader.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except Exception as error:
            raise CheckpointError(f"{name}: its {what} cannot be read ({one_line(error)[:120]})") from None
    tokenizer, image_processor = found["tokeniser"], found["image processor"]
    if not tokenizer.is_fast:
        raise OptionError(f"{name}: its tokeniser ({type(tokenizer).__name__}) does not say where its pieces stand")
    processor = None
    if (folder / "chat_template.jinja").is_file() or (folder / "chat_template.json").is_file():
        processor = transformers.AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    own = getattr(FAMILIES[kind], "fitting_of", None)
    fitting: Fitting = fitting_of(image_processor, name) if own is None else own(image_processor, name)
    return Parts(tokenizer, image_processor, processor, fitting, name)


def _model(folder: Path, wanted: str, name: str, device: str) -> Any:
    """The model with eager attention; fused attention returns no weights."""
    dtype = torch.float32 if device == "cpu" else "auto"
    model, report = getattr(transformers, wanted).from_pretrained(
        folder,
        attn_implementation="eager",
        dtype=dtype,
        local_files_only=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    missing = sorted(report["missing_keys"])
    if missing:
        raise CheckpointError(f"{name}: its files lack {len(missing)} of its weights, among them {missing[0]}")
    return model.to(device).eval()


def _backend(family: Any, folder: Path, map_heads: Sequence[tuple[int, int | None]]) -> HuggingFaceBackend:
    model, tokenizer = family.model, family.parts.tokenizer
    inside = model.config.get_text_config(decoder=True)
    stored = first_of(model.generation_config, "eos_token_id")
    ends = special_ids(first_of(inside, "eos_token_id") if stored is None else stored, tokenizer.eos_token_id)
    ends = list(family.ends) or ends
    if not ends:
        raise CheckpointError(f"{family.parts.name}: its configuration names no eos_token_id, so captions have no end")
    pads = special_ids(
        first_of(model.generation_config, "pad_token_id"), first_of(inside, "pad_token_id"), tokenizer.pad_token_id
    )
    vocabulary = Subwords.of(
        tokenizer,
        start=family.start,
        end=ends[0],
        pad=pads[0] if pads else ends[0],
        size=family.size,
        hidden=[*ends, *family.hidden, *_suppressed(model.generation_config)],
        start_is_a_piece=family.start_is_a_piece,
    )
    about = describe(folder)
    decoding = about["about"]["decoding"]
    for name in ("max_length", "min_length"):  # its own generation would stop there too
        decoding[name] = min(decoding[name], family.longest)
    return HuggingFaceBackend(
        family,
        vocabulary=vocabulary,
        ends=ends,
        about=about["about"],
        digest=about["digest"],
        map_heads=map_heads,
    )


def _suppressed(generation: Any) -> list[int]:
    """The pieces that the model's own generation never emits."""
    words = first_of(generation, "bad_words_ids") or []
    single = [one[0] for one in words if isinstance(one, (list, tuple)) and len(one) == 1]
    return special_ids(first_of(generation, "suppress_tokens"), single)


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers keeps its progress and its advice to itself.

    Its settings and the filters of warnings are the whole process's: where other threads run, they stay as they are.
    """
    if threading.active_count() > 1:
        yield
        return
    level, bar = transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity(logging.ERROR)
    transformers.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers.logging.set_verbosity(level)
        if bar:
            transformers.logging.enable_progress_bar()
