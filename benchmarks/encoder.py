"""The encoder behind the backend against the bare session of ONNX Runtime on ready arrays.

    python benchmarks/encoder.py [MODEL ...] [--repeats 40] [--pictures 8] [--threads 1]

Both encode the same arrays, in turns, so that what else the machine does falls on both. A ratio of 1.15 means that the
backend's own work (the spread over threads, joining the pictures' states) takes 15%. ``--pictures 1`` is a single one.
"""

import os
import statistics
import time

import numpy as np
from set_up import argument_parser

from captioner.backends.onnx import OnnxBackend
from captioner.image import Geometry
from captioner.pipeline import load
from captioner.shipped import shipped_models


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("models", nargs="*", default=list(shipped_models()))
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--pictures", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f}, {options.repeats} turns, {options.pictures} pictures, medians")
    for name in options.models:
        backend = load(name, backend="onnx", device="cpu", threads=options.threads).backend
        assert isinstance(backend, OnnxBackend)
        side = backend.side
        pixels = np.random.default_rng(0).integers(0, 256, (options.pictures, side, side, 3), dtype=np.uint8)
        geometries = [Geometry(size=(side, side), side=side, grid=backend.grid_shape, pad=backend.pad)] * len(pixels)
        session, feeds = backend.session("encode"), [{"pixels": pixels[i : i + 1]} for i in range(len(pixels))]
        times: dict[str, list[float]] = {"bare session": [], "backend": []}
        for turn in range(options.repeats + 2):
            begin = time.perf_counter()
            for feed in feeds:
                session.run(None, feed)
            middle = time.perf_counter()
            backend.encode(pixels, geometries)
            end = time.perf_counter()
            if turn > 1:  # the first turns fill the caches
                times["bare session"].append((middle - begin) / len(pixels))
                times["backend"].append((end - middle) / len(pixels))
        bare, ours = (statistics.median(found) for found in times.values())
        pairs = statistics.median(b / a for a, b in zip(*times.values(), strict=True))
        print(f"{name:12} bare {1000 * bare:6.1f} ms  backend {1000 * ours:6.1f} ms  ratio of pairs {pairs:.3f}")


if __name__ == "__main__":
    main()
