"""Outputs of commands: none is written onto an input, and none is left half written."""

import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from captioner.commands.console import report
from captioner.errors import DataError, OptionError
from captioner.partial import written_whole

FilePath = str | os.PathLike[str]
_Key = tuple[int, int] | str


def report_old_graphs(model: Path) -> None:
    """Say that the graphs beside a model file that was just written are of the file that was there before."""
    from captioner.backends.graph_files import graph_folder

    if (folder := graph_folder(model)).is_dir():
        report(f"{folder}: graphs of another model file; 'captioner export {model} --graphs' writes new ones")


def refuse_overwriting(outputs: Mapping[str, FilePath | None], inputs: Iterable[FilePath | None]) -> None:
    """Make sure that every output is a file of its own. Call this before any work starts.

    Files are compared by what they are on disk: a symbolic link, a hard link and another spelling of a path
    (``a/../b``, upper case on a disk that ignores case) are the same file. Folders and devices (``/dev/null``) are
    not compared, since opening one for writing overwrites nothing.

    Args:
        outputs: the file that each option writes, by the option's name, for the message: ``{"--output": path}``.
            Options that were not given are None.
        inputs: every file that the run reads. It is consumed only where an output exists already, since a new
            file cannot be an input; pass a generator where the list is long.

    Raises:
        OptionError: two outputs are one file, an output is an input, or a page would replace an HTML file that is none
            of ours. The message names the option and the files.
    """
    given: dict[_Key, tuple[str, FilePath]] = {}
    existing: dict[_Key, tuple[str, FilePath]] = {}
    for option, path in outputs.items():
        if path is None:
            continue
        key, exists = _key_of_output(path)
        if key is None:
            continue
        if key in given:
            other, first = given[key]
            also = "" if str(first) == str(path) else f" (there as {first})"
            raise OptionError(f"{option}: {path} is the file of {other} too{also}", remedy="give each its own file")
        given[key] = (option, path)
        if exists:
            existing[key] = (option, path)
    if not existing:
        return
    for source in inputs:
        key = None if source is None else _identity(source)
        if key is not None and key in existing:
            option, path = existing[key]
            also = "" if str(source) == str(path) else f" ({source})"
            raise OptionError(f"{option}: {path} is an input of this run{also}", remedy="write to another file")
    for option, path in existing.values():
        if Path(path).suffix.lower() in (".html", ".htm") and not _is_page(Path(path)):
            raise OptionError(
                f"{option}: {path} is no page of captioner, and stays as it is", remedy="give another name"
            )


def _is_page(path: Path) -> bool:
    """Whether a file is empty, or a page that `captioner.show.page` made, of any version."""
    try:
        content = path.read_bytes()
    except OSError:
        return True  # what is wrong with it is said when it is written
    return not content.strip() or b'class="cv-here"' in content


def check_single(*, figure: Path | None, page: Path | None) -> None:
    """Check the outputs of a command that writes one figure or one page, before any work.

    Raises:
        OptionError: another ending, a folder, or no place to write to.
    """
    from captioner.data.writers import PageFile
    from captioner.data.writers.figures import FORMATS
    from captioner.partial import check_folder, place_of

    if figure is not None and figure.suffix.lower() not in FORMATS:
        raise OptionError(
            f"--figure {figure}: this is one figure, and '{figure.suffix}' is no format of it",
            remedy="name a file that ends in .png, .pdf or .svg",
        )
    if page is not None:
        PageFile(page)
    for option, path in (("--figure", figure), ("--page", page)):
        if path is not None:
            check_folder(place_of(path, option=option).parent, name=path, option=option)


def model_files(model: Path) -> list[Path]:
    """What a run reads of a model: its file, the graphs beside it and a file that it shares weights with; or the files
    in its folder."""
    if model.is_dir():
        return [path for path in model.rglob("*") if path.is_file()]
    from captioner.backends.graph_files import graph_folder
    from captioner.header import shared_files

    return [model, *graph_folder(model).glob("*"), *map(Path, shared_files(model))]


