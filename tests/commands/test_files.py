"""No output is an input, whatever it is called; a file is written whole or not at all."""

import os
from pathlib import Path

import pytest

from captioner.commands.files import refuse_overwriting, write_whole
from captioner.errors import DataError, OptionError


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    (tmp_path / "refs.json").write_text("references")
    (tmp_path / "soft.json").symlink_to("refs.json")
    os.link(tmp_path / "refs.json", tmp_path / "hard.json")
    return tmp_path / "refs.json"


@pytest.mark.parametrize("other", ["refs.json", "sub/../refs.json", "soft.json", "hard.json", "./sub/../soft.json"])
def test_an_output_that_is_an_input_is_refused(source: Path, other: str) -> None:
    output = f"{source.parent}/{other}"
    with pytest.raises(OptionError, match=r"--per-image: .*another file"):
        refuse_overwriting({"--none": None, "--per-image": output}, [None, source.parent / "gone.json", source])
    with pytest.raises(OptionError, match="--per-image"):
        refuse_overwriting({"--per-image": source}, (path for path in [output]))


@pytest.mark.parametrize(
    ("one", "other"), [("new.csv", "sub/../new.csv"), ("refs.json", "hard.json"), ("target.csv", "dangling.csv")]
)
def test_two_outputs_that_are_one_file_are_refused(source: Path, one: str, other: str) -> None:
    (source.parent / "dangling.csv").symlink_to("target.csv")
    outputs = {"--one": f"{source.parent}/{one}", "--other": f"{source.parent}/{other}"}
    with pytest.raises(OptionError, match=r"--other: .* is the file of --one too"):
        refuse_overwriting(outputs, [])


def test_other_files_folders_and_devices_pass(source: Path) -> None:
    copy = source.with_name("copy.json")
    copy.write_text("references")
    refuse_overwriting(
        {"--a": copy, "--b": source.with_name("new.json"), "--c": source.parent}, [source, source.parent]
    )
    refuse_overwriting({"--a": "/dev/null", "--b": "/dev/null"}, ["/dev/null"])


def test_inputs_are_not_listed_where_every_output_is_new(source: Path) -> None:
    def endless():  # type: ignore[no-untyped-def]
        raise AssertionError("listed")
        yield

    refuse_overwriting({"--a": source.with_name("new.json")}, endless())


def test_a_file_is_whole_or_as_it_was(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source.chmod(0o640)
    write_whole(source.with_name("soft.json"), "new\r\n")
    assert source.read_bytes() == b"new\r\n"
    assert source.with_name("soft.json").is_symlink()
    assert source.stat().st_mode & 0o777 == 0o640
    write_whole(source.with_name("\u72d7" * 80 + ".json"), "x")  # 245 bytes
    names = set(source.parent.iterdir())

    def full(self: Path, *arguments: object, **more: object) -> int:
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(DataError, match=r"cannot write .*refs.json: No space left"):
        write_whole(source, "x")
    assert source.read_bytes() == b"new\r\n"
    assert set(source.parent.iterdir()) == names
