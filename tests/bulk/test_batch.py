"""`CaptionBatch`: one outcome a row, in order, in dicts, frames and tables; the storage of maps."""

import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import captioner
from captioner.bulk import CaptionBatch, maps_of, outcome_schema, pack_maps, share, spark_schema
from captioner.bulk.batch import _load
from captioner.errors import CheckpointError, DataError, OptionError

pa = pytest.importorskip("pyarrow", reason="needs the extra 'parquet', which is not installed")
ADDED = outcome_schema().names


@pytest.fixture(scope="module")
def batch(tiny_model: Path) -> CaptionBatch:
    return CaptionBatch(model=tiny_model, column="bytes", name="id", device="cpu", batch=2)


@pytest.fixture
def rows(make_picture: Callable[..., Path]) -> dict[str, list[Any]]:
    """A whole picture, a damaged one, a second whole one, an empty cell, and a row that failed before."""
    one, two = (make_picture(f"{i}.png", seed=i).read_bytes() for i in range(2))
    return {
        "id": ["one", "damaged", "two", "empty", "before"],
        "bytes": [one, b"\xff\xd8 no", two, None, None],
        "error": [None, None, None, None, "before: gone"],
        "remedy": [None, None, None, None, "bring it back"],
        "price": [1, 2, 3, 4, 5],
    }


def check(found: dict[str, list[Any]], model: Path, rows: dict[str, list[Any]]) -> None:
    loaded = captioner.load(model, device="cpu")
    expected = [loaded.caption(rows["bytes"][i]) for i in (0, 2)]
    assert list(found["image"]) == rows["id"]
    assert list(found["price"]) == rows["price"]
    assert set(found) == {"price", *ADDED}
    for i, caption in zip((0, 2), expected, strict=True):
        assert found["caption"][i] == caption.text
        assert list(found["words"][i]) == [word.text for word in caption.words]
        np.testing.assert_allclose(found["probabilities"][i], [word.probability for word in caption.words], rtol=1e-5)
        assert found["error"][i] is None
    assert "damaged" in found["error"][1] and found["caption"][1] is None
    assert "bytes" in found["error"][3] and "empty" in found["error"][3]
    assert (found["error"][4], found["remedy"][4]) == ("before: gone", "bring it back")


def test_a_dict_of_arrays(batch: CaptionBatch, rows: dict[str, list[Any]], tiny_model: Path) -> None:
    arrays = {name: np.array(values, dtype=object) for name, values in rows.items()}
    found = pickle.loads(pickle.dumps(batch))(arrays)
    assert all(isinstance(values, np.ndarray) and values.shape == (5,) for values in found.values())
    check(found, tiny_model, rows)


def test_a_table(batch: CaptionBatch, rows: dict[str, list[Any]], tiny_model: Path) -> None:
    found = batch(pa.table(rows))
    assert found.select(ADDED).schema.equals(outcome_schema())
    check(found.to_pydict(), tiny_model, rows)


def test_frames_as_spark_has_them(batch: CaptionBatch, rows: dict[str, list[Any]], tiny_model: Path) -> None:
    pd = pytest.importorskip("pandas", reason="needs pandas, which is not installed")
    frame = pd.DataFrame(rows)
    found, none = batch.frames(iter([frame, frame.iloc[:0]]))
    check({name: found[name].where(found[name].notna(), None).tolist() for name in found}, tiny_model, rows)
    assert len(none) == 0 and list(none) == list(found)
    assert spark_schema().startswith("image string, caption string, score double, finished boolean")
    assert "grid array<int>" in spark_schema() and "array<struct<caption: string, score: double>>" in spark_schema()


def test_paths_arrays_and_structs(tiny_model: Path, make_picture: Callable[..., Path]) -> None:
    path = make_picture("a.png")
    batch = CaptionBatch(model=tiny_model, device="cpu")
    pixels = np.zeros((2, 12, 16, 3), dtype=np.uint8)
    assert [str(error) for error in batch({"image": pixels})["error"]] == ["None"] * 2
    values = [str(path), {"bytes": path.read_bytes(), "path": "a.png"}, {"bytes": None, "path": str(path)}, "gone.png"]
    found = batch({"image": values})
    assert len(set(found["caption"][:3])) == 1
    assert found["image"].tolist() == [str(path), "", str(path), "gone.png"]
    assert "gone.png" in found["error"][3]


