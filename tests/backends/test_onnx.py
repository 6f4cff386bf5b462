"""ONNX Runtime: no torch, graphs that do not fit, threads, forks, devices."""

import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from captioner import checkpoint
from captioner.backends.graph_files import graph_folder
from captioner.backends.sessions import find_provider
from captioner.cli import main
from captioner.data.scenes import dog_frisbee_park
from captioner.errors import CheckpointError, OptionError
from captioner.options import MapOptions
from captioner.pipeline import load

ROOT = Path(__file__).resolve().parents[2]


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Python code in a process of its own."""
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def copied(exported: Callable[[str], Path], tmp_path: Path) -> Path:
    """A tiny model with graphs that a test may change."""
    source = exported("lstm-padded")
    target = tmp_path / source.name
    shutil.copy(source, target)
    shutil.copytree(graph_folder(source), graph_folder(target))
    return target


def test_the_default_captions_without_torch_matplotlib_and_scipy(tmp_path: Path) -> None:
    picture = tmp_path / "scene.png"
    dog_frisbee_park().image.save(picture)
    done = run(
        f"""
        import sys
        import numpy
        import captioner
        model = captioner.load(backend="onnx", device="cpu")
        caption = model.caption({os.fspath(picture)!r})
        model.read({os.fspath(picture)!r}, [caption.text])
        print(caption.text)
        heavy = {{"torch", "torchvision", "matplotlib", "scipy", "safetensors", "array_api_compat"}}
        if not hasattr(numpy.ndarray, "__array_namespace__"):  # before numpy 2
            heavy.remove("array_api_compat")
        print(sorted(heavy & set(sys.modules)))
        """
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [dog_frisbee_park().caption, "[]"]


@pytest.mark.parametrize("graph", ["encode", "step", "score"])
@pytest.mark.parametrize("damage", ["empty", "half", "noise", "flipped", "text"])
def test_damaged_graphs_are_named(copied: Path, graph: str, damage: str) -> None:
    path = graph_folder(copied) / f"{graph}.onnx"
    content = path.read_bytes()
    noise = np.random.default_rng(0).bytes(len(content))
    changed = {
        "empty": b"",
        "half": content[: len(content) // 2],
        "noise": noise,
        "flipped": bytes([255]) + content[1:],
        "text": b"version https://git-lfs.github.com/spec/v1\n",
    }
    path.write_bytes(changed[damage])
    with pytest.raises(CheckpointError) as error:
        model = load(copied, backend="onnx", device="cpu")
        model.read(np.zeros((64, 64, 3), dtype=np.uint8), ["a dog"])  # the score graph is opened when it is needed
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_damaged_graph_that_is_opened_beside_the_picture_stops_the_run(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = graph_folder(copied) / "step.onnx"
    path.write_bytes(path.read_bytes()[:-1000])
    picture, results = tmp_path / "scene.png", tmp_path / "captions.jsonl"
    dog_frisbee_park().image.save(picture)
    results.write_text("")
    assert main(["caption", str(picture), "--model", str(copied), "--backend", "onnx", "--output", str(results)]) == 2
    assert str(path) in capsys.readouterr().err.splitlines()[-1]
    assert results.read_text() == ""


def test_results_are_not_started_again_with_a_graph_that_does_not_open(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = tmp_path / "a.png"
    Image.new("RGB", (40, 30), "red").save(picture)
    results = tmp_path / "captions.jsonl"
    command = ["caption", str(picture), "--model", str(copied), "--backend", "onnx", "--output", str(results)]
    assert main(command) == 0
    before = results.read_bytes()

    def fails(*_: object, **__: object) -> None:
        raise CheckpointError("encode.onnx does not open")

    monkeypatch.setattr("captioner.backends.onnx.make_session", fails)
    assert main([*command, "--overwrite"]) == 2
    assert results.read_bytes() == before


def test_without_waiting_the_steps_are_opened_before_the_first_caption(copied: Path) -> None:
    picture = np.zeros((64, 64, 3), dtype=np.uint8)
    waited, at_once = (load(copied, backend="onnx", device="cpu", wait=wait) for wait in (True, False))
    one, other = waited.caption(picture), at_once.caption(picture)
    assert one.text == other.text
    np.testing.assert_array_equal(one.maps, other.maps)
    (graph_folder(copied) / "step.onnx").write_bytes(b"")
    lazy = load(copied, backend="onnx", device="cpu", wait=False)
    for _ in range(2):  # the error is not raised once only
        with pytest.raises(CheckpointError, match=r"step\.onnx"):
            lazy.caption(picture)


def test_who_does_not_wait_gets_the_same_order_from_a_reranker_that_is_not_optimised(
    exported: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, levels = exported("lstm-reranker"), list[object]()
    start = onnxruntime.InferenceSession.__init__

    def noted(
        self: onnxruntime.InferenceSession, graph: bytes, options: onnxruntime.SessionOptions, **more: object
    ) -> None:
        levels.append(options.graph_optimization_level)
        start(self, graph, options, **more)

    monkeypatch.setattr(onnxruntime.InferenceSession, "__init__", noted)
    pictures = [dog_frisbee_park().image, Image.new("RGB", (50, 40), "green")]
    found, ways = [], []
    for wait in (True, False):
        levels.clear()
        model = load(file, backend="onnx", device="cpu", wait=wait)
        found.append([model.caption(picture).text for picture in pictures])
        ways.append(list(levels))
    assert found[0] == found[1]
    level = onnxruntime.GraphOptimizationLevel
    assert ways == [[level.ORT_ENABLE_ALL] * 3, [level.ORT_ENABLE_ALL] * 2 + [level.ORT_DISABLE_ALL]]


def test_a_process_that_ends_waits_for_the_steps_to_open(copied: Path) -> None:
    code = f"""
    import time
    import captioner
    from captioner.backends.onnx import OnnxBackend
    from captioner.commands.console import end_process
    def slowly(self):
        time.sleep(0.2)
        print("opened")
    OnnxBackend._open_ahead = slowly
    captioner.load({str(copied)!r}, backend="onnx", device="cpu", wait=False)
    end_process(2)
    """
    done = run(code)  # a thread of ONNX Runtime that the interpreter's end meets aborts the process
    assert (done.stdout, done.stderr, done.returncode) == ("opened\n", "", 2)


def test_a_process_that_ends_at_once_writes_all_and_runs_what_was_registered() -> None:
    code = """
    import atexit, sys, {module}
    from captioner.commands.console import end_process
    atexit.register(lambda: print("registered"))
    sys.stdout.write("written, ")
    end_process(3)
    """
    for module in ("onnxruntime", "json"):
        done = run(code.format(module=module))
        assert (done.stdout, done.stderr, done.returncode) == ("written, registered\n", "", 3)


def test_a_graph_that_is_missing_is_named(copied: Path) -> None:
    (graph_folder(copied) / "step.onnx").unlink()
    with pytest.raises(CheckpointError, match=r"step\.onnx.*--backend torch"):
        load(copied, backend="onnx")


def test_graphs_of_another_model_are_refused(
    copied: Path, make_checkpoint: Callable[..., checkpoint.Checkpoint]
) -> None:
    model = make_checkpoint("lstm")
    model.about["note"] = "another"
    checkpoint.save(copied, model)
    for backend in ("auto", "onnx"):
        with pytest.raises(CheckpointError, match="--backend torch") as error:
            load(copied, backend=backend, device="cpu")
        assert str(copied) in str(error.value)
    assert load(copied, backend="torch", device="cpu").backend.name == "torch"


def test_graphs_that_were_exchanged_are_named(copied: Path) -> None:
    folder = graph_folder(copied)
    (folder / "encode.onnx").rename(folder / "other")
    (folder / "step.onnx").rename(folder / "encode.onnx")
    (folder / "other").rename(folder / "step.onnx")
    with pytest.raises(CheckpointError, match=r"encode\.onnx"):
        load(copied, backend="onnx")


def test_a_model_file_that_is_cut_short_is_named(copied: Path) -> None:
    content = copied.read_bytes()
    copied.write_bytes(content[:-100])
    with pytest.raises(CheckpointError) as error:
        load(copied, backend="onnx")
    assert str(copied) in str(error.value)


def test_weights_that_are_not_finite_are_named(
    exported: Callable[[str], Path], tmp_path: Path, make_checkpoint: Callable[..., checkpoint.Checkpoint]
) -> None:
    from captioner.backends.onnx import open_graphs
    from captioner.header import read_header

    model = make_checkpoint("lstm", pad=True)
    model.model.decoder.gate.bias.data.fill_(float("nan"))
    broken = tmp_path / "broken.safetensors"
    checkpoint.save(broken, model)
    whole = exported("lstm-padded")
    folder = graph_folder(whole)
    header = {**read_header(broken), "digest": read_header(whole)["digest"]}
    with pytest.raises(CheckpointError, match=r"decoder\.gate\.bias.*finite"):
        open_graphs(broken, header, folder, lambda name: (folder / f"{name}.onnx").read_bytes())  # type: ignore[arg-type]


def test_without_torch_the_default_runs_on_onnx_runtime() -> None:
    done = run(
        """
        import importlib.util, sys
        sys.modules["torch"] = None
        importlib.util.find_spec = lambda name, find=importlib.util.find_spec: None if name == "torch" else find(name)
        import captioner
        print(captioner.load().backend.name)
        """
    )
    assert (done.stdout, done.stderr) == ("onnx\n", "")


def test_a_model_without_graphs_runs_on_torch(tiny_model: Path) -> None:
    assert load(tiny_model, device="cpu").backend.name == "torch"
    with pytest.raises(CheckpointError, match="--backend torch"):
        load(tiny_model, backend="onnx")


def test_without_torch_a_model_without_graphs_says_what_to_install(tiny_model: Path) -> None:
    done = run(
        f"""
        import sys
        sys.modules["torch"] = None
        import importlib.util
        importlib.util.find_spec = lambda name, find=importlib.util.find_spec: None if name == "torch" else find(name)
        import captioner
        for backend in ("auto", "torch"):
            try:
                captioner.load({os.fspath(tiny_model)!r}, backend=backend)
            except captioner.CaptionerError as error:
                print(error)
        try:
            captioner.load().caption({os.fspath(tiny_model)!r}, explain="gradient")
        except captioner.CaptionerError as error:
            print(error)
        """
    )
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    assert all("pip install torch" in line for line in lines[:2])


def test_gradients_without_torch_say_what_to_install() -> None:
    done = run(
        """
        import sys
        sys.modules["torch"] = None
        import captioner
        from captioner.data.scenes import dog_frisbee_park
        model = captioner.load(backend="onnx")
        try:
            model.caption(dog_frisbee_park().image, explain="gradient")
        except captioner.CaptionerError as error:
            print(error)
        """
    )
    assert done.stderr == ""
    assert "torch" in done.stdout and "pip install torch" in done.stdout
    assert len(done.stdout.splitlines()) == 1


def test_without_onnxruntime_one_line_says_what_to_install() -> None:
    done = run(
        """
        import importlib.util, sys
        sys.modules["onnxruntime"] = None
        importlib.util.find_spec = lambda name, find=importlib.util.find_spec: (
            None if name == "onnxruntime" else find(name)
        )
        import captioner
        print(captioner.load(device="cpu").backend.name)
        try:
            captioner.load(backend="onnx")
        except captioner.CaptionerError as error:
            print(error)
        """
    )
    assert done.stderr == ""
    assert done.stdout.startswith("torch\n")
    assert "pip install onnxruntime" in done.stdout


def test_a_graph_of_an_unknown_opset_is_one_line(copied: Path) -> None:
    path = graph_folder(copied) / "step.onnx"
    graph = onnx.load(path, load_external_data=False)
    graph.opset_import[0].version = 9999
    path.write_bytes(graph.SerializeToString())
    with pytest.raises(CheckpointError, match=r"step\.onnx.*--backend torch") as error:
        load(copied, backend="onnx")
    assert "\n" not in str(error.value)


def test_two_threads_share_a_model(exported: Callable[[str], Path]) -> None:
    model = load(exported("transformer-padded"), backend="onnx", threads=2)
    generator = np.random.default_rng(1)
    pictures = [generator.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(6)]
    alone = [model.caption(picture) for picture in pictures]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(model.caption, pictures * 2))
    for i, caption in enumerate(together):
        assert caption.text == alone[i % 6].text
        np.testing.assert_array_equal(caption.maps, alone[i % 6].maps)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork, which this system lacks")
@pytest.mark.parametrize("threads", [1, 2])
def test_a_forked_child_captions_and_ends(exported: Callable[[str], Path], threads: int) -> None:
    done = run(
        f"""
        import os, sys
        import numpy as np
        import captioner
        model = captioner.load({os.fspath(exported("lstm-padded"))!r}, backend="onnx", threads={threads})
        pictures = [np.full((64, 64, 3), i, dtype=np.uint8) for i in (9, 99)]
        expected = [caption.text for caption in model.caption(pictures)]
        child = os.fork()
        if child == 0:
            assert [caption.text for caption in model.caption(pictures)] == expected
            sys.exit(7)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        """
    )
    assert done.stdout == "7\n", done.stderr


def test_onnxruntime_does_not_report_its_use() -> None:
    code = """
        import os
        os.environ.pop("ORT_DISABLE_TELEMETRY", None)
        import captioner.backends.onnx
        print(os.environ["ORT_DISABLE_TELEMETRY"])
    """
    assert run(code).stdout == "1\n"


def test_devices() -> None:
    assert find_provider("cpu") == ("cpu", ["CPUExecutionProvider"])
    for device in ("mps", "cuda:one", "cpu:1", "quantum", ""):
        with pytest.raises(OptionError, match="cpu") as error:
            find_provider(device)
        assert f"'{device}'" in str(error.value)


def test_a_device_that_onnxruntime_lacks_is_named(
    exported: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    for device in ("cuda", "cuda:1", "coreml", "directml", "openvino"):
        with pytest.raises(OptionError, match="here are cpu") as error:
            load(exported("lstm-padded"), backend="onnx", device=device)
        assert f"'{device}'" in str(error.value)


def test_a_device_that_does_not_start_is_named(
    exported: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: providers)
    with pytest.raises((OptionError, CheckpointError), match=r"cuda|CUDA"):
        load(exported("lstm-padded"), backend="onnx", device="cuda:1")


def test_threads_that_are_none_are_refused(exported: Callable[[str], Path]) -> None:
    for backend in ("onnx", "torch"):
        with pytest.raises(OptionError, match="threads"):
            load(exported("lstm-padded"), backend=backend, threads=0)


def test_an_unknown_backend_is_named(tiny_model: Path) -> None:
    with pytest.raises(OptionError, match="'tensorflow'"):
        load(tiny_model, backend="tensorflow")


def test_models_that_came_from_no_file_have_no_gradients(exported: Callable[[str], Path]) -> None:
    from captioner.pipeline import Captioner

    model = Captioner(load(exported("lstm-padded"), backend="onnx").backend)
    picture = np.zeros((64, 64, 3), dtype=np.uint8)
    with pytest.raises(OptionError, match="safetensors"):
        model.caption(picture, explain=MapOptions(explain="gradient"))
    with pytest.raises(OptionError, match="torch"):
        model.backend.gradients(model.backend.encode(picture[None], [model.prepare(picture).geometry]), [[(4,)]])
