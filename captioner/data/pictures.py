"""Which pictures a command line means."""

import os
from collections.abc import Sequence
from pathlib import Path

from captioner.image import SUFFIXES


def find_pictures(arguments: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Pictures of files and folders, each once, those of a folder by name, subfolders included.

    Returns:
        The pictures, and a line for each argument that gives none. A file that is named is taken as it is,
        whatever its ending; in folders, only files whose ending is that of a picture, and no hidden ones.
    """
    found: dict[Path, None] = {}
    failures = []
    for argument in arguments:
        path = Path(argument)
        if not argument:  # Path("") would be the current folder
            failures.append("a picture's name is empty")
        elif os.path.isdir(path):  # noqa: PTH112 - unlike Path.is_dir, it takes names that are too long
            inside = sorted(
                file
                for file in path.rglob("*")
                if file.suffix.lower() in SUFFIXES
                and not any(part.startswith(".") for part in file.relative_to(path).parts)
                and (file.is_file() or (file.is_symlink() and not file.exists()))  # a link to nowhere is named later
            )
            if not inside:
                failures.append(f"{path}: no pictures in this folder (looked for {', '.join(sorted(SUFFIXES))})")
            found.update(dict.fromkeys(inside))
        elif os.path.exists(path):  # noqa: PTH110
            found[path] = None
        else:
            failures.append(f"{path}: no such file or folder")
    return list(found), failures
