"""Errors that the user can mend: each has one line that states what is wrong and what to do.

The command line prints the line and exits with 2. Library code raises these for wrong input; a
programming error stays a ``TypeError``, ``IndexError`` and so on, with its traceback.
"""


class CaptionerError(Exception):
    """A mistake in the input or the options.

    Args:
        message: what is wrong, and with which value.
        remedy: what the user can do. ``str(error)`` is message and remedy, with a semicolon between them.
    """

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(f"{message}; {remedy}" if remedy else message)
        self.remedy = remedy


def one_line(error: object) -> str:
    """The text of a foreign error in one line of at most 200 characters, to stand inside a message."""
    return " ".join(str(error).split())[:200]


class ImageError(CaptionerError):
    """A picture that cannot be opened: missing, not an image, truncated, or too large."""


class TooManyPixelsError(ImageError):
    """A picture that is whole but larger than the caller allows; ``size`` is its (width, height)."""

    def __init__(self, message: str, size: tuple[int, int] = (0, 0), *, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)  # pickle calls this with the message alone, and sets the rest
        self.size = size


class CheckpointError(CaptionerError):
    """A model file that is missing, damaged, foreign, or of another format version."""


class DataError(CaptionerError):
    """Captions, annotations or results that cannot be read or do not fit together."""


class OptionError(CaptionerError, ValueError):
    """An option outside its range, or options that exclude each other."""


class Notice(UserWarning):
    """A warning for the user, not for the programmer: the command line prints it as one line."""


class OldNameWarning(Notice, FutureWarning):
    """A former name that still works: of an option, or in a model file. The message has the present name."""
