"""What is left out is one line on standard error; other warnings are shown as before."""

import warnings
from pathlib import Path

import pytest

from captioner.cli import main
from captioner.commands.notices import warnings_as_lines
from captioner.data.readers import LeftOutWarning
from captioner.errors import OldNameWarning


def test_what_is_left_out_is_printed_once_and_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    shown = warnings.showwarning
    with pytest.warns(UserWarning, match="another"), warnings_as_lines():
        for _ in range(2):
            warnings.warn("1 of 4\npictures", LeftOutWarning, stacklevel=1)
        assert capsys.readouterr().err == "captioner: 1 of 4 pictures\n"
        warnings.warn("another", UserWarning, stacklevel=1)
    assert warnings.showwarning is shown


def test_a_command_prints_a_notice_of_any_module_as_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "captioner.commands.average.run",
        lambda _: warnings.warn("longest (now max_length)", OldNameWarning, stacklevel=1) or 0,
    )
    assert main(["average", "a", "b", "--output", str(tmp_path / "c")]) == 0
    assert capsys.readouterr().err == "captioner: longest (now max_length)\n"
