"""How a server bears many clients: answers by status, their times, and its memory from start to end.

    python benchmarks/serve_load.py [--model NAME] [--backend onnx] [--clients 16] [--seconds 30] [--pictures FOLDER]
        [--format html] [--against CHECKOUT]

Starts ``captioner serve`` and asks it from as many clients as are wanted, each of which sends its next picture as
soon as it has the last one's caption, on a connection that it keeps. A 503 is waited out as its Retry-After says.
Pictures are drawn scenes as JPEG where no folder is given. The clients share the machine's cores with the server.
A checkout of another version (``git worktree add CHECKOUT COMMIT``) is asked before and after, with the runtime that it
chooses.
"""

import argparse
import io
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
from set_up import argument_parser

from captioner.data.scenes import draw_scene

ROOT = Path(__file__).resolve().parents[1]
SAMPLE_SECONDS = 0.5


@dataclass
class Tally:
    """What the clients have seen."""

    statuses: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, status: str, seconds: float) -> None:
        with self.lock:
            self.statuses[status] += 1
            if status == "200":
                self.seconds.append(seconds)


def client(url: str, pictures: list[bytes], form: str, first: int, end: float, tally: Tally) -> None:
    """Ask until the time is over."""
    with httpx2.Client(base_url=url, timeout=120, trust_env=False) as connection:
        number = first
        while time.monotonic() < end:
            picture = pictures[number % len(pictures)]
            number += 1
            began = time.monotonic()
            try:
                file = {"file": (f"{number}.jpg", picture)}
                response = connection.post("/v1/captions", files=file, data={"format": form})
                status = str(response.status_code)
                if status == "200" and form == "json" and not response.json()["captions"][0]["caption"]:
                    status = "200 without a caption"
            except httpx2.HTTPError as error:
                response, status = None, type(error).__name__
            tally.add(status, time.monotonic() - began)
            if response is not None and status == "503":
                time.sleep(float(response.headers["Retry-After"]))


def memory(process: int) -> float:
    """Megabytes of memory that a process occupies (Linux)."""
    status = Path(f"/proc/{process}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    return int(found[1]) / 1024 if found else float("nan")


def watch(process: int, end: float, samples: list[float]) -> None:
    """Sample a process's memory until the time is over."""
    while time.monotonic() < end:
        samples.append(memory(process))
        time.sleep(SAMPLE_SECONDS)


def pictures_of(folder: Path | None, count: int) -> list[bytes]:
    """The bytes of the pictures to send."""
    if folder is not None:
        found = [path.read_bytes() for path in sorted(folder.glob("*.jpg"))[:count]]
        if not found:
            sys.exit(f"{folder}: no .jpg in it")
        return found
    contents = []
    for seed in range(count):
        buffer = io.BytesIO()
        draw_scene(seed, size=(640, 480)).image.save(buffer, "JPEG", quality=90)
        contents.append(buffer.getvalue())
    return contents


def start(arguments: argparse.Namespace, checkout: Path) -> tuple[subprocess.Popen[str], str]:
    """The server of a checkout, and its address once it is ready."""
    command = [sys.executable, "-m", "captioner.cli", "serve", "--port", "0", "--model", arguments.model]
    command += ["--batch", str(arguments.batch), "--queue", str(arguments.queue)]
    command += ["--max-files", str(min(16, arguments.queue))]
    command += ["--backend", arguments.backend] if checkout == ROOT else []
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=checkout)
    assert server.stderr is not None
    line = server.stderr.readline()
    found = re.search(r"http://\S+:\d+", line)
    if not found:
        sys.exit(line + server.stderr.read())
    while httpx2.get(f"{found[0]}/health/ready", timeout=60, trust_env=False).status_code != 200:
        time.sleep(0.1)
    return server, found[0]


def measure(arguments: argparse.Namespace, checkout: Path, pictures: list[bytes]) -> tuple[float, float, float]:
    """Ask the server of a checkout; captions a second, the median time of an answer, and its 99th percentile."""
    server, url = start(arguments, checkout)
    at_rest = memory(server.pid)
    tally, samples = Tally(), list[float]()
    began = time.monotonic()
    end = began + arguments.seconds
    threads = [
        threading.Thread(target=client, args=(url, pictures, arguments.format, 4 * number, end, tally))
        for number in range(arguments.clients)
    ]
    threads.append(threading.Thread(target=watch, args=(server.pid, end, samples)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.monotonic() - began
    after = memory(server.pid)
    server.send_signal(signal.SIGTERM)
    code = server.wait(60)

    print(
        f"{arguments.clients} clients for {took:.0f} s, batches of up to {arguments.batch}, queue of "
        f"{arguments.queue}{'' if checkout == ROOT else f', {checkout}'}"
    )
    print("answers:", ", ".join(f"{status}: {count}" for status, count in sorted(tally.statuses.items())))
    if len(tally.seconds) < 2:
        sys.exit("too few answers to measure: ask for longer")
    rate, median = len(tally.seconds) / took, statistics.median(tally.seconds)
    slow = statistics.quantiles(tally.seconds, n=100, method="inclusive")[98]
    print(
        f"captions: {rate:.1f}/s; time of an answer: median {median:.3f} s, 99th percentile {slow:.3f} s, "
        f"longest {max(tally.seconds):.2f} s"
    )
    third = max(1, len(samples) // 3)
    parts = (samples[:third], samples[third : 2 * third], samples[2 * third :])
    means = "  ".join(f"{statistics.mean(part):.0f}" for part in parts if part)
    print(
        f"memory in MB: at rest {at_rest:.0f}; mean of each third {means}; most {max(samples):.0f}; after {after:.0f}"
    )
    print(f"the server ended with exit code {code}", flush=True)
    return rate, median, slow


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--model", default="default")
    parser.add_argument("--backend", default="auto", help="onnx or torch, to compare the two")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--format", default="json", choices=("json", "html", "png"), help="what is asked for")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--queue", type=int, default=64)
    parser.add_argument("--against", type=Path, help="a checkout of another version")
    arguments = parser.parse_args()
    pictures = pictures_of(arguments.pictures, 64)
    others = [measure(arguments, arguments.against, pictures)] if arguments.against else []
    rate, median, slow = measure(arguments, ROOT, pictures)
    if arguments.against:
        others.append(measure(arguments, arguments.against, pictures))
        other = [statistics.mean(figures) for figures in zip(*others, strict=True)]
        print(
            f"against {arguments.against}: {rate / other[0]:.2f} x the captions a second; the median answer comes "
            f"{other[1] / median:.2f} x and the 99th percentile {other[2] / slow:.2f} x as fast"
        )


if __name__ == "__main__":
    main()
