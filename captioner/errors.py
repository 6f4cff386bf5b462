"""What can go wrong through no fault of the program: each kind carries one line for the user.

The command line prints the line and exits with 2. Library code raises these for wrong input; a
programming error stays a ``TypeError``, ``IndexError`` and so on, with its traceback.
"""


class CaptionerError(Exception):
    """A mistake in what the user gave.

    Args:
        message: what is wrong, and with which value.
        remedy: what would mend it; ``str(error)`` is both, with a semicolon between.
    """

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(f"{message}; {remedy}" if remedy else message)
        self.remedy = remedy


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
