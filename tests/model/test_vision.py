"""torchvision beside a torch that it was not built for."""

import subprocess
import sys

import pytest

from captioner.model import vision


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_a_torchvision_whose_operators_are_missing_is_mended() -> None:
    done = run(
        "import torch\n"
        "try:\n"
        "    import torchvision\n"
        "except RuntimeError as error:\n"
        "    print(error)\n"
        "else:\n"
        "    raise SystemExit('fits')\n"
        "from captioner.model.vision import import_torchvision\n"
        "net = import_torchvision().models.resnet18(weights=None).eval()\n"
        "print(tuple(net(torch.zeros(1, 3, 64, 64)).shape))\n"
        "import torchvision\n"  # and from then on for everybody
    )
    if done.stderr == "fits\n":
        pytest.skip("this torchvision fits this torch: there is nothing to mend")
    assert done.returncode == 0, done.stderr
    plain, mended = done.stdout.splitlines()
    assert "torchvision::nms does not exist" in plain
    assert mended == "(1, 1000)"


def test_nothing_is_declared_where_nothing_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = object()
    monkeypatch.setattr(vision.importlib, "import_module", lambda name: whole)
    monkeypatch.setattr(vision, "_library", None)
    assert vision.import_torchvision() is whole
    assert vision._library is None


def test_another_failure_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise RuntimeError("out of cheese")

    monkeypatch.setattr(vision.importlib, "import_module", fail)
    with pytest.raises(RuntimeError, match="out of cheese"):
        vision.import_torchvision()
