"""Which of the pictures that were found are taken: globs, and shards of a run that several machines share."""

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from captioner.errors import OptionError

_SHARD = re.compile(r"([0-9]{1,9})/([0-9]{1,9})")


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What is taken of folders.

    A glob without a slash is compared with names; one with a slash with the path below the folder that was given.
    ``*`` and ``?`` stand for anything but a slash, ``**`` for any number of folders, ``[ab]`` for one character.
    A folder that ``exclude`` names is left out with everything in it.

    Attributes:
        recursive: take the pictures of subfolders.
        include: globs; where there are any, only pictures that one of them matches are taken.
        exclude: globs of pictures and folders that are left out.
        shard: (i, n): the i-th of n parts, from 1; None for all.

    Raises:
        OptionError: there is no such shard, or a glob is empty or not understood.
    """

    recursive: bool = True
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    shard: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.shard is not None and not 1 <= self.shard[0] <= self.shard[1]:
            i, n = self.shard
            remedy = f"give 1/{n} to {n}/{n}" if n > 1 else "give 1/8 to 8/8 for eight shards"
            raise OptionError(f"--shard {i}/{n}: there is no such shard", remedy=remedy)
        for name in ("include", "exclude"):
            for glob in getattr(self, name):
                if not glob.strip("/"):
                    raise OptionError(f"--{name} is empty", remedy="give a glob such as '*.jpg'")
                try:
                    _compiled(glob)
                except re.error as error:
                    raise OptionError(
                        f"--{name} '{glob}': {error.msg}", remedy="give a glob such as '*.jpg' or '[a-c]*'"
                    ) from None

    def takes(self, path: str) -> bool:
        """Whether the globs take a picture; ``path`` is that below the folder, with slashes."""
        return (not self.include or _matches(self._include, path)) and not _matches(self._exclude, path)

    def enters(self, path: str) -> bool:
        """Whether a subfolder is searched."""
        return self.recursive and not _matches(self._exclude, path)

    def in_shard(self, path: str) -> bool:
        """Whether a picture is in the shard: by a hash of its path below the folder, so that it is in the same shard
        on every machine, whatever else the folder holds."""
        if self.shard is None:
            return True
        digest = hashlib.blake2b(os.fsencode(path), digest_size=8).digest()
        return int.from_bytes(digest, "big") % self.shard[1] == self.shard[0] - 1

    @cached_property
    def _include(self) -> list[tuple[bool, re.Pattern[str]]]:
        return [_compiled(glob) for glob in self.include]

    @cached_property
    def _exclude(self) -> list[tuple[bool, re.Pattern[str]]]:
        return [_compiled(glob) for glob in self.exclude]


def parse_shard(text: str) -> tuple[int, int]:
    """The shard that "3/8" names. Raises OptionError for any other text."""
    found = _SHARD.fullmatch(text)
    if found is None:
        raise OptionError(f"--shard is '{text}'", remedy="give a number and how many there are, such as 3/8")
    return int(found[1]), int(found[2])


def relative(path: str | os.PathLike[str], folder: str | os.PathLike[str]) -> str:
    """The path of something in a folder, with slashes, as globs and shards know it. Nothing is resolved."""
    text, base = os.fspath(path), os.fspath(folder)
    below = text.removeprefix(base).lstrip(os.sep) if base not in ("", os.curdir) else text
    return below.replace(os.sep, "/")


def _compiled(glob: str) -> tuple[bool, re.Pattern[str]]:
    glob = glob.removeprefix("./").rstrip("/")
    return "/" in glob, re.compile(_pattern(glob.lstrip("/")), re.DOTALL)


def _matches(globs: Sequence[tuple[bool, re.Pattern[str]]], path: str) -> bool:
    name = path.rpartition("/")[2]
    return any(pattern.fullmatch(path if whole else name) for whole, pattern in globs)


def _pattern(glob: str) -> str:
    parts, i = [], 0
    while i < len(glob):
        if glob.startswith("**/", i):
            parts.append("(?:.*/)?")
            i += 3
        elif glob.startswith("**", i):
            parts.append(".*")
            i += 2
        elif glob[i] == "[" and (end := glob.find("]", i + 2 + glob.startswith(("!", "^"), i + 1))) > 0:
            inside = glob[i + 1 : end]
            negated = inside.startswith(("!", "^"))
            characters = inside[negated:].replace("\\", "\\\\").replace("[", "\\[").replace("^", "\\^")
            parts.append(f"[{'^' if negated else ''}{characters}]")
            i = end + 1
        else:
            parts.append({"*": "[^/]*", "?": "[^/]"}.get(glob[i], re.escape(glob[i])))
            i += 1
    return "".join(parts)
