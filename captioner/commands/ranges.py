"""Ranges of options that several commands have."""

import argparse

from captioner.errors import OptionError

_FEWEST_RESAMPLES, _MOST_RESAMPLES = 40, 1_000_000  # of fewer than 40, less than one lies beyond 97.5%


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
    """A number of resamples, where it is given, that has a 95% interval, fits into memory and ends. Raises
    OptionError."""
    value = getattr(options, name)
    if value is None:
        return
    if value < _FEWEST_RESAMPLES:
        raise OptionError(f"--{name} must be at least {_FEWEST_RESAMPLES}, not {value}: a 95% interval needs as many")
    if value > _MOST_RESAMPLES:
        raise OptionError(f"--{name} must be at most {_MOST_RESAMPLES}, not {value}")


def check_split(split: str) -> None:
    """The split is one that data have. Raises OptionError."""
    if split not in ("train", "dev", "test"):
        raise OptionError(f"--split must be train, dev or test, not '{split}'")
