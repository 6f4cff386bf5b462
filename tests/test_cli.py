"""The table of commands: help, wrong usage, what is imported when, and completion."""

import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from captioner import __version__, cli
from captioner.cli import COMMANDS, SHELLS, main
from captioner.commands.console import exit_code, standard_streams
from captioner.errors import CaptionerError, OptionError
from captioner.shipped import DEFAULT_ANSWERING_MODEL, SHIPPED_DEFAULT

LARGE = {"torch", "torchvision", "matplotlib", "scipy", "numpy", "PIL", "rich"}
WRITTEN = [name for name, command in COMMANDS.items() if cli._known(name) is not None]


def modules_after(*arguments: str, cwd: Path | None = None) -> set[str]:
    """The packages that a command line has imported at its end."""
    program = (
        "import sys; from captioner.cli import main; main(sys.argv[1:]); "
        "print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
    )
    run = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, cwd=cwd)
    return set(run.stderr.splitlines()[-1].split())


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], [], ["captoin"], ["caption"], ["caption", "--help"], ["--print-completion", "bash"]],
    ids=" ".join,
)
def test_help_and_wrong_usage_import_nothing_large(arguments: list[str]) -> None:
    assert modules_after(*arguments).isdisjoint(LARGE)


def test_a_text_caption_imports_no_drawing(tmp_path: Path, tiny_model: Path) -> None:
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    modules = modules_after("caption", "a.png", "--model", str(tiny_model), "--output", "c.csv", cwd=tmp_path)
    assert (tmp_path / "c.csv").exists()
    assert modules.isdisjoint({"matplotlib", "scipy"})


def test_listing_models_imports_no_torch() -> None:
    assert modules_after("models").isdisjoint({"torch", "matplotlib", "scipy"})


def test_version_and_overview(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"captioner {__version__}\n"
    assert main(["--help"]) == 0
    helped = capsys.readouterr().out
    assert main([]) == 2
    assert capsys.readouterr().out == helped
    for name, command in COMMANDS.items():
        assert f"  {name} " in helped
        assert command.help in helped


@pytest.mark.parametrize("name", WRITTEN)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith(f"usage: captioner {name}")
    assert captured.err == ""


def test_wrong_usage_is_one_line_with_the_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, parts in (
        (["captoin", "a.png"], ("'captoin'", "'caption'")),
        (["xyz"], ("'xyz'", "evaluate")),
        (["caption", "a.png", "--bean", "3"], ("--bean 3", "captioner caption --help")),
        (["caption"], ("PICTURE", "captioner caption --help")),
        (["--frobnicate"], ("--frobnicate", "captioner --help")),
        (["--print-completion", "tcsh"], ("tcsh", "bash")),
    ):
        assert main(arguments) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.count("\n") == 1
        assert all(part in captured.err for part in parts)


@pytest.mark.parametrize("name", WRITTEN)
def test_help_names_the_model_that_is_the_default(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    helped = " ".join(capsys.readouterr().out.split())
    if "a name that 'captioner models' lists (default:" in helped:
        default = DEFAULT_ANSWERING_MODEL if name == "ask" else SHIPPED_DEFAULT
        more = f", or {DEFAULT_ANSWERING_MODEL} with --questions" if name == "evaluate" else ""
        assert f"a name that 'captioner models' lists (default: {default}{more})" in helped
    else:
        assert name not in ("caption", "ask", "serve", "evaluate", "bulk")


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["a.jpg", "--threads", "1", "b.jpg"], ["a.jpg", "b.jpg"]),
        (["--json", "a.jpg", "b.jpg", "--threads", "1"], ["a.jpg", "b.jpg"]),
        (["--json", "--", "-a.jpg", "--threads"], ["-a.jpg", "--threads"]),
        (["a.jpg", "--threads", "1", "--", "-b.jpg", "--", "c.jpg"], ["a.jpg", "-b.jpg", "--", "c.jpg"]),
    ],
)
def test_options_stand_anywhere(words: list[str], found: list[str]) -> None:
    assert cli.parser_of("caption").parse_args(words).pictures == found


def test_questions_stand_after_options() -> None:
    options = cli.parser_of("ask").parse_args(["a.jpg", "--n-best", "2", "what?", "--json", "how many?"])
    assert (options.picture, options.question, options.n_best) == ("a.jpg", ["what?", "how many?"], 2)


