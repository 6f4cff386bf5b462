"""The command ``captioner scenes``."""

import argparse
from pathlib import Path

from captioner.errors import DataError, OptionError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.description = "Draw scenes with captions and boxes: a small data set that is right to the pixel."
    parser.add_argument("path", type=Path, metavar="FOLDER", help="the folder of the data set; a picture for --example")
    parser.add_argument("--example", action="store_true", help="draw one picture: a dog chases a frisbee in a park")
    parser.add_argument("--count", type=int, metavar="N", help="scenes of the split train (default 600)")
    parser.add_argument("--dev", type=int, metavar="N", help="scenes of the split dev (default 60)")
    parser.add_argument("--first-seed", type=int, metavar="N", help="seed of the first scene (default 0)")


def run(options: argparse.Namespace) -> int:
    """Write the scenes: 0. Raises OptionError, DataError."""
    numbers = {}
    for name, default in (("count", 600), ("dev", 60), ("first_seed", 0)):
        flag, given = "--" + name.replace("_", "-"), getattr(options, name)
        if given is not None and options.example:
            raise OptionError(
                f"--example draws one picture; {flag} {given} goes not with it", remedy=f"leave out {flag}"
            )
        if given is not None and given < 0:
            raise OptionError(f"{flag} must be at least 0, not {given}")
        numbers[name] = default if given is None else given
    if not options.example and numbers["count"] + numbers["dev"] == 0:
        raise OptionError("--count and --dev are 0: there is nothing to draw", remedy="raise one of them")
    from captioner.data.scenes import dog_frisbee_park, write_scenes

    path: Path = options.path
    try:
        if options.example:
            if path.exists():
                raise OptionError(f"{path} exists already", remedy="name a new file")
            path.parent.mkdir(parents=True, exist_ok=True)
            dog_frisbee_park().image.save(path)
            return 0
        if path.is_dir() and any(path.iterdir()):
            raise OptionError(f"{path} is not empty: scenes would overwrite what is in it", remedy="give a new folder")
        print(write_scenes(path, count=numbers["count"], dev=numbers["dev"], first_seed=numbers["first_seed"]))
    except (OSError, ValueError) as error:
        if isinstance(error, OptionError):
            raise
        raise DataError(f"{path}: cannot be written ({getattr(error, 'strerror', None) or error})") from None
    return 0
