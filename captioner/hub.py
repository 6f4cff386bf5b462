"""Models in the form of the Hugging Face hub: a folder with the model file, its graphs, a config and a model card.

    captioner.hub.save_pretrained(model, "folder")
    captioner.hub.push(model, "owner/name")
    model = captioner.hub.from_pretrained("owner/name")

The names are those of `huggingface_hub.ModelHubMixin`. The card holds the metadata that the hub reads: library, task,
and the scores that the model's file states.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captioner.backends.graph_files import graph_folder
from captioner.errors import CaptionerError, CheckpointError, OptionError, one_line
from captioner.header import read_header, require_captions
from captioner.partial import written_whole
from captioner.pipeline import Captioner, load
from captioner.shipped import find_model

if TYPE_CHECKING:
    from huggingface_hub import ModelCard

FILE = "model.safetensors"
_CONFIG = "config.json"
_WANTED = [FILE, _CONFIG, "graphs/**"]


def save_pretrained(
    model: Captioner | str | os.PathLike[str], folder: str | os.PathLike[str], *, name: str | None = None, **card: Any
) -> Path:
    """Write a model into a folder as the hub has models; what an earlier call wrote is replaced.

    Args:
        model: a captioner, a name, or a model file.
        folder: is made if need be. It must be empty, but for hidden files, or of an earlier call.
        name: of the model, for the card; None for the model's own.
        card: further metadata of the card, such as ``license="mit"``; see `huggingface_hub.ModelCardData`.

    Returns:
        The folder.

    Raises:
        OptionError: the model is no model file, the folder holds something else or cannot be written, or
            huggingface_hub is not installed.
        CheckpointError: there is no such model, or it is damaged.
    """
    file = _file_of(model)
    header = read_header(file)
    require_captions(header, file)
    if header["shared"] is not None:
        raise OptionError(
            f"{file}: its encoder is in {header['shared'][0]}",
            remedy="'captioner export' without --share-encoder writes a whole file",
        )
    name = name or file.stem
    target = Path(folder)
    content = {"library_name": "captioner", "model_type": "captioner", "name": name, "version": header["version"]}
    try:
        target.mkdir(parents=True, exist_ok=True)
        if (target / FILE).exists() and file.samefile(target / FILE):
            raise OptionError(f"{target}: holds the model itself", remedy="give another folder")
        if not _is_ours(target) and (other := next((one for one in target.iterdir() if one.name[0] != "."), None)):
            raise OptionError(
                f"{target}: holds {other.name}, which is of no earlier call",
                remedy="give a new folder, or move what is in it away: a repository may keep its hidden files",
            )
        card_text = f"{model_card(dict(header['about']), name=name, **card)}\n"
        config = json.dumps({**content, "config": header["config"]}, indent=1)
        (target / _CONFIG).write_text(config + "\n", encoding="utf-8")  # first: what it marks is ours
        with written_whole(target / FILE) as partial:
            shutil.copyfile(file, partial)
        shutil.rmtree(graph_folder(target / FILE), ignore_errors=True)
        if graph_folder(file).is_dir():
            shutil.copytree(graph_folder(file), graph_folder(target / FILE))
        (target / "README.md").write_text(card_text, encoding="utf-8")
    except OSError as error:
        raise OptionError(f"{target}: cannot be written ({error.strerror or error})") from None
    return target


def _is_ours(folder: Path) -> bool:
    """Whether `save_pretrained` wrote a folder."""
    try:
        content = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.get("library_name") == "captioner"


def push(
    model: Captioner | str | os.PathLike[str],
    repository: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    message: str = "Upload a captioner model",
    **card: Any,
) -> str:
    """Upload a model; the repository is made if need be.

    Args:
        model: as of `save_pretrained`.
        repository: "owner/name".
        private: of a new repository; None for what the owner's settings say.
        token: of the hub; None for that of ``hf auth login``.
        message: of the commit.
        card: as of `save_pretrained`.

    Returns:
        The address of the commit.

    Raises:
        OptionError: as of `save_pretrained`; the hub cannot be reached, or refuses.
        CheckpointError: as of `save_pretrained`.
    """
    hub = _hub()
    api = hub.HfApi(token=token)
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(model, folder, name=repository.rpartition("/")[2], **card)
        with _one_line(repository, OptionError):
            full = str(api.create_repo(repository, private=private, exist_ok=True).repo_id)
            return str(api.upload_folder(repo_id=full, folder_path=folder, commit_message=message))


def from_pretrained(
    name: str | os.PathLike[str],
    *,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    **options: Any,
) -> Captioner:
    """A model from a folder that `save_pretrained` wrote, or from the hub.

    Args:
        name: a folder, or "owner/name".
        revision: a branch, tag or commit of the repository.
        token: of the hub.
        cache_dir: where the hub's files are kept.
        local_files_only: take what was fetched before.
        options: as of `captioner.load`.

    Raises:
        CheckpointError: there is no such model, it cannot be fetched, or it is damaged.
        OptionError: as of `captioner.load`; huggingface_hub is not installed.
    """
    folder = Path(name)
    if not folder.is_dir():
        with _one_line(os.fspath(name), CheckpointError):
            fetched = _hub().snapshot_download(
                os.fspath(name),
                revision=revision,
                token=token,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
                allow_patterns=_WANTED,
            )
        folder = Path(fetched)
    if not (folder / FILE).is_file():
        raise CheckpointError(f"{name}: holds no {FILE}, so no model of this program")
    model = load(folder / FILE, **options)
    model.name = _name_in(folder) or folder.name
    return model


def model_card(about: Mapping[str, Any], *, name: str, **more: Any) -> "ModelCard":
    """The card of a model, as the hub reads it.

    Args:
        about: the metadata of the model's file.
        name: of the model.
        more: further metadata.

    Raises:
        OptionError: huggingface_hub is not installed, or does not take this metadata.
    """
    hub = _hub()
    scores = {split: about[split] for split in ("test", "dev") if isinstance(about.get(split), Mapping)}
    results = [
        hub.EvalResult(
            task_type="image-to-text",
            dataset_type=str(one.get("on", split)).partition(" ")[0].lower(),
            dataset_name=str(one.get("on", split)),
            metric_type=metric.lower(),
            metric_name=metric,
            metric_value=round(value, 4),
        )
        for split, one in scores.items()
        for metric, value in one.get("scores", {}).items()
    ]
    data = {
        "language": "en",
        "library_name": "captioner",
        "pipeline_tag": "image-to-text",
        "tags": ["image-captioning", "attention", "attention-maps"],
        **({"model_name": name, "eval_results": results} if results else {}),
        **more,
    }
    try:
        card = hub.ModelCardData(**data)
    except (TypeError, ValueError) as error:
        raise OptionError(f"the card does not take this metadata ({one_line(error)})") from None
    written: ModelCard = hub.ModelCard(f"---\n{card.to_yaml()}\n---\n\n{_text(about, name, scores)}")
    return written


def _text(about: Mapping[str, Any], name: str, scores: Mapping[str, Mapping[str, Any]]) -> str:
    lines = [f"# {name}", "", "Captions of pictures, and for every word a map of where the model looked."]
    lines += ["", "```python", "import captioner.hub", "", 'model = captioner.hub.from_pretrained("this/repository")']
    lines += ['caption = model.caption("photo.jpg")', "caption.text, caption.words[1].map", "```", ""]
    if scores:
        measures = sorted({metric for one in scores.values() for metric in one.get("scores", {})})
        lines += [f"| data | {' | '.join(measures)} |", f"|---|{'---|' * len(measures)}"]
        for split, one in scores.items():
            values = [one.get("scores", {}).get(measure) for measure in measures]
            shown = " | ".join("" if value is None else f"{value:.1f}" for value in values)
            lines.append(f"| {one.get('on', split)} | {shown} |")
        lines.append("")
    if decoding := about.get("decoding"):
        lines += ["Options of the search: " + ", ".join(f"{key} {value}" for key, value in decoding.items()) + "."]
    return "\n".join(lines)


def _file_of(model: Captioner | str | os.PathLike[str]) -> Path:
    file = model.file if isinstance(model, Captioner) else find_model(model)
    if file is None or file.is_dir():
        what = model.name if isinstance(model, Captioner) else os.fspath(model)
        raise OptionError(f"'{what}' is no model file", remedy="give the .safetensors file")
    return file


def _name_in(folder: Path) -> str:
    """The name in a folder's config; "" where it has none."""
    try:
        content = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
        name = content.get("name", "")
    except (OSError, ValueError, AttributeError, RecursionError):
        return ""
    return name if isinstance(name, str) else ""


def _hub() -> Any:
    try:
        import huggingface_hub
    except ModuleNotFoundError:
        raise OptionError(
            "this needs huggingface_hub, which is not installed", remedy="pip install huggingface_hub"
        ) from None
    return huggingface_hub


@contextmanager
def _one_line(name: str, kind: type[CaptionerError]) -> Iterator[None]:
    """Errors of the hub and of the network inside become one line."""
    try:
        yield
    except CaptionerError:
        raise
    except Exception as error:  # its errors, those of its HTTP client, and OSError
        raise kind(
            f"{name}: the hub does not give or take it ({one_line(error)})", remedy="check the name, network and token"
        ) from None
