"""Figures of captions in files, one for each picture."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from captioner.errors import OptionError
from captioner.partial import PartialFile, check_folder, place_of, remove_stale
from captioner.results import Caption

FORMATS = frozenset((".png", ".pdf", ".svg", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".eps"))
_MOST_BYTES = 200  # of a file's name, with room for what a partial file adds


class FigureFiles:
    """Where the figures of a run go: one file for one picture, a folder for several.

    An existing folder and a name that ends in a slash are folders; for several pictures, so is a name whose ending is
    no format of figures. In a folder, a figure is named after its picture alone: ``photos/dog.jpg`` has
    ``photos-dog-1f0c8a5d2e.figure.png``, whose digits are a digest of the picture's resolved path. So the name does not
    depend on other pictures, on their order or on earlier runs, and no two pictures share a figure.

    Args:
        target: the file or folder.
        several: whether the run can have more than one picture.

    Attributes:
        folder: the folder, or None for a single file.

    Raises:
        OptionError: one file for several pictures, no format of figures, or a place that cannot be written.
    """

    def __init__(self, target: str | Path, *, several: bool) -> None:
        text, path = os.fspath(target), Path(target)
        has_format = path.suffix.lower() in FORMATS
        named_folder = os.path.isdir(text) or text.endswith(("/", os.sep))  # noqa: PTH112 - takes names that are too long
        if not text:
            raise OptionError("--figure: the name is empty", remedy="name a file or a folder")
        if several and has_format and not named_folder:
            raise OptionError(
                f"--figure {text} is one file for several pictures", remedy="name a folder, without such an ending"
            )
        if not (several or has_format or named_folder):
            raise OptionError(
                f"--figure {text}: name a file that ends in .png, .pdf or .svg, or a folder with a slash at its end"
            )
        self.target = path
        self.folder = path if several or named_folder else None

    def prepare(self) -> None:
        """Make the folder and remove what killed runs left there. Raises OptionError where it cannot be written."""
        path = self.target if self.folder is None else self.target / "figure.png"
        place = place_of(path, name=self.target, option="--figure")
        check_folder(place.parent, name=self.target, option="--figure")
        remove_stale(place.parent)

    def path_of(self, picture: str | Path) -> Path:
        """Where the figure of a picture goes."""
        if self.folder is None:
            return self.target
        real = os.path.realpath(picture)
        digest = hashlib.blake2b(os.fsencode(real), digest_size=5).hexdigest()
        ending = f"-{digest}.figure.png"
        name = f"{Path(real).parent.name}-{Path(real).stem}".strip("-")
        short = os.fsencode(name)[: _MOST_BYTES - len(ending)].decode("utf-8", "ignore")
        return self.folder / os.fsdecode(f"{short}{ending}".encode())  # the same file in every locale

    def missing(self, picture: str | Path) -> bool:
        """Whether the picture has no figure yet."""
        return not self.path_of(picture).exists()

    def refuse_pictures_inside(self, pictures: Iterable[Path]) -> None:
        """Make sure that the folder of the figures is not one that pictures come from.

        Raises:
            OptionError: it is; the message names the picture.
        """
        if self.folder is None or not self.folder.is_dir():
            return
        here = os.path.realpath(self.folder)
        firsts: dict[Path, Path] = {}
        for picture in pictures:
            firsts.setdefault(picture.parent, picture)
        for parent, picture in firsts.items():
            if os.path.realpath(parent) == here:
                raise OptionError(
                    f"--figure {self.target}: the folder holds pictures of this run ({picture})",
                    remedy="name another folder",
                )

    def write(self, caption: Caption, *, smooth: bool) -> None:
        """Draw the figure of a caption. The old figure stays until the new one is whole.

        Raises:
            ImageError: the caption keeps no picture, and the picture's file is gone.
            OptionError: the file cannot be written.
        """
        path = self.path_of(caption.image)
        place = place_of(path, option="--figure")
        try:
            partial = PartialFile(place)
        except OSError as error:
            raise OptionError(f"{path}: cannot be written ({error.strerror or error})") from None
        try:
            self._draw(caption, partial, path, smooth=smooth)
        finally:
            partial.discard()  # nothing is left of it where it was moved

    def _draw(self, caption: Caption, partial: PartialFile, path: Path, *, smooth: bool) -> None:
        try:
            caption.figure(partial.path, smooth=smooth)
            partial.commit()
        except OSError as error:
            raise OptionError(f"{path}: cannot be written ({error.strerror or error})") from None
        except OptionError as error:  # which names the partial file
            raise OptionError(str(error).replace(os.fspath(partial.path), os.fspath(path))) from None
