"""A folder of photographs: ONNX Runtime against torch, and beside busy neighbours against itself on an idle machine.

    python benchmarks/folder.py FOLDER [--count 1000] [--repeats 3] [--model default] [--neighbours 1 2]
        [--against CHECKOUT]

Whole processes of ``captioner caption FOLDER --output FILE``. The configurations alternate, and each ratio
compares medians of the same run. A folder with fewer photographs is taken several times. A neighbour is a process that
computes without end. A checkout of another version is run too, with the runtime that it chooses:
``git worktree add CHECKOUT COMMIT``.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from set_up import argument_parser

from captioner.image import SUFFIXES

ROOT = Path(__file__).resolve().parents[1]


@contextmanager
def busy(count: int) -> Iterator[None]:
    neighbours = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for one in neighbours:
            one.kill()
            one.wait()


def captions_a_second(folder: Path, count: int, *, model: str, backend: str, checkout: Path = ROOT) -> float:
    with tempfile.TemporaryDirectory() as target:
        output = Path(target, "captions.jsonl")
        command = [
            sys.executable,
            "-m",
            "captioner.cli",
            "caption",
            str(folder),
            "--output",
            str(output),
        ]
        command += ["--model", model, *(["--backend", backend] if checkout == ROOT else [])]
        begin = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=checkout)
        seconds = time.perf_counter() - begin
        with output.open() as lines:
            assert sum(1 for _ in lines) == count
        return count / seconds


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--model", default="default")
    parser.add_argument("--neighbours", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--against", type=Path, help="a checkout of another version")
    options = parser.parse_args()
    photographs = sorted(path for path in options.folder.resolve().iterdir() if path.suffix.lower() in SUFFIXES)
    if not photographs:
        parser.error(f"no photographs in {options.folder}")
    runs: dict[tuple[str, int], list[float]] = {
        ("torch", 0): [],
        ("onnx", 0): [],
        **{("onnx", count): [] for count in options.neighbours},
        **({("other", 0): []} if options.against else {}),
    }
    with tempfile.TemporaryDirectory() as target:
        for i in range(options.count):
            source = photographs[i % len(photographs)]
            shutil.copy(source, Path(target, f"{i:06}{source.suffix}"))
        for _ in range(options.repeats):
            for (backend, neighbours), found in runs.items():
                checkout = options.against if backend == "other" else ROOT
                with busy(neighbours):
                    found.append(
                        captions_a_second(
                            Path(target), options.count, model=options.model, backend=backend, checkout=checkout
                        )
                    )
    medians = {key: statistics.median(found) for key, found in runs.items()}
    print(f"{options.count} photographs, {options.repeats} turns, {options.model}, load {os.getloadavg()[0]:.1f}")
    for (backend, neighbours), rate in medians.items():
        base = medians["onnx", 0] if neighbours else medians["torch", 0]
        against = "onnx on the idle machine" if neighbours else "torch"
        print(f"{backend:6} {neighbours} neighbours {rate:7.1f} captions/s  {rate / base:5.2f} x {against}")
    if options.against:
        print(f"onnx: {medians['onnx', 0] / medians['other', 0]:.2f} x {options.against}")


if __name__ == "__main__":
    main()
