"""Ranges of options that several commands have."""

import argparse

from captioner.errors import OptionError

_MOST_RESAMPLES = 1_000_000


def check_positive(options: argparse.Namespace, *names: str) -> None:
    """Each of these options is at least 1 where it is given. Raises OptionError."""
    for name in names:
        value = getattr(options, name)
        if value is not None and value < 1:
            raise OptionError(f"--{name.replace('_', '-')} must be at least 1, not {value}")


def check_not_negative(options: argparse.Namespace, *names: str) -> None:
    """Each of these options is at least 0. Raises OptionError."""
    for name in names:
        value = getattr(options, name)
        if value < 0:
            raise OptionError(f"--{name.replace('_', '-')} must be 0 or more, not {value}")


def check_resamples(options: argparse.Namespace, name: str = "bootstrap") -> None:
    """A number of resamples, where it is given, that fits into memory and ends. Raises OptionError."""
    check_positive(options, name)
    value = getattr(options, name)
    if value is not None and value > _MOST_RESAMPLES:
        raise OptionError(f"--{name} must be at most {_MOST_RESAMPLES}, not {value}")


def check_split(split: str) -> None:
    """The split is one that data have. Raises OptionError."""
    if split not in ("train", "dev", "test"):
        raise OptionError(f"--split must be train, dev or test, not '{split}'")
