"""A run on Ray Data: read in tasks, caption in actors, write parts in tasks; the driver counts and commits.

    read_datasource(PictureSource) -> map_batches(CaptionBatch, compute=ActorPoolStrategy(...))
        -> map_batches(write a part) -> commit it

It streams: blocks go on as they are ready, no stage waits for another to end, and nothing is shuffled.

`ray.data.read_binary_files` and its siblings are not used: there a file that cannot be read ends the job, and rows have
no names that are the same in every run.
"""

import posixpath
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from ray.data import ActorPoolStrategy, Datasource, ReadTask, read_datasource
from ray.data.block import BlockMetadata

from captioner.bulk.batch import CaptionBatch
from captioner.bulk.chunks import Chunk, escaped
from captioner.bulk.cluster import as_lines, quiet
from captioner.bulk.parts import Staging, checksum
from captioner.bulk.plan import Counts, Plan
from captioner.bulk.sources import CHUNK, Source
from captioner.errors import CaptionerError, OptionError
from captioner.results import Failure

if TYPE_CHECKING:
    from ray.data import Dataset

_BLOCK = 1 << 25  # bytes
_POLL = 1.0  # seconds
_NAMED = 100  # failures of a part that are sent to the driver
_ROWS = pa.schema([("image", pa.string()), ("bytes", pa.binary()), ("error", pa.string()), ("remedy", pa.string())])