def test_what_one_picture_raises_is_its_own(
    batch: CaptionBatch, rows: dict[str, list[Any]], tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = batch.load()
    whole = model.caption_all

    def raising(pictures: list[Any], **options: Any) -> Any:
        if any(str(one) == "two" for one in pictures):
            raise RuntimeError("a kernel failed")
        return whole(pictures, **options)

    monkeypatch.setattr(model, "caption_all", raising)
    found = batch(rows)
    assert found["caption"][0] and found["caption"][2] is None
    assert "two" in found["error"][2] and "a kernel failed" in found["error"][2]


def test_the_model_is_loaded_once_a_worker_and_with_its_share(
    tiny_model: Path, make_picture: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    real = captioner.pipeline.load
    monkeypatch.setattr("captioner.pipeline.load", lambda *args, **named: asked.append(named) or real(*args, **named))
    task = SimpleNamespace(cpus=lambda: 3)
    monkeypatch.setitem(sys.modules, "pyspark", SimpleNamespace(TaskContext=SimpleNamespace(get=lambda: task)))
    _load.cache_clear()
    batch = CaptionBatch(model=tiny_model, device="cpu")
    for one in (batch, pickle.loads(pickle.dumps(batch))):
        one({"image": [str(make_picture("a.png"))]})
    assert [named["threads"] for named in asked] == [3] == [share()]
    monkeypatch.delitem(sys.modules, "pyspark")
    assert share() is None
    _load.cache_clear()


@pytest.mark.parametrize(
    ("wrong", "value"),
    [({"maps": "fp8"}, "fp8"), ({"batch": 0}, "0"), ({"options": "beam"}, "str"), ({"max_pixels": -1}, "-1")],
)
def test_options_out_of_range(wrong: dict[str, Any], value: str) -> None:
    with pytest.raises(OptionError, match=value):
        CaptionBatch(**wrong)


def test_what_every_row_would_suffer_from_is_raised(tiny_model: Path) -> None:
    batch = CaptionBatch(model=tiny_model, device="cpu")
    with pytest.raises(DataError, match=r"'image'.*picture"):
        batch({"picture": [b""]})
    with pytest.raises(DataError, match="'caption'"):
        batch({"image": [b""], "caption": ["a dog"]})
    with pytest.raises(DataError, match="list"):
        batch([b""])
    with pytest.raises(CheckpointError, match="nowhere"):
        CaptionBatch(model="nowhere.safetensors")({"image": [b"x"]})
    with pytest.raises(OptionError, match="dgo"):
        CaptionBatch(model=tiny_model, options=captioner.Beam(require_words="dgo"))({"image": [b"x"]})


@pytest.mark.parametrize(("storage", "bound", "size"), [("fp32", 0.0, 4), ("fp16", 2**-11, 2), ("uint8", 1 / 510, 1)])
def test_the_error_of_stored_maps(storage: str, bound: float, size: int) -> None:
    maps = np.random.default_rng(0).dirichlet(np.full(196, 0.05), 12).astype(np.float32).reshape(12, 14, 14)
    maps[3] = 0
    stored, scales = pack_maps(maps, storage)
    assert stored is not None and len(stored) == size * maps.size
    row = {"maps": stored, "map_scales": scales, "words": ["a"] * 12, "grid": [14, 14]}
    error = np.abs(maps_of(row) - maps).max((1, 2))
    assert (error <= (bound + 1e-7) * maps.max((1, 2))).all()
    assert bound == 0 or error.max() > bound / 4 * maps.max()  # it is no other storage


def test_rows_without_maps() -> None:
    assert pack_maps(np.zeros((2, 3, 3), dtype=np.float32), "none") == (None, None)
    assert maps_of({"maps": b"", "map_scales": [], "words": [], "grid": [3, 3]}).shape == (0, 3, 3)
    with pytest.raises(DataError, match="--maps"):
        maps_of({"image": "a.jpg", "maps": None, "grid": [3, 3]})
    with pytest.raises(DataError, match="7 bytes"):
        maps_of({"maps": b"1234567", "words": ["a"], "grid": [3, 3]})


def test_rows_without_a_name_have_none(tiny_model: Path, make_picture: Callable[..., Path]) -> None:
    content = make_picture().read_bytes()
    named = CaptionBatch(model=tiny_model, device="cpu", column="bytes", name="id", maps="none")
    found = named({"bytes": [content] * 3, "id": ["a", None, float("nan")]})
    assert list(found["image"]) == ["a", "", ""]
    found = named({"bytes": [content] * 3, "id": [3.0, float("nan"), 4]})
    assert list(found["image"]) == ["3.0", "", "4"]


def test_columns_of_a_frame_may_be_numbers(tiny_model: Path, make_picture: Callable[..., Path]) -> None:
    pd = pytest.importorskip("pandas", reason="needs pandas, which is not installed")
    frame = pd.DataFrame({"image": [str(make_picture())], 7: ["kept"]})
    found = CaptionBatch(model=tiny_model, device="cpu", column="image", maps="none")(frame)
    assert found[7].tolist() == ["kept"] and found["caption"][0]