def test_a_missing_module_is_an_error_only_when_it_is_called(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(COMMANDS, "gone", cli.Command("captioner.commands.gone", "a command that is not there"))
    assert main(["--help"]) == 0
    capsys.readouterr()
    assert main(["gone"]) == 2
    assert "'gone'" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--model", "--page", "--output"])
def test_a_url_is_no_file(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["caption", "a.png", option, "https://example.org/x.html"]) == 2
    error = capsys.readouterr().err
    assert f"{option} https://example.org/x.html" in error
    assert "fetch" in error


def test_python_dash_m() -> None:
    run = subprocess.run([sys.executable, "-m", "captioner", "--version"], capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, f"captioner {__version__}\n", "")


# Exit codes.


def failing(error: BaseException) -> int:
    def run() -> int:
        raise error

    with standard_streams():
        return exit_code(run)


def test_what_goes_wrong_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    class OutOfMemoryError(RuntimeError):
        """As torch's."""

    for error, code, part in (
        (CaptionerError("no such\nthing", remedy="look"), 2, "no such thing; look"),
        (OSError(28, "No space left on device", "words.html"), 2, "words.html: No space left on device"),
        (MemoryError(), 2, "--batch"),
        (OutOfMemoryError("CUDA out of memory"), 2, "--batch"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ):
        assert failing(error) == code
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("captioner: ")
        assert part in captured.err
        assert captured.err.count("\n") == 1


def test_a_fault_of_the_program_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        failing(ZeroDivisionError())


# Completion.


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_knows_commands_and_options(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--print-completion", shell]) == 0
    text = capsys.readouterr().out
    assert set(COMMANDS) <= set(text.replace("'", " ").replace(":", " ").replace(")", " ").split())
    for option in ("length-penalty", "occlusion"):
        assert option in text


def complete(*words: str, cwd: Path | None = None) -> set[str]:
    """What bash proposes for the last word."""
    if shutil.which("bash") is None:
        pytest.skip("needs bash")
    script = subprocess.run(
        [sys.executable, "-m", "captioner", "--print-completion", "bash"], capture_output=True, text=True, check=True
    ).stdout
    typed = " ".join(f"'{word}'" for word in ("captioner", *words))
    ask = f"COMP_WORDS=({typed}); COMP_CWORD={len(words)}; _captioner; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    run = subprocess.run(["bash", "-c", f"{script}\n{ask}"], capture_output=True, text=True, cwd=cwd, check=True)
    assert run.stderr == ""
    return set(run.stdout.split())


def test_bash_completes() -> None:
    assert complete("ca") == {"caption"}
    assert complete("caption", "--fi") == {"--figure"}
    assert complete("caption", "a.png", "--explain", "") == {"attention", "gradient", "occlusion"}
    assert complete("caption", "") == set()  # the shell's own completion of files
    assert complete("caption", "--output", "--") == set()
    assert complete("caption", "--device", "c") == {"cpu", "cuda"}
    assert complete("train", "--recipe", "coco-l") == {"coco-lstm"}
    assert complete("caption", "--model", "mine/x") == set()  # files again


def test_models_are_listed(
    capsys: pytest.CaptureFixture[str],
    tiny_model: Path,
    tiny_answers: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("captioner.shipped.shipped_files", lambda: {"default": str(tiny_model)})
    monkeypatch.setattr("captioner.shipped.shipped_answering_files", lambda: {"answers": str(tiny_answers)})
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("default")
    assert "tiny + lstm, 12 words" in out and "(default)" not in out
    monkeypatch.setattr("captioner.shipped.SHIPPED_DEFAULT", "default")
    assert main(["models"]) == 0
    first, *others = capsys.readouterr().out.splitlines()
    assert first.endswith("  (default)") and not any("(default)" in line for line in others)
    assert "tiny + hierarchical, 9 words, 5 answers" in out
    monkeypatch.setattr("captioner.shipped.shipped_answering_files", dict)
    assert vars(cli.parser_of("models").parse_args([])) == importlib.import_module(COMMANDS["models"].module).DEFAULTS
    assert main(["models", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed["path"] == str(tiny_model)
    assert listed["bytes"] == tiny_model.stat().st_size
    assert listed["about"]["note"] == "untrained"
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(tiny_model.read_bytes()[:100])
    monkeypatch.setattr(
        "captioner.shipped.shipped_files", lambda: {"damaged": str(damaged), "default": str(tiny_model)}
    )
    assert main(["models"]) == 1
    captured = capsys.readouterr()
    assert captured.out.startswith("default")
    assert str(damaged) in captured.err
    assert main(["models", str(damaged)]) == 2, "nothing could be done"
    assert str(damaged) in capsys.readouterr().err
    monkeypatch.setattr("captioner.shipped.shipped_files", dict)
    assert main(["models"]) == 2
    assert "give a model file" in capsys.readouterr().err


def test_the_parser_of_an_unknown_command_is_an_option_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COMMANDS, "gone", cli.Command("captioner.commands.gone", "a command that is not there"))
    with pytest.raises(OptionError, match="gone"):
        cli.parser_of("gone")