@dataclass(frozen=True, kw_only=True)
class Workers:
    """The workers of a run.

    Attributes:
        actors: that caption, at most.
        at_least: with which the run begins; the others join when the cluster grows.
        threads: of an actor, and the CPUs that it takes.
        gpus: that an actor takes, or the part of one.

    Raises:
        OptionError: a number out of its range.
    """

    actors: int
    at_least: int
    threads: int = 1
    gpus: float = 0.0

    @classmethod
    def fitting(cls, ray: Any, *, actors: int | None, threads: int, gpus: float, can_grow: bool) -> "Workers":
        """The actors that a cluster has room for.

        Args:
            ray: connected.
            actors: that were asked for; None for as many as fit.
            threads: of an actor.
            gpus: of an actor.
            can_grow: whether machines may join.

        Raises:
            OptionError: not one fits, or fewer than were asked for on a cluster that cannot grow.
        """
        there = ray.cluster_resources()
        cpus, all_gpus = there.get("CPU", 0.0), there.get("GPU", 0.0)
        fit = int(cpus // threads)
        if gpus:
            fit = min(fit, int(all_gpus // gpus))
        has = f"the cluster has {cpus:g} CPUs and {all_gpus:g} GPUs"
        if not fit:
            what = f"{threads} CPUs" + (f" and {gpus:g} GPUs" if gpus else "")
            raise OptionError(f"an actor takes {what}, and {has}", remedy="lower --threads or --gpus-per-actor")
        if actors is not None and actors > fit and not can_grow:
            raise OptionError(
                f"--actors {actors}: {fit} fit, for {has}", remedy=f"give --actors {fit}, or fewer --threads"
            )
        wanted = actors or fit
        return cls(actors=wanted, at_least=min(wanted, fit), threads=threads, gpus=gpus)


def run(
    source: Source,
    staging: Staging,
    planned: Plan,
    batch: CaptionBatch,
    *,
    workers: Workers,
    part_size: int,
    advance: Callable[[int], None],
    fail: Callable[[Failure], None],
) -> Counts:
    """Caption what is planned, and commit it part by part.

    Args:
        source: of the pictures.
        staging: where workers write, and from where parts are committed.
        planned: what is to be captioned.
        batch: captions rows with the columns ``image`` (the name) and ``bytes``.
        workers: of the cluster.
        part_size: rows of a part, at most; most have as many, rounded down to what an actor takes at a time.
        advance: is called with the number of pictures that were committed.
        fail: is called with each failure, `_NAMED` of a part at most.

    Raises:
        CaptionerError: the run cannot go on, or its counts are not those of the plan; what was committed stays.
    """
    counts, total = planned.counts, 0
    with as_lines():
        written = _pipeline(source, staging, planned, batch, workers, part_size)
        for rows in written.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            for row in rows.to_pylist():
                staging.commit(row["part"])
                counts.captioned += row["rows"] - row["failed"]
                counts.failed += row["failed"]
                total = (total + row["checksum"]) % (1 << 64)
                for one in row["failures"]:
                    fail(Failure(one["image"], one["error"], one["remedy"] or ""))
                advance(row["rows"])
    if counts.captioned + counts.failed != planned.total or total != planned.checksum:
        raise CaptionerError(
            f"{counts.captioned + counts.failed:,} of {planned.total:,} pictures came back, or not the same",
            remedy="run the same command again",
        )
    return counts


def run_by_client(ray: Any, *arguments: Any, advance: Any, fail: Any, **options: Any) -> Counts:
    """As `run`, where this process is a client of Ray's: Ray Data needs a driver on the cluster, here an actor.

    It ends with the client, so that a run that is killed leaves nothing that goes on.

    Args:
        ray: connected.
        arguments, advance, fail, options: of `run`.
    """
    with as_lines():
        driver = ray.remote(num_cpus=0, max_concurrency=2)(_Driver).remote()
        counts = driver.run.remote(arguments, options)
        done: list[Any] = []
        while not done:
            done, _ = ray.wait([counts], timeout=_POLL)
            for event in ray.get(driver.events.remote()):
                (fail if isinstance(event, Failure) else advance)(event)
        found: Counts = ray.get(counts)
    return found


class _Driver:
    """The driver of a run, with what happened since it was last asked."""

    def __init__(self) -> None:
        self._events: list[int | Failure] = []

    def run(self, arguments: Sequence[Any], options: Mapping[str, Any]) -> Counts:
        """See `run`."""
        import ray

        with quiet(ray):
            return run(*arguments, **options, advance=self._events.append, fail=self._events.append)

    def events(self) -> list[int | Failure]:
        """Counts of pictures and failures, each once."""
        count = len(self._events)
        found, self._events[:count] = self._events[:count], []
        return found


def _pipeline(
    source: Source, staging: Staging, planned: Plan, batch: CaptionBatch, workers: Workers, part_size: int
) -> "Dataset":
    writers = max(1, workers.actors // 2)
    share = -(-planned.total // workers.at_least)  # few pictures are spread over all actors
    block = max(1, min(4 * batch.batch, CHUNK, part_size, share))  # rows that an actor takes at a time
    chunks = planned.chunks
    if share < CHUNK:
        chunks = [part for chunk in chunks for part in chunk.split(block)]
    # Reading and writing take no CPUs of the scheduler's: the actors may hold them all.
    rows = read_datasource(
        PictureSource(source, chunks),
        num_cpus=0,
        concurrency=writers,
        override_num_blocks=len(chunks),
    )
    outcomes = rows.map_batches(
        CaptionBatch,
        fn_constructor_kwargs=vars(batch),
        batch_size=block,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(min_size=min(workers.at_least, len(chunks)), max_size=workers.actors),
        num_cpus=workers.threads,
        num_gpus=workers.gpus,
    )
    written: Dataset = outcomes.map_batches(
        partial(_write, staging),
        batch_size=part_size // block * block,  # whole blocks: no small part is left over
        batch_format="pyarrow",
        num_cpus=0,
        concurrency=writers,
    )
    return written


class PictureSource(Datasource):  # type: ignore[misc]
    """The pictures of chunks as rows of name, bytes, error and remedy; a read task for each chunk."""

    def __init__(self, source: Source, chunks: Sequence[Chunk]) -> None:
        super().__init__()
        self._source, self._chunks = source, chunks

    def estimate_inmemory_data_size(self) -> int | None:
        """Not known: files are not looked at before they are read."""
        return None

    def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[ReadTask]:
        """See Ray's `Datasource`."""
        return [
            ReadTask(
                partial(_read, self._source, chunk),
                BlockMetadata(num_rows=len(chunk.ids), size_bytes=None, exec_stats=None),
            )
            for chunk in self._chunks
        ]


def _read(source: Source, chunk: Chunk) -> Iterable[pa.Table]:
    """Tables of a chunk's pictures, each of some megabytes."""
    if source.local and not posixpath.exists(source.path):
        import os

        raise OptionError(
            f"{source.name}: is not seen on the machine {os.uname().nodename}",
            remedy="give a folder that all machines share, or a URL such as s3://bucket/folder",
        )
    held: list[dict[str, Any]] = []
    size = 0
    for row in chunk.rows(source.filesystem):
        error, remedy = (None if text is None else escaped(text) for text in (row.error, row.remedy))
        held.append({"image": row.image, "bytes": row.data, "error": error, "remedy": remedy})
        size += len(row.data or b"")
        if size >= _BLOCK:
            yield pa.Table.from_pylist(held, schema=_ROWS)
            held, size = [], 0
    if held:
        yield pa.Table.from_pylist(held, schema=_ROWS)


def _write(staging: Staging, rows: pa.Table) -> pa.Table:
    """Write a part; a row that says what it holds."""
    failed = rows.filter(rows.column("error").is_valid())
    failures = failed.slice(0, _NAMED).select(["image", "error", "remedy"]).to_pylist()
    one = {
        "part": staging.write(rows),
        "rows": rows.num_rows,
        "failed": failed.num_rows,
        "checksum": checksum(rows.column("image").to_pylist()),
        "failures": failures,
    }
    text = pa.string()
    kind = pa.list_(pa.struct([("image", text), ("error", text), ("remedy", text)]))
    schema = pa.schema(
        [("part", text), ("rows", pa.int64()), ("failed", pa.int64()), ("checksum", pa.uint64()), ("failures", kind)]
    )
    return pa.Table.from_pylist([one], schema=schema)
