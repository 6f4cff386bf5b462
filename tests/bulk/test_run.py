"""`captioner bulk` on a Ray cluster of two nodes on this machine: nothing is lost and nothing comes twice."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import captioner
from captioner import cli

ray = pytest.importorskip("ray", reason="needs the extra 'ray', which is not installed")
import psutil  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
from ray.cluster_utils import Cluster  # noqa: E402

from captioner.bulk import CaptionBatch, maps_of  # noqa: E402
from captioner.bulk.chunks import Files  # noqa: E402
from captioner.bulk.cluster import _cause_of, _without_log_level, connected  # noqa: E402
from captioner.bulk.plan import plan  # noqa: E402
from captioner.bulk.run import Workers, _pipeline, run  # noqa: E402
from captioner.errors import CaptionerError, DataError, OptionError  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
PICTURES = 400
DAMAGED = {i for i in range(PICTURES) if i % 100 == 7}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two nodes of one CPU each; this process is connected."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("OMP_NUM_THREADS", "1")
        node = {"num_cpus": 1, "object_store_memory": 100 << 20, "include_log_monitor": False}
        for attempt in range(3):  # Ray gives a node 15 seconds to start, which a busy machine may miss
            started = Cluster()
            try:
                started.add_node(include_dashboard=False, **node)
                started.add_node(**node)
                break
            except Exception:
                started.shutdown()
                if attempt == 2:
                    raise
        ray.init(address=started.address, log_to_driver=False, logging_level="ERROR")
        yield started
        ray.shutdown()
        started.shutdown()
    for number, handler in before.items():  # Ray leaves its own
        if handler is not None:  # one that Python did not set cannot be given back
            signal.signal(number, handler)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for i in range(PICTURES):
        path = folder / str(i % 4) / f"{i:03}.png"
        path.parent.mkdir(exist_ok=True)
        if i in DAMAGED:
            path.write_bytes(b"\x89PNG damaged")
        else:
            Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).save(path)
    return folder


def rows_of(output: Path) -> list[dict[str, Any]]:
    return [row for part in sorted(output.glob("*.parquet")) for row in pq.read_table(part).to_pylist()]


def wait_for(parts: int, output: Path, driver: "subprocess.Popen[str]") -> None:
    until = time.monotonic() + 240
    while len(list(output.glob("*.parquet"))) < parts:
        assert driver.poll() is None, driver.communicate()[1]
        assert time.monotonic() < until, "no parts"
        time.sleep(0.02)


def test_a_worker_and_the_driver_are_killed(
    cluster: Cluster,
    pictures: Path,
    exported: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model, output = exported("lstm-padded"), tmp_path / "out"
    words = ["bulk", str(pictures), "--output", str(output), "--model", str(model), "--actors", "2"]
    words += ["--part-size", "16", "--batch", "4", "--address", cluster.address]
    driver = subprocess.Popen([sys.executable, "-m", "captioner", *words], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(1, output, driver)
        workers = psutil.Process().children(recursive=True)  # those of this cluster, and of no other
        victim = next(one for one in workers if "MapWorker" in " ".join(one.cmdline()))
        victim.send_signal(signal.SIGKILL)
        wait_for(3, output, driver)
    finally:
        driver.kill()
        driver.communicate()
    before = {row["image"] for row in rows_of(output)}
    assert 0 < len(before) < PICTURES
    assert cli.main(words) == 1
    printed = capsys.readouterr().err
    rows = rows_of(output)
    names = [row["image"] for row in rows]
    assert len(names) == PICTURES and set(names) == {f"{i % 4}/{i:03}.png" for i in range(PICTURES)}
    assert {row["image"] for row in rows if row["error"]} == {f"{i % 4}/{i:03}.png" for i in DAMAGED}
    counts = re.findall(r"([\d,]+) (?:pictures:|captioned|failed,|skipped)", printed.splitlines()[-1])
    total, captioned, failed, skipped = (int(count.replace(",", "")) for count in counts)
    assert total == PICTURES == captioned + failed + skipped and skipped == len(before)
    assert all(f"{name}: " in printed for name in names if name not in before and int(name[2:5]) in DAMAGED)
    one = captioner.load(model).caption(pictures / "1" / "001.png")
    (row,) = [row for row in rows if row["image"] == "1/001.png"]
    assert (row["caption"], row["words"]) == (one.text, [word.text for word in one.words])
    assert row["score"] == pytest.approx(one.score, rel=1e-5)
    assert not (output / "_staging").exists()


def test_a_table_with_maps_and_failures_tried_again(
    cluster: Cluster,
    pictures: Path,
    exported: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import pyarrow as pa

    some = [tmp_path / "a.png", tmp_path / "b.png"]
    some[0].write_bytes((pictures / "0" / "000.png").read_bytes())
    some[1].write_bytes(b"damaged")
    pq.write_table(pa.table({"path": [str(path) for path in some], "key": ["x", "y"]}), tmp_path / "list.parquet")
    output, model = tmp_path / "out", exported("lstm-padded")
    words = ["bulk", str(tmp_path / "list.parquet"), "--key", "key", "--output", str(output), "--maps", "uint8"]
    words += ["--model", str(model), "--actors", "1", "--quiet"]
    assert cli.main(words) == 1
    assert "y: " in capsys.readouterr().err
    (row,) = [row for row in rows_of(output) if row["error"] is None]
    caption = captioner.load(model).caption(some[0])
    assert (row["image"], row["caption"]) == ("x", caption.text)
    np.testing.assert_allclose(maps_of(row), caption.maps, atol=caption.maps.max() / 500)
    assert cli.main(words) == 1  # nothing is left to do, and one has failed
    assert len(rows_of(output)) == 2
    assert cli.main([*words, "--maps", "none"]) == 2
    assert "storage uint8, not none" in capsys.readouterr().err
    some[1].write_bytes(some[0].read_bytes())
    with pytest.MonkeyPatch.context() as patch:  # a cluster that does not answer: nothing is removed
        patch.setattr("ray.is_initialized", lambda: False)
        assert cli.main([*words, "--overwrite", "--address", "127.0.0.1:1"]) == 2
    assert len(rows_of(output)) == 2
    assert cli.main([*words, "--retry-failed"]) == 0
    assert sorted((row["image"], row["error"]) for row in rows_of(output)) == [("x", None), ("y", None)]


def test_in_a_pipeline_of_ones_own(cluster: Cluster, pictures: Path, exported: Callable[[str], Path]) -> None:
    paths = [str(pictures / "0" / "000.png"), str(pictures / "3" / "007.png")]
    data = ray.data.from_items([{"image": path, "place": i} for i, path in enumerate(paths)])
    found = data.map_batches(
        CaptionBatch,
        fn_constructor_kwargs={"model": str(exported("lstm-padded"))},
        compute=ray.data.ActorPoolStrategy(size=1),
        num_cpus=1,
    ).take_all()
    found.sort(key=lambda row: row["place"])  # Ray keeps no order
    assert [row["place"] for row in found] == [0, 1]
    assert found[0]["caption"] and found[0]["error"] is None
    assert found[1]["caption"] is None and paths[1] in found[1]["error"]


def test_a_client_has_its_driver_on_the_cluster(
    cluster: Cluster, pictures: Path, exported: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("captioner.bulk.cluster.is_client", lambda address: True)
    words = ["bulk", str(pictures), "--output", str(tmp_path / "out"), "--model", str(exported("lstm-padded"))]
    assert cli.main([*words, "--include", "00*.png", "--actors", "1"]) == 1
    assert {row["image"] for row in rows_of(tmp_path / "out")} == {f"{i % 4}/{i:03}.png" for i in range(10)}


def test_a_run_counts_what_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    chunk = SimpleNamespace(ids=("a", "b"), without=lambda done: chunk)
    planned = plan([chunk], [])  # type: ignore[list-item]
    batches = SimpleNamespace(iter_batches=lambda **_: iter([]))
    monkeypatch.setattr("captioner.bulk.run._pipeline", lambda *_: batches)
    nothing: Any = None
    with pytest.raises(CaptionerError, match="0 of 2"):
        run(nothing, nothing, planned, nothing, workers=nothing, part_size=1, advance=print, fail=print)


@pytest.mark.parametrize(
    ("asked", "there", "expected"),
    [
        ({}, {"CPU": 8}, (8, 8)),
        ({"threads": 3}, {"CPU": 8}, (2, 2)),
        ({"gpus": 0.5}, {"CPU": 8, "GPU": 2}, (4, 4)),
        ({"actors": 12, "can_grow": True}, {"CPU": 8}, (12, 8)),
    ],
)
def test_as_many_actors_as_fit(asked: dict[str, Any], there: dict[str, float], expected: tuple[int, int]) -> None:
    cluster = SimpleNamespace(cluster_resources=lambda: there)
    workers = Workers.fitting(cluster, **{"actors": None, "threads": 1, "gpus": 0.0, "can_grow": False, **asked})
    assert (workers.actors, workers.at_least) == expected


@pytest.mark.parametrize(
    ("asked", "value", "remedy"),
    [({"actors": 3}, "2 fit", "--actors 2"), ({"gpus": 1.0}, "0 GPUs", "--gpus-per-actor")],
)
def test_more_than_there_is(asked: dict[str, Any], value: str, remedy: str) -> None:
    cluster = SimpleNamespace(cluster_resources=lambda: {"CPU": 2.0})
    with pytest.raises(OptionError, match=value) as error:
        Workers.fitting(cluster, **{"actors": None, "threads": 1, "gpus": 0.0, "can_grow": False, **asked})
    assert remedy in error.value.remedy


def test_a_cluster_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    for address in ("127.0.0.1:1", "ray://127.0.0.1:1", "ray:127.0.0.1", "host:99999"):
        with pytest.raises(OptionError, match=address), connected(address):
            pass

    def none(**_: Any) -> None:
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.setattr("ray.init", none)
    with pytest.raises(OptionError, match="auto") as error, connected("auto"):
        pass
    assert "ray start --head" in error.value.remedy


def test_errors_of_workers_become_lines() -> None:
    full = OptionError("--output out: cannot be written (No space left on device)", remedy="mend it")
    error = ray.exceptions.RayTaskError("f", "Traceback\nOptionError", full)
    assert _cause_of(error.as_instanceof_cause()) is full or str(_cause_of(error)) == str(full)
    full.args = (f"{full}\nFailed to apply UDF transform after 1/1 attempts (total backoff 0.0s).",)  # as Ray adds
    assert str(_cause_of(full)) == "--output out: cannot be written (No space left on device); mend it"
    assert isinstance(_cause_of(full), OptionError) and _cause_of(full).remedy == "mend it"
    other = ray.exceptions.RayTaskError(
        "f", "Traceback (most recent call last):\nValueError: seven", ValueError("seven")
    )
    assert "ValueError: seven" in str(_cause_of(other)) and _cause_of(other).remedy
    lacks = ray.exceptions.RaySystemError("System error: No module named 'captioner.bulk'")
    assert "install" in _cause_of(lacks).remedy


def test_of_what_ray_prints_one_line_is_left_out(capfd: pytest.CaptureFixture[str]) -> None:
    with _without_log_level():
        os.write(2, b"logging.cc: from environment variable RAY_BACKEND_LOG_LEVEL to 3\nother\n")
    assert capfd.readouterr().err == "other\n"


def test_few_pictures_are_spread_over_all_actors(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    class Rows:
        def map_batches(self, *_: Any, **options: Any) -> "Rows":
            asked.setdefault("actors", options.get("compute"))
            asked.setdefault("batch_size", options["batch_size"])
            return self

    def read(source: Any, **options: Any) -> Rows:
        asked["chunks"] = [len(chunk.ids) for chunk in source._chunks]
        return Rows()

    monkeypatch.setattr("captioner.bulk.run.read_datasource", read)
    nothing: Any = None
    for total, actors, chunks, batch, least in (
        (10, 4, [3, 3, 3, 1], 3, 4),
        (2, 4, [1, 1], 1, 2),
        (500, 4, [500], 64, 1),
    ):
        asked.clear()
        names = tuple(map(str, range(total)))
        planned = plan([Files(names, names)], [])
        _pipeline(nothing, nothing, planned, CaptionBatch(), Workers(actors=actors, at_least=actors), 1000)
        assert (asked["chunks"], asked["batch_size"], asked["actors"].min_size) == (chunks, batch, least)


def test_names_that_stand_for_two_pictures() -> None:
    chunk: Any = SimpleNamespace(ids=("a",), without=lambda done: chunk)
    with pytest.raises(DataError, match="'a'"):
        plan([chunk, chunk], [])
    with pytest.raises(DataError, match="--overwrite"):
        plan([chunk], [("a", False), ("a", False)])


def test_the_command_line_is_checked_before_ray(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"x")
    words = ["bulk", str(tmp_path / "photos"), "--model", str(tiny_model)]
    for more, value in [
        (["--output", str(tmp_path / "photos")], "folder of the pictures"),
        (["--output", str(tmp_path), "--overwrite"], "holds the source"),
        (["--output", f"file://{tmp_path}"], "holds the source"),
        (["--output", ""], "--output is empty"),
        (["--gpus-per-actor", "1.5"], "1.5"),
        (["--device", "cuda"], "--gpus-per-actor 1"),
        (["--actors", "0"], "--actors"),
        (["--require-words", "dgo"], "dgo"),
        (["--overwrite", "--retry-failed"], "--retry-failed"),
        (["--column", "image", "--key", "name"], "--key"),
        (["--column", "image"], "--column"),
        (["--output", "zip://out"], "zip://out"),
    ]:
        output = [] if "--output" in more else ["--output", str(tmp_path / "out")]
        assert cli.main([*words, *output, *more]) == 2
        printed = capsys.readouterr().err
        assert value in printed and len(printed.splitlines()) == 1
    (tmp_path / "photos" / "in").mkdir()
    (tmp_path / "photos" / "in" / "b.png").write_bytes(b"x")
    assert cli.main([*words, "--output", str(tmp_path / "photos" / "in")]) == 2
    assert "b.png of the source" in capsys.readouterr().err
    assert cli.main(["bulk", "", "--output", str(tmp_path / "out"), "--model", str(tiny_model)]) == 2
    assert "SOURCE is empty" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["photos"]  # noqa: PTH208


def test_the_source_is_never_overwritten(tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import pyarrow as pa

    table, links = tmp_path / "d" / "photos.parquet", tmp_path / "links"
    table.parent.mkdir()
    links.mkdir()
    pq.write_table(pa.table({"picture": [b"x"]}), table)
    (links / "1.parquet").symlink_to(table)
    (table.parent / "_run.json").write_text("{}")
    for source in (table, links):
        words = ["bulk", str(source), "--output", str(table.parent), "--model", str(tiny_model), "--overwrite"]
        assert cli.main(words) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert pq.read_table(table).num_rows == 1
