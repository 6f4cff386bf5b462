"""`captioner bulk` on a Ray cluster of two nodes on this machine: kills, throughput, memory.

    python benchmarks/bulk.py [--pictures N] [--many N] [--few N] [--model FILE] [--measure kills rates growth]

Pictures are 32 x 24 noise, 1% of them damaged; the model is a tiny random one unless one is named, so that the
framework is measured and not the model. It prints

- whether the output is exact after a worker and then the driver were killed with -9, and the driver started again,
- captions a second of one actor and of two, against as many processes without Ray; start-up is left out: the rate is
  that between the first and the last part,
- the largest resident memory of the driver and of its actors for few and for many pictures, and the CPU time of all
  processes for each further picture, which a busy machine changes little.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
from PIL import Image
from set_up import argument_parser

ROOT = Path(__file__).resolve().parents[1]


def make_pictures(folder: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    for i in range(count):
        path = folder / f"{i // 1000:03}" / f"{i:07}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if i % 100 == 7:
            path.write_bytes(b"\xff\xd8 damaged")
        else:
            Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)).save(path)


def tiny_model(path: Path) -> Path:
    """An untrained model with graphs: 8 x 8 cells on 64 x 64 pixels."""
    import torch

    from captioner import checkpoint
    from captioner.export.graphs import write_graphs
    from captioner.model.caption_model import CaptionModel, ModelConfig
    from captioner.model.encoder import EncoderConfig
    from captioner.model.lstm import LSTMConfig
    from captioner.model.refiners import RefinerConfig
    from captioner.tokenizer.vocabulary import SPECIAL, Vocabulary

    torch.manual_seed(4)
    vocabulary = Vocabulary((*SPECIAL, "a", "dog", "cat", "ball", "red", "blue", "in", "the", "park"))
    config = ModelConfig(
        encoder=EncoderConfig(backbone="tiny", side=64),
        refiner=RefinerConfig(width=16, heads=2),
        decoder=LSTMConfig(width=32, embedding=16, output_hidden=24, attention_width=16, heads=1),
    )
    model = CaptionModel(config, vocabulary_size=len(vocabulary)).eval()
    about = {"decoding": {"width": 2, "max_length": 8, "min_length": 3}}
    checkpoint.save(path, checkpoint.Checkpoint(model=model, vocabulary=vocabulary, about=about))
    write_graphs(path)
    return path


class Driver:
    """A run of the command in a process of its own."""

    def __init__(self, source: Path, output: Path, model: str, address: str, *, actors: int) -> None:
        words = ["bulk", source, "--output", output, "--model", model, "--address", address, "--actors", str(actors)]
        command = [sys.executable, "-m", "captioner", *map(str, words), "--part-size", "250"]
        self.output = output
        self.process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        self.peak = {"driver": 0, "actor": 0}
        self._before = cpu_seconds()
        self._after: dict[int, float] = {}

    def parts(self) -> list[Path]:
        return sorted(self.output.glob("part-*.parquet"))

    def wait_for_parts(self, count: int) -> None:
        while self.process.poll() is None and len(self.parts()) < count:
            time.sleep(0.2)

    def finish(self) -> str:
        """Wait for the end while the memory is watched; what it printed."""
        driver = psutil.Process(self.process.pid)
        while self.process.poll() is None:
            self._after |= cpu_seconds()
            for kind, some in (("driver", [driver]), ("actor", actors())):
                for one in some:
                    try:
                        self.peak[kind] = max(self.peak[kind], one.memory_info().rss)
                    except psutil.Error:
                        continue
            time.sleep(1)
        assert self.process.stderr is not None
        return self.process.stderr.read()

    @property
    def cpu(self) -> float:
        """CPU seconds of the driver, the workers and the cluster's own processes."""
        return sum(seconds - self._before.get(pid, 0.0) for pid, seconds in self._after.items())

    def rate(self) -> float:
        """Pictures a second between the first and the last part; not a number where there is one."""
        ends = sorted((part.stat().st_mtime, pq.ParquetFile(part).metadata.num_rows) for part in self.parts())
        seconds = ends[-1][0] - ends[0][0]
        return sum(rows for _, rows in ends[1:]) / seconds if seconds else float("nan")


def cpu_seconds() -> dict[int, float]:
    """CPU seconds of this process's cluster and drivers, by process."""
    found = {}
    for one in psutil.Process().children(recursive=True):
        try:
            times = one.cpu_times()
            found[one.pid] = times.user + times.system
        except psutil.Error:
            continue
    return found


def actors() -> list[psutil.Process]:
    """The actors that caption, of this process's cluster."""
    found = []
    for one in psutil.Process().children(recursive=True):
        try:
            if "MapWorker" in " ".join(one.cmdline()):
                found.append(one)
        except psutil.Error:
            continue
    return found