def find_weights(model: str, purpose: str, *, answering: bool = False) -> Path:
    """The file of a model, by its name or path, for a command that reads the weights themselves.

    Args:
        model, answering: as of `captioner.shipped.find_model`.
        purpose: of the weights, for the message: "averaging weights".

    Raises:
        CheckpointError: there is none.
        OptionError: it is a foreign model, or was exported.
    """
    from captioner.foreign import refuse_foreign
    from captioner.shipped import find_model

    file = find_model(model, answering=answering)
    refuse_foreign(file, purpose)
    if file.is_dir():
        raise OptionError(f"{file}: is exported already", remedy="name the model file that it was made from")
    return file


def _key_of_output(path: FilePath) -> tuple[_Key | None, bool]:
    """What an output is known by, and whether it exists. The key is None for folders and devices."""
    try:
        found = Path(path).stat()
    except (OSError, ValueError):  # not there yet; a dangling link is known by its target
        return _spelling(path), False
    if stat.S_ISREG(found.st_mode):
        return (found.st_dev, found.st_ino), True
    return None, True


def _spelling(path: FilePath) -> str:
    """The resolved path of a file that does not exist yet."""
    try:
        return str(Path(path).resolve())
    except (OSError, RuntimeError, ValueError):  # a circle of links
        return str(Path(path).absolute())


def _identity(path: FilePath) -> tuple[int, int] | None:
    try:
        found = Path(path).stat()
    except (OSError, ValueError):
        return None
    return (found.st_dev, found.st_ino) if stat.S_ISREG(found.st_mode) else None


def check_new_output(option: str, path: Path) -> None:
    """As `check_output`, for a file whose folders are made if need be. Raises OptionError."""
    folder = path.parent
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent  # the folders below it are made
    if not folder.is_dir():
        raise OptionError(f"{option} {path}: {folder} is no folder", remedy="name a file in a folder")
    if path.is_dir():
        raise OptionError(f"{option} {path}: is a folder", remedy="name a file in it")
    if not os.access(folder, os.W_OK):
        raise OptionError(f"{option} {path}: {folder} cannot be written", remedy="name a file in another folder")


def check_model_output(path: Path) -> None:
    """As `check_new_output`, for the model file of --output. Raises OptionError for another ending too."""
    check_new_output("--output", path)
    if path.suffix != ".safetensors":
        raise OptionError(f"--output {path}: a model file ends in .safetensors", remedy="add the ending")


def check_images(images: Path | None, data: Sequence[Path]) -> None:
    """Make sure that --images is the folder of one data set's pictures. Raises OptionError."""
    if images is not None and len(data) > 1:
        raise OptionError(
            "--images is given with several --data", remedy="several look for their pictures beside their captions"
        )


def check_output(option: str, path: Path, *, begins: bytes = b"") -> None:
    """Make sure that a file can be written, before any work is done for it.

    Args:
        option: that names it.
        path: of the file.
        begins: how a file of this kind begins; one that is there and begins otherwise stays.

    Raises:
        OptionError: it cannot be written, or is something else.
    """
    if not path.parent.is_dir():
        raise OptionError(f"{option}: cannot write {path}: there is no folder {path.parent}")
    if path.is_dir():
        raise OptionError(f"{option}: cannot write {path}: Is a directory", remedy="give the name of a file")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise OptionError(f"{option}: cannot write {path}: Permission denied", remedy="give another file")
    if begins and path.is_file():
        with path.open("rb") as file:
            there = file.read(4096).lstrip()
        if there and not there.startswith(begins):
            raise OptionError(f"{option}: {path} holds something else, and stays as it is", remedy="give another file")


def write_whole(path: Path, text: str, *, errors: str = "strict") -> None:
    """Write a text file in UTF-8; it is as it was before, or whole. Devices and pipes are written as they are.

    Args:
        path: of the file.
        text: its content.
        errors: what becomes of characters that cannot be encoded, as of `str.encode`.

    Raises:
        DataError: it cannot be written.
    """
    target = path.resolve()  # the file that a link leads to, and not the link, is replaced
    try:
        if path.exists() and not path.is_file():
            path.write_text(text, encoding="utf-8", newline="", errors=errors)
            return
        with written_whole(target) as partial:
            partial.write_text(text, encoding="utf-8", newline="", errors=errors)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}") from None
