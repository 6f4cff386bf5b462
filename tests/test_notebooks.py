"""The notebooks run from the first cell to the last, and what they show in the repository is what a run gave."""

import re
import shutil
import tempfile
from pathlib import Path

import pytest

from captioner.shipped import shipped_answering_models, shipped_models

pytest.importorskip("nbclient", reason="needs nbclient, which is not installed")
import nbformat
from execute_notebooks import NOTEBOOKS, ROOT, execute, models_of
from forked_kernels import ForkedKernelManager
from nbformat import NotebookNode

MODELS = {
    "asking": ("answers", "transformer"),
    "caption_and_heatmaps": ("lstm", "transformer"),
    "coco_scores": ("transformer",),
    "how_attention_works": ("lstm",),
    "house_style": ("transformer",),
    "the_attention_family": ("lstm", "transformer"),
}
QUICKLY = {
    "asking": {"SCENES, TRAINED, EPOCHS = 240, 190, 16": "SCENES, TRAINED, EPOCHS = 30, 10, 1"},
    "caption_and_heatmaps": {"draw_scenes(30,": "draw_scenes(8,"},
    "house_style": {'"--epochs", 12': '"--epochs", 1', "< 48:": "< 6:", "< 56:": "< 6:", "< 40 else": "< 4 else"},
    "the_attention_family": {"steps=250": "steps=12"},
}
"""What stands in the place of numbers, where the tests need only see that the cells run."""
LARGEST = 800_000  # bytes of a file; a notebook that is read on the web must open at once
LARGEST_OUTPUT = 250_000
_BASE64 = re.compile(r"[\w+/=]{100,}")  # pictures and maps, in which any short word may stand by chance

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def outputs(notebook: NotebookNode) -> list[NotebookNode]:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def shown(output: NotebookNode) -> dict[str, str]:
    """The forms of an output by their type; of a stream its text."""
    return {"text/plain": output.text} if output.output_type == "stream" else dict(output.get("data", {}))


def check_outputs(notebook: NotebookNode) -> None:
    """Something is shown, nothing complains, all is small, and nothing tells of the machine."""
    assert outputs(notebook), "nothing is shown"
    private = [str(ROOT), str(Path.home()), tempfile.gettempdir(), "ipykernel"]
    for output in outputs(notebook):
        assert output.output_type != "error", output
        assert output.get("name") != "stderr", output.text
        assert sum(map(len, shown(output).values())) < LARGEST_OUTPUT
        for form, text in shown(output).items():
            words = "" if form.startswith("image/") else _BASE64.sub("", text)
            assert not [place for place in private if place in words], words
        # A figure that is shown by its name alone was meant to be seen.
        assert not shown(output).get("text/plain", "").startswith("<Figure")


def test_there_are_these() -> None:
    assert {path.stem for path in NOTEBOOKS} == set(MODELS)


@pytest.mark.slow
@every_notebook
def test_it_runs(path: Path, tmp_path: Path) -> None:
    missing = [name for name in MODELS[path.stem] if name not in shipped_models() | shipped_answering_models()]
    if missing:
        pytest.skip(f"{path.name} needs the model {', '.join(missing)}, not in checkpoints/")
    if "write_diagram" in path.read_text(encoding="utf-8") and shutil.which("dot") is None:
        pytest.skip(f"{path.name} draws a diagram: needs graphviz, which is not installed")
    before = path.read_bytes()
    notebook = execute(path, tmp_path, instead=QUICKLY.get(path.stem), manager=ForkedKernelManager)
    check_outputs(notebook)
    assert len(nbformat.writes(notebook)) < LARGEST
    assert path.read_bytes() == before
    # The same cells show something as do in the repository: it holds a run of these very cells.
    for now, then in zip(notebook.cells, nbformat.read(path, as_version=4).cells, strict=True):
        assert [sorted(shown(output)) for output in now.get("outputs", [])] == [
            sorted(shown(output)) for output in then.get("outputs", [])
        ], f"run `make notebooks`: this cell shows something else now\n{now.source}"


@every_notebook
def test_the_repository_holds_the_outputs_of_a_whole_run(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1)), "not run from the first cell to the last: run `make notebooks`"
    check_outputs(notebook)
    assert path.stat().st_size < LARGEST


@every_notebook
def test_the_outputs_are_of_the_models_that_ship(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    models = models_of(notebook)
    assert set(models) == set(MODELS[path.stem])
    assert notebook.metadata["models"] == models, "a model has changed since: run `make notebooks`"


@every_notebook
def test_nothing_but_cells_is_kept(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    assert notebook.metadata.keys() == {"kernelspec", "language_info", "models"}
    assert notebook.metadata.kernelspec.name == "python3"
    assert notebook.metadata.language_info == {"name": "python"}
    assert all(cell.metadata == {} for cell in notebook.cells)


@every_notebook
def test_its_links_lead_somewhere(path: Path) -> None:
    text = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown")
    for link in re.findall(r"\]\(([^)#]+)", text):
        assert (path.parent / link).is_file(), link


def test_a_cell_that_fails_fails_the_run(tmp_path: Path) -> None:
    from nbclient.exceptions import CellExecutionError

    cells = [nbformat.v4.new_code_cell("import captioner\n1 / 0")]
    path = tmp_path / "broken.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        execute(path, tmp_path)


def test_a_run_is_on_one_thread_with_this_checkout_in_its_folder(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, captioner, torch\n"
        "print(torch.get_num_threads(), pathlib.Path.cwd().name, captioner.__file__)\n"
        "print('more')"
    )
    path = tmp_path / "where.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)]), path)
    (output,) = outputs(execute(path, tmp_path))
    assert output.text == f"1 {tmp_path.name} {ROOT / 'captioner' / '__init__.py'}\nmore\n"
