"""The command ``captioner scenes``."""

import argparse
from pathlib import Path

from captioner.errors import DataError, OptionError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.description = "Draw scenes with captions and boxes: a small data set that is right to the pixel."
    parser.add_argument("path", type=Path, metavar="FOLDER", help="the folder of the data set; a picture for --example")
    parser.add_argument("--example", action="store_true", help="draw one picture: a dog chases a frisbee in a park")
    parser.add_argument("--count", type=int, default=600, metavar="N", help="scenes of the split train (default 600)")
    parser.add_argument("--dev", type=int, default=60, metavar="N", help="scenes of the split dev (default 60)")
    parser.add_argument("--first-seed", type=int, default=0, metavar="N", help="seed of the first scene (default 0)")


def run(options: argparse.Namespace) -> int:
    """Write the scenes: 0. Raises OptionError, DataError."""
    for name, low in (("count", 0), ("dev", 0), ("first_seed", 0)):
        if getattr(options, name) < low:
            flag = "--" + name.replace("_", "-")
            raise OptionError(f"{flag} must be at least {low}, not {getattr(options, name)}")
    if not options.example and options.count + options.dev == 0:
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
        print(write_scenes(path, count=options.count, dev=options.dev, first_seed=options.first_seed))
    except (OSError, ValueError) as error:
        if isinstance(error, OptionError):
            raise
        raise DataError(f"{path}: cannot be written ({getattr(error, 'strerror', None) or error})") from None
    return 0
