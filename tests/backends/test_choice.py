"""Which runtime a model gets where none is asked for."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from captioner.backends import accelerators, choice
from captioner.errors import OptionError


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening a model returns the name of its runtime."""
    monkeypatch.setattr(choice, "_open", lambda name, path, **options: name)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model file with graphs."""
    (tmp_path / "graphs" / "mine").mkdir(parents=True)
    for name in ("encode", "step", "score"):
        (tmp_path / "graphs" / "mine" / f"{name}.onnx").touch()
    return tmp_path / "mine.safetensors"


def installed(monkeypatch: pytest.MonkeyPatch, *missing: str) -> None:
    find: Any = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in missing else find(name))


@pytest.mark.parametrize("accelerator", [False, True])
@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:1", "mps", "coreml", "openvino"])
def test_graphs_run_on_onnx_runtime_where_no_accelerator_of_torch_is_used(
    device: str, accelerator: bool, model: Path, opened: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "torch_may_use_one", lambda: accelerator)
    on_torch = device in ("cuda", "cuda:1", "mps") or (device == "auto" and accelerator)
    assert choice.open_backend("auto", model, device=device) == ("torch" if on_torch else "onnx")
    assert choice.open_backend("auto", model.parent, device="cpu") == "onnx"  # an exported folder


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_what_is_not_installed_is_not_chosen(
    device: str, model: Path, opened: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(monkeypatch, "torch")
    assert choice.open_backend("auto", model, device=device) == "onnx"
    with pytest.raises(OptionError, match="pip install torch"):
        choice.open_backend("auto", tmp_path / "without-graphs.safetensors", device=device)
    installed(monkeypatch, "torch", "onnxruntime")
    with pytest.raises(OptionError, match="pip install onnxruntime"):
        choice.open_backend("auto", model, device=device)


def test_without_onnx_runtime_torch_is_chosen(model: Path, opened: None, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, "onnxruntime")
    assert choice.open_backend("auto", model, device="cpu") == "torch"


def test_a_gpu_counts_where_torch_is_built_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    (tmp_path / "System32").mkdir()
    (tmp_path / "System32" / "nvcuda.dll").touch()
    monkeypatch.setenv("SYSTEMROOT", str(tmp_path))  # the driver
    for line, built in [
        ("cuda: Optional[str] = None\nhip: Optional[str] = None\n", False),
        ("cuda: Optional[str] = '12.8'\n", True),
        ("cuda = None\nhip = '6.3'\n", True),
    ]:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        (tmp_path / "version.py").write_text(f"__version__ = '2.13.0'\n{line}")
        spec = importlib.util.spec_from_loader("torch", None, origin=str(tmp_path / "__init__.py"))
        with monkeypatch.context() as patch:
            patch.setattr(importlib.util, "find_spec", lambda name, spec=spec: spec)
            assert accelerators.torch_may_use_one() is built
            for hidden in ("", "-1"):
                patch.setenv("CUDA_VISIBLE_DEVICES", hidden)
                assert not accelerators.has_nvidia_gpu()


def test_a_backend_that_is_not_there_is_named_beside_those_that_are(model: Path) -> None:
    with pytest.raises(OptionError, match=r"'nope'.* auto, huggingface, onnx, torch"):
        choice.open_backend("nope", model)
