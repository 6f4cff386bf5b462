"""What is left out is one line on standard error; other warnings are shown as before."""

import warnings

import pytest

from captioner.commands.notices import warnings_as_lines
from captioner.data.readers import LeftOutWarning


def test_what_is_left_out_is_printed_once_and_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    shown = warnings.showwarning
    with pytest.warns(UserWarning, match="another"), warnings_as_lines():
        for _ in range(2):
            warnings.warn("1 of 4\npictures", LeftOutWarning, stacklevel=1)
        assert capsys.readouterr().err == "captioner: 1 of 4 pictures\n"
        warnings.warn("another", UserWarning, stacklevel=1)
    assert warnings.showwarning is shown
