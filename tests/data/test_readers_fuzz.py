"""Files that are changed or cut at random: readers return something, or raise a CaptionerError, in bounded time."""

import contextlib
import gzip
import io
import json
import tarfile
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from captioner.data.readers import read, read_annotations, read_results
from captioner.data.readers.judgements import read_captions, read_judgements
from captioner.errors import CaptionerError
from captioner.metrics.cider import DocumentFrequencies

IMAGES = [{"id": 1, "file_name": "a.png", "split": "train"}, {"id": 2, "file_name": "b.png", "split": "val"}]
ROW = {"image": "a.png", "caption": "a dog", "split": "train", "boxes": {"1": [0, 0.5, 1, 1]}}
SENTENCES = [{"raw": "a dog", "tokens": ["a", "dog"]}]


def shard() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, content in (("x/1.png", b"picture"), ("x/1.json", json.dumps(ROW | {"boxes": []}).encode())):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return file.getvalue()[:4096]


FILES: dict[str, bytes] = {
    "coco.json": json.dumps({"images": IMAGES, "annotations": [{"id": 3, "image_id": 1, "caption": "a dog"}]}).encode(),
    "dataset.json": json.dumps({"images": [{"filename": "a.png", "split": "val", "sentences": SENTENCES}]}).encode(),
    "rows.jsonl": (json.dumps(ROW) + "\n" + json.dumps({"image": "b.png", "captions": ["a cat"]})).encode(),
    "rows.csv": b'image,caption,split\na.png,"a dog, asleep",train\nb.png,a cat,dev\n',
    "rows.tsv": b"image\tcaption\na.png\ta dog\n",
    "x.token": b"a.png#0\ta dog\na.png#1\tthe dog\n",
    "rows.csv.gz": gzip.compress(b"image,caption\na.png,a dog\n", mtime=0),
    "mine.json": b'[{"image_id": 1, "caption": "a dog"}, {"image_id": 2, "caption": ""}]',
    "train-0.tar": shard(),
    "judgements.txt": b"a.png b.png#1 1 2 3\n",
    "df.json": b'{"format": "captioner document frequencies 1", "pictures": 2, "counts": {"a": 1}}',
}
READ: dict[str, Callable[[Path], Any]] = {"judgements.txt": read_judgements, "df.json": DocumentFrequencies.load}

ODD = (b"\0", b'"', b"[" * 3000, b"\n", b"1" * 5000, b"NaN", b"null")
changes = st.lists(
    st.tuples(
        st.integers(0, 1 << 16),
        st.sampled_from(["set", "insert", "delete", "cut"]),
        st.one_of(
            st.binary(max_size=3), st.sampled_from([b"\0", b'"', b"[" * 3000, b"\n", b"1" * 5000, b"NaN", b"null"])
        ),
    ),
    min_size=1,
    max_size=4,
)


def changed(content: bytes, how: list[tuple[int, str, bytes]]) -> bytes:
    for place, kind, new in how:
        at = place % (len(content) + 1)
        rest = {"set": content[at + len(new) :], "insert": content[at:], "delete": content[at + 3 :], "cut": b""}[kind]
        content = content[:at] + new + rest
    return content


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(how=changes)
def test_only_errors_of_ours_come_out(name: str, how: list[tuple[int, str, bytes]]) -> None:
    readers = [READ[name]] if name in READ else [lambda path: read(path, images="."), read_annotations, read_results]
    if name == "x.token":
        readers.append(read_captions)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder, name)
        path.write_bytes(changed(FILES[name], how))
        for reader in readers:
            with contextlib.suppress(CaptionerError):
                reader(path)


values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(["coco.json", "dataset.json", "rows.jsonl", "mine.json", "df.json"]), st.data())
def test_any_value_in_any_place(name: str, data: st.DataObject) -> None:
    """A field of the file is of another type."""
    content = [json.loads(line) for line in FILES[name].splitlines()]
    place: Any = content
    while True:
        keys = list(place) if isinstance(place, dict) else range(len(place))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.integers(0, 3)) == 0:
            break
        place = place[key]
    place[key] = data.draw(values)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder, name)
        path.write_text("\n".join(map(json.dumps, content)))
        for reader in (lambda path: read(path, images="."), read_annotations, read_results, DocumentFrequencies.load):
            with contextlib.suppress(CaptionerError):
                reader(path)
