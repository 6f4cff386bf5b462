"""One caption or answer, the whole process: against ``import torch``, and where the time and the memory go.

    python benchmarks/startup.py [--repeats 9] [--python PATH] [--torch-python PATH] [--picture FILE]

Programs run in turns, so that what else the machine does falls on all alike; medians and ratios are of one run. CPU
times depend less on neighbours than wall times. ``--python`` may be an environment without torch; ``import torch`` then
runs in ``--torch-python``.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from set_up import argument_parser

from captioner.data.scenes import dog_frisbee_park

ROOT = Path(__file__).resolve().parents[1]

ON_TORCH = "import captioner; print(captioner.load(backend='torch', device='cpu').caption({picture!r}).text)"

STAGES = """
import json, time
times = [("start", time.perf_counter())]
def mark(name): times.append((name, time.perf_counter()))
import numpy; mark("import numpy")
import captioner.backends.onnx; mark("import onnxruntime")
import captioner.pipeline, PIL.JpegImagePlugin; mark("import the rest")
model = captioner.pipeline.load({model!r}, backend="onnx", wait=False)
model.backend.session("step"); mark("load: header, weights, sessions")
if model.backend.reranks: model.backend.session("rerank"); mark("the session of the reranker")
prepared = model.prepare({picture!r}); mark("open the picture")
from captioner.pipeline.word_maps import encode
encoded = encode(model.backend, [prepared]); mark("encode")
from captioner.decoding import decode
found = decode(model.backend, encoded, model.default_options); mark("decode")
from captioner.pipeline.assembly import caption_of, decoded_alternative
best = decoded_alternative(found[0][0], model.vocabulary)
caption = caption_of(prepared, best, model=model.name, explain=model.map_options.explain); mark("results")
print(json.dumps([(name, at - before) for (name, at), (_, before) in zip(times[1:], times)]))
"""


def measure(python: str, arguments: list[str]) -> tuple[float, float, float, str]:
    """Wall and CPU seconds, peak MiB and output of a process."""
    with tempfile.TemporaryFile("w+") as output:
        begin = time.perf_counter()
        process = subprocess.Popen([python, "-W", "ignore", *arguments], stdout=output, cwd=ROOT)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - begin
        if status:
            raise SystemExit(f"{arguments} failed")
        output.seek(0)
        return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, output.read()


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--torch-python", default=sys.executable)
    parser.add_argument("--model", default="default", help="whose time is divided up")
    parser.add_argument("--picture", type=Path, help="a photograph; a drawn scene where none is given")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PYTHONPYCACHEPREFIX"] = folder  # modules are compiled once, as in an installation
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPATH"] = os.fspath(ROOT)
        picture = os.fspath((options.picture or Path(folder, "scene.jpg")).resolve())
        if options.picture is None:
            dog_frisbee_park().image.save(picture)
        code = STAGES.format(model=options.model, picture=picture)
        programs = {
            "import torch": (options.torch_python, ["-c", "import torch"]),
            "pass": (options.python, ["-c", "pass"]),
            "import numpy": (options.python, ["-c", "import numpy"]),
            "import numpy, onnxruntime": (options.python, ["-c", "import onnxruntime"]),
            "captioner --help": (options.python, ["-m", "captioner", "--help"]),
            "captioner models": (options.python, ["-m", "captioner", "models"]),
            **{
                f"captioner caption, {model}": (
                    options.python,
                    ["-m", "captioner", "caption", picture, "--model", model],
                )
                for model in ("transformer", "best", "lstm")
            },
            "captioner ask": (options.python, ["-m", "captioner", "ask", picture, "what is the dog catching?"]),
            "a caption on torch, default": (options.torch_python, ["-c", ON_TORCH.format(picture=picture)]),
            "stages": (options.python, ["-c", code]),
        }
        found: dict[str, list[tuple[float, float, float, str]]] = {name: [] for name in programs}
        for turn in range(options.repeats + 1):
            for name, (python, arguments) in programs.items():
                one = measure(python, arguments)
                if turn:  # the first turn fills the caches
                    found[name].append(one)
    stages = [json.loads(output) for *_, output in found.pop("stages")]
    base = [statistics.median(values) for values in list(zip(*found["import torch"], strict=True))[:2]]
    print(f"load average {os.getloadavg()[0]:.1f}, {options.repeats} turns, medians")
    print(f"{'':30} wall s  ratio   CPU s  ratio  peak MiB")
    bare = statistics.median(wall for wall, *_ in found["pass"])
    for name in ("captioner --help", "captioner models"):
        print(f"{name}: {statistics.median(wall for wall, *_ in found[name]) / bare:.2f} of a bare python -c pass")
    for name, runs in found.items():
        wall, cpu, peak = (statistics.median(values) for values in list(zip(*runs, strict=True))[:3])
        print(f"{name:30} {wall:6.3f} {wall / base[0]:6.2f}  {cpu:6.3f} {cpu / base[1]:6.2f}  {peak:8.0f}")
    print(f"\nwhere the time of one caption goes ({options.model}), ms: median, least")
    for i, (name, _) in enumerate(stages[0]):
        times = [1000 * stage[i][1] for stage in stages]
        print(f"{name:35} {statistics.median(times):6.1f} {min(times):6.1f}")


if __name__ == "__main__":
    main()