def check(output: Path, pictures: Path, printed: str) -> None:
    """Every picture once, and counts that add up."""
    names = [name for part in output.glob("part-*.parquet") for name in pq.read_table(part)["image"].to_pylist()]
    expected = {path.relative_to(pictures).as_posix() for path in pictures.rglob("*.jpg")}
    assert len(names) == len(set(names)), "a picture twice"
    assert set(names) == expected, "a picture is lost"
    numbers = [
        int(one.replace(",", "")) for one in re.findall(r"([\d,]+) (?:pictures|captioned|failed,|skipped)", printed)
    ]
    total, *parts = numbers[-4:]
    assert total == len(expected) == sum(parts), printed


def without_ray(pictures: Path, model: str, *, processes: int) -> tuple[float, float]:
    """Captions a second of processes that share the pictures, and CPU seconds a caption."""
    command = [sys.executable, __file__, "--alone", str(pictures), "--model", model]
    started = [
        subprocess.Popen([*command, "--shard", f"{i}/{processes}"], stdout=subprocess.PIPE, text=True)
        for i in range(processes)
    ]
    printed = [one.communicate()[0].split() for one in started]
    return sum(float(rate) for rate, _ in printed), sum(float(cpu) for _, cpu in printed) / processes


def alone(pictures: Path, model: str, shard: str) -> None:
    """Caption every n-th picture; print captions a second, and CPU seconds a caption."""
    import captioner

    first, step = map(int, shard.split("/"))
    loaded = captioner.load(model, device="cpu", threads=1)
    paths = sorted(pictures.rglob("*.jpg"))[first::step]
    list(loaded.caption_all(path.read_bytes() for path in paths[:50]))
    begin, cpu = time.perf_counter(), time.process_time()
    done = sum(1 for _ in loaded.caption_all(path.read_bytes() for path in paths))
    print(done / (time.perf_counter() - begin), (time.process_time() - cpu) / done)


def kills(start: Callable[..., Driver], pictures: Path) -> None:
    """Kill a worker and the driver, start again, and check."""
    first = start("killed", 2, pictures)
    first.wait_for_parts(2)
    actors()[0].send_signal(signal.SIGKILL)
    first.wait_for_parts(4)
    first.process.kill()
    first.process.wait()
    before = len(first.parts())
    printed = start("killed", 2, pictures).finish()
    check(first.output, pictures, printed)
    print(
        f"killed: a worker, then the driver at {before} parts; {printed.splitlines()[-1].partition(': ')[2]}",
        flush=True,
    )


def rates(start: Callable[..., Driver], pictures: Path, model: str) -> None:
    """One and two actors against as many processes without Ray."""
    for count in (1, 2):
        rate, cpu = without_ray(pictures, model, processes=count)
        print(f"{count} without Ray {rate:8.1f} captions/s, {1000 * cpu:.2f} CPU ms a caption", flush=True)
        run = start(f"actors-{count}", count, pictures)
        check(run.output, pictures, run.finish())
        print(f"{count} actors      {run.rate():8.1f} captions/s, {run.rate() / rate:.2f} x without Ray", flush=True)


def growth(start: Callable[..., Driver], few: Path, many: Path) -> None:
    """Memory, and CPU time of each further picture."""
    cpu, counts = [], []
    for pictures in (few, many):
        run = start(f"size-{pictures.name}", 2, pictures)
        check(run.output, pictures, run.finish())
        peak = ", ".join(f"{kind} {value / (1 << 20):.0f} MB" for kind, value in run.peak.items())
        cpu.append(run.cpu)
        counts.append(int(pictures.name))
        print(f"{counts[-1]} pictures: {peak}, {run.rate():.1f} captions/s, {run.cpu:.1f} CPU s", flush=True)
    more = (cpu[1] - cpu[0]) / (counts[1] - counts[0])
    print(f"each further picture: {1000 * more:.2f} CPU ms", flush=True)


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--pictures", type=int, default=5000)
    parser.add_argument("--many", type=int, default=20000)
    parser.add_argument("--few", type=int, default=1000)
    parser.add_argument("--model")
    parser.add_argument(
        "--measure", nargs="*", choices=("kills", "rates", "growth"), default=["kills", "rates", "growth"]
    )
    parser.add_argument("--alone", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--shard", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone is not None:
        alone(options.alone, options.model, options.shard)
        return
    # Ray's workers run at nice 15 otherwise, which a machine with neighbours does not treat as it treats the others.
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    from ray.cluster_utils import Cluster

    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        model = options.model or str(tiny_model(work / "tiny.safetensors"))
        node = {"num_cpus": 1, "object_store_memory": 200 << 20}
        cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
        cluster.add_node(**node)

        def start(name: str, count: int, pictures: Path) -> Driver:
            return Driver(pictures, work / name, model, cluster.address, actors=count)

        def pictures(count: int) -> Path:
            if not (work / str(count)).exists():
                make_pictures(work / str(count), count)
            return work / str(count)

        try:
            if "kills" in options.measure:
                kills(start, pictures(options.pictures))
            if "rates" in options.measure:
                rates(start, pictures(options.pictures), model)
            if "growth" in options.measure:
                growth(start, pictures(options.few), pictures(options.many))
        finally:
            cluster.shutdown()
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
