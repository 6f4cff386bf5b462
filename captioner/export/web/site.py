"""A model as a page that captions in the browser: ``captioner export NAME --web FOLDER``.

The folder is an exported folder (`captioner.export.folder`) with a page, the viewer and ONNX Runtime Web beside the
graphs. Any server of static files serves it. Pictures stay in the browser, and nothing is loaded from elsewhere.
"""

import hashlib
import importlib.resources
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from captioner.data.scenes import dog_frisbee_park
from captioner.errors import OptionError
from captioner.export.folder import check_folder, config_json, model_files, write_folder
from captioner.export.parity import Parity
from captioner.export.precision import check_precision
from captioner.header import EXPORTED, read_header
from captioner.options import Beam, MapOptions
from captioner.show.page import assets, picture_files, with_cards
from captioner.version import __version__

POLICY = (
    "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; img-src 'self' blob: data:; worker-src 'self'; "
    "object-src 'none'; base-uri 'none'; form-action 'none'"
)
"""The page's content-security policy: nothing is loaded from elsewhere, and no inline script runs."""

ONNXRUNTIME_WEB = "1.22.0"
"""The version of ONNX Runtime Web that was tested."""
_INSTALL = f"npm install onnxruntime-web@{ONNXRUNTIME_WEB}"
_FOLDER = "onnxruntime-web"
_RUNTIMES = {
    "wasm": {
        "script": "ort.wasm.min.mjs",
        "module": "ort-wasm-simd-threaded.mjs",
        "wasm": "ort-wasm-simd-threaded.wasm",
    },
    "webgpu": {
        "script": "ort.webgpu.min.mjs",
        "module": "ort-wasm-simd-threaded.jsep.mjs",
        "wasm": "ort-wasm-simd-threaded.jsep.wasm",
    },
}
"""The files that each runtime needs, below ``dist/`` of the package."""
_LARGE = (".onnx", ".wasm")


def export_web(
    model_file: str | Path, folder: str | Path, *, onnxruntime_web: str | Path, precision: str = "fp16"
) -> Parity:
    """Write a model as a page that captions in the browser.

    Args:
        model_file: of a trained model.
        folder: that is written. It must be new, empty, or a former export of this kind, which is replaced.
        onnxruntime_web: the folder of the npm package onnxruntime-web.
        precision: of the stored weights, see `captioner.export.folder.export_folder`.

    Returns:
        How far the graphs are from torch.

    Raises:
        CheckpointError: the model file is missing or damaged.
        OptionError: a file of onnxruntime-web is missing; the model does not export, the message says why; an unknown
            precision; or a folder that cannot be written, or holds something else.
    """
    folder = Path(folder)
    check_precision(precision)
    check_folder(folder, _former_files(folder))
    _refuse_steered(Path(model_file))
    runtime, runtimes = _runtime_files(Path(onnxruntime_web))
    contents, config, found = model_files(Path(model_file), folder, precision=precision)
    contents |= runtime
    maps = MapOptions.stored(config["about"], "attention")
    config["web"] = {
        "captioner": __version__,
        "maps": {"sinks": maps.sinks, "delay": maps.delay},
        "runtimes": runtimes,
        "bytes": {name: len(content) for name, content in contents.items() if name.endswith(_LARGE)},
    }
    contents |= _page_files()
    config["web"]["files"] = sorted({*contents, EXPORTED})
    contents[EXPORTED] = config_json(config)
    _fill_in(contents)
    write_folder(folder, contents)
    return found


_NOT_IN_THE_PAGE = ("begin", "forbid_words", "require_words", "diverse_groups")


def _refuse_steered(model_file: Path) -> None:
    """Raise OptionError for decoding options of the file that the page's search does not have."""
    stored, usual = Beam(**read_header(model_file)["about"].get("decoding", {})), Beam()
    for name in _NOT_IN_THE_PAGE:
        if (value := getattr(stored, name)) != getattr(usual, name):
            raise OptionError(
                f"{model_file}: its decoding has {name} {value!r}, which the page's search does not have",
                remedy="export a release without it first",
            )


def _former_files(folder: Path) -> list[str]:
    """The files of a former export in a folder; none where there is no such export."""
    try:
        files = json.loads((folder / EXPORTED).read_text(encoding="utf-8"))["web"]["files"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []
    return [file for file in files if isinstance(file, str)] if isinstance(files, list) else []


def _runtime_files(package: Path) -> tuple[dict[str, bytes], dict[str, dict[str, str]]]:
    """The files of ONNX Runtime Web by their paths in the folder, and their paths by runtime and purpose.

    They end in .js, because some servers do not know .mjs.
    """
    contents: dict[str, bytes] = {}
    paths: dict[str, dict[str, str]] = {}
    for runtime, names in _RUNTIMES.items():
        paths[runtime] = {}
        for purpose, name in names.items():
            file = package / "dist" / name
            path = f"{_FOLDER}/{name.replace('.mjs', '.js')}"
            try:
                contents[path] = file.read_bytes()
            except OSError as error:
                raise OptionError(
                    f"{file}: cannot be read ({error.strerror}), and the page needs onnxruntime-web",
                    remedy=f"'{_INSTALL}', or name its folder with --onnxruntime-web",
                ) from None
            paths[runtime][purpose] = path
    return contents, paths


def _page_files() -> dict[str, bytes]:
    """The page, the viewer and the drawn scene."""
    static = importlib.resources.files("captioner.export.web") / "static"
    contents = {file.name: file.read_bytes() for file in static.iterdir() if file.is_file()}
    contents |= {name: text.encode() for name, text in picture_files().items()}
    contents["index.html"] = with_cards(contents["index.html"].decode()).encode()
    script, style = assets()
    scene = io.BytesIO()
    dog_frisbee_park().image.save(scene, "PNG")
    return {**contents, "viewer.js": script.encode(), "viewer.css": style.encode(), "scene.png": scene.getvalue()}


def _fill_in(contents: dict[str, bytes]) -> None:
    """Put the policy, the files to keep for use without a network, and a digest into the page and its service worker.

    Large files are not among these files: the page keeps those that it loads, because it needs one of the runtimes.
    """
    digest = hashlib.sha256()
    for name, content in sorted(contents.items()):
        digest.update(f"{name} {len(content)}\n".encode() + content)
    values: Mapping[str, Any] = {
        "policy": POLICY,
        "captioner": __version__,
        "files": json.dumps(sorted(name for name in contents if not name.endswith(_LARGE)), indent=1),
        "large": json.dumps(sorted(name for name in contents if name.endswith(_LARGE))),
        "version": digest.hexdigest()[:16],
    }
    for name in ("index.html", "service-worker.js"):
        text = contents[name].decode()
        for key, value in values.items():
            text = text.replace(f"{{{key}}}", value)
        contents[name] = text.encode()
