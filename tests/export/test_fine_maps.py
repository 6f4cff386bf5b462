"""Models with fine maps in ONNX Runtime, and everything that draws or computes on their maps."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch

from captioner import checkpoint
from captioner.backends.graph_files import METADATA_KEY
from captioner.cli import main
from captioner.data.scenes import write_scenes
from captioner.errors import CheckpointError
from captioner.export.graphs import write_graphs
from captioner.pipeline import load
from captioner.training.growth import add_fine_maps


@pytest.fixture(scope="module", params=["lstm", "transformer"])
def fine_model(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    make_checkpoint: Callable[..., checkpoint.Checkpoint],
) -> Path:
    """The file of a tiny model with fine maps that point somewhere, and its graphs."""
    grown = add_fine_maps(make_checkpoint(request.param), {"fine_stage": 1}, {"fine_width": 8})
    torch.manual_seed(6)
    torch.nn.init.normal_(grown.model.decoder.fine.query.weight)
    path: Path = tmp_path_factory.mktemp("fine") / "fine.safetensors"
    checkpoint.save(path, grown)
    found = write_graphs(path)
    assert found.maps < 1e-5
    return path


def test_both_runtimes_agree(fine_model: Path, make_picture: Callable[..., Path]) -> None:
    photo = make_picture(size=(50, 20))
    onnx_model, torch_model = (load(fine_model, backend=name) for name in ("onnx", "torch"))
    ours, theirs = onnx_model.caption(photo), torch_model.caption(photo)
    assert ours.text == theirs.text
    assert ours.geometry.grid == (16, 16)
    for one, other in zip(ours.words, theirs.words, strict=True):
        assert one.map.shape == (16, 16)
        np.testing.assert_allclose(one.map, other.map, atol=1e-5)
    (read,), (again,) = (model.read(photo, ["a dog"]) for model in (onnx_model, torch_model))
    np.testing.assert_allclose(read.words[1].map, again.words[1].map, atol=1e-5)


def test_other_ways_to_make_a_map_have_its_size(fine_model: Path, make_picture: Callable[..., Path]) -> None:
    model = load(fine_model, backend="torch")
    photo = make_picture(size=(50, 20))
    for explain in ("gradient", "occlusion"):
        assert model.caption(photo, explain=explain).words[0].map.shape == (16, 16)
    occluded = model.caption(photo, explain="occlusion").words[0].map
    assert np.array_equal(occluded, occluded[::2, ::2].repeat(2, 0).repeat(2, 1)), "blocks are of the grid's cells"


def test_figures_pages_and_clips_are_drawn(fine_model: Path, make_picture: Callable[..., Path], tmp_path: Path) -> None:
    photo = make_picture(size=(50, 20))
    options = ["caption", "--model", str(fine_model), str(photo)]
    for backend in ("onnx", "torch"):
        assert main([*options, "--backend", backend, "--page", str(tmp_path / f"{backend}.html")]) == 0
    assert main([*options, "--figure", str(tmp_path / "f.png")]) == 0
    model = load(fine_model, backend="torch")
    word = model.caption(photo).words[0].text
    assert main([*options, "--backend", "torch", "--heads", word, "--figure", str(tmp_path / "heads.png")]) == 0
    clip = model.caption_clip([make_picture(f"{i}.png", seed=i) for i in range(2)])
    assert clip.words[0].map.shape == clip.geometry.grid
    assert sorted(clip.geometry.grid) in ([16, 32], [32, 16])


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("int8", 0.02)])
def test_an_exported_folder_has_them(
    precision: str, tolerance: float, fine_model: Path, make_picture: Callable[..., Path], tmp_path: Path
) -> None:
    assert main(["export", str(fine_model), "--output", str(tmp_path / "folder"), "--precision", precision]) == 0
    photo, models = make_picture(), (load(tmp_path / "folder"), load(fine_model, backend="torch"))
    assert models[0].caption(photo).words[0].map.shape == (16, 16)
    (ours,), (theirs,) = (model.read(photo, ["a dog"]) for model in models)
    np.testing.assert_allclose(ours.words[1].map, theirs.words[1].map, atol=tolerance)


@pytest.mark.parametrize("scale", [0, 3, "2", 1e9])
def test_a_damaged_scale_is_named(scale: object, fine_model: Path, tmp_path: Path) -> None:
    copied = tmp_path / "graphs" / "fine"
    copied.mkdir(parents=True)
    (tmp_path / "fine.safetensors").write_bytes(fine_model.read_bytes())
    for file in (fine_model.parent / "graphs" / "fine").iterdir():
        graph = onnx.load(file, load_external_data=False)
        (entry,) = (one for one in graph.metadata_props if one.key == METADATA_KEY)
        entry.value = json.dumps({**json.loads(entry.value), "map_scale": scale})
        (copied / file.name).write_bytes(graph.SerializeToString())
    with pytest.raises(CheckpointError, match="map_scale"):
        load(tmp_path / "fine.safetensors", backend="onnx")


def test_the_diagram_shows_them(fine_model: Path, tmp_path: Path) -> None:
    assert main(["models", str(fine_model), "--diagram", str(tmp_path / "flow.gv")]) == 0
    source = (tmp_path / "flow.gv").read_text()
    assert "feature maps of stage 1\\n16 x 16 x 64" in source
    assert "feature maps\\n8 x 8 x 96" in source
    assert "fine weights\\nof the mean of all heads" in source
    assert "map of the word\\n16 x 16" in source


def test_heads_are_chosen_before(fine_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_scenes(tmp_path / "scenes", count=1, dev=2, size=(64, 48))
    data = str(tmp_path / "scenes" / "captions.jsonl")
    options = ["select-heads", str(fine_model), "--data", data, "--output", str(tmp_path / "out.safetensors")]
    assert main(options) == 2
    assert "fine maps" in capsys.readouterr().err
    assert not (tmp_path / "out.safetensors").exists()


def test_plain_maps_are_those_of_the_heads(fine_model: Path, make_picture: Callable[..., Path]) -> None:
    model, photo = load(fine_model, backend="torch"), make_picture()
    model.model.set_plain_maps()
    plain = model.caption(photo)
    heads = model.heads(plain, 0)
    np.testing.assert_allclose(plain.words[0].map, heads.maps[-1].mean(0), atol=1e-6)


def test_deletion_covers_the_cells_of_the_grid(
    fine_model: Path, make_picture: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from captioner.grounding import deletion

    shapes = set()

    def occlude(pixels: np.ndarray, fill: np.ndarray, cells: np.ndarray) -> np.ndarray:
        shapes.add(cells.shape)
        return fill

    monkeypatch.setattr(deletion, "occlude", occlude)
    model = load(fine_model, backend="torch")
    (caption,) = model.read(make_picture(), [model.vocabulary.words[5]])
    noun = SimpleNamespace(map=caption.words[0].map, position=0)
    grounded = SimpleNamespace(nouns=[noun], caption=caption, record=SimpleNamespace(id="0"))
    assert deletion.deletion_curves(model, grounded)  # type: ignore[arg-type]
    assert shapes == {(8, 8)}
