"""Run the notebooks and keep what they show: `python tests/execute_notebooks.py` writes the outputs back.

Results do not depend on the machine's folders, clock or number of cores: a notebook runs in an empty folder, on one
thread, and of its metadata only the kernel's name stays.
"""

import argparse
import hashlib
import os
import re
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import nbformat
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode
from traitlets.config import Config

from captioner.shipped import SHIPPED_DEFAULT, shipped_answering_models, shipped_models

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = tuple(sorted((ROOT / "notebooks").glob("*.ipynb")))
_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")  # of a terminal, in tracebacks


def execute(
    path: Path,
    folder: Path,
    *,
    timeout: int = 600,
    instead: Mapping[str, str] | None = None,
    manager: type[AsyncKernelManager] = AsyncKernelManager,
) -> NotebookNode:
    """Run a notebook in a folder, with this checkout's package; the notebook with its new outputs.

    Args:
        path: of the notebook, which is only read.
        folder: an empty one, where the notebook's files go.
        timeout: seconds for a cell.
        instead: what stands in its code in the place of other text, such as fewer epochs.
        manager: starts the kernel.

    Raises:
        CellExecutionError: a cell failed.
        ValueError: the code does not have such text.
    """
    notebook = nbformat.read(path, as_version=4)
    for before, after in (instead or {}).items():
        if not any(before in cell.source for cell in notebook.cells):
            raise ValueError(f"{path}: no cell has {before!r}")
        for cell in notebook.cells:
            cell.source = cell.source.replace(before, after)
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        "PYTHONPATH": os.pathsep.join(paths),
        "IPYTHONDIR": str(folder / ".ipython"),  # nobody's own start-up files
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }
    with tempfile.TemporaryDirectory() as sockets:
        # In a folder rather than on the network, where the system can; "ip" is how their names begin.
        how = {"transport": "ipc", "ip": str(Path(sockets) / "kernel")} if os.name == "posix" else {}
        client = NotebookClient(
            notebook,
            timeout=timeout,
            startup_timeout=timeout,
            kernel_name="python3",
            kernel_manager_class=manager,
            record_timing=False,
            coalesce_streams=True,  # how a print is cut into pieces is a matter of time
            resources={"metadata": {"path": str(folder)}},
            config=Config({"KernelManager": how}),
        )
        client.execute(env=os.environ | environment)
    notebook.metadata = nbformat.from_dict(_METADATA | {"models": models_of(notebook)})
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({})
        for output in cell.get("outputs", []):
            if (
                len(output.get("data", {})) > 1
            ):  # where more is shown, the text in its place only names objects, and paths
                output.data.pop("text/plain", None)
    return notebook


def models_of(notebook: NotebookNode) -> dict[str, str]:
    """The shipped models that a notebook loads, each with a digest of its file: whose outputs are these?"""
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    names = set(re.findall(r'captioner\.load(?:_answering)?\("(\w+)"', code))
    names |= {SHIPPED_DEFAULT} if re.search(r"captioner\.load\((?:\w+=|\))", code) else set()
    files = {**shipped_models(), **shipped_answering_models()}
    return {name: hashlib.sha256(files[name].read_bytes()).hexdigest()[:16] for name in sorted(names)}


def main() -> int:
    """Execute notebooks and write them back; 1 if one fails, which is then left as it is."""
    parser = argparse.ArgumentParser(description="Execute notebooks and write their outputs back.")
    parser.add_argument("notebooks", nargs="*", type=Path, default=NOTEBOOKS, help="all of notebooks/ if none is named")
    failed = 0
    for path in parser.parse_args().notebooks:
        before = _seconds()
        with tempfile.TemporaryDirectory() as folder:
            try:
                notebook = execute(path, Path(folder))
            except CellExecutionError as error:
                print(f"{path.name}: {_COLOURS.sub('', str(error))}", file=sys.stderr)
                failed += 1
                continue
        nbformat.write(notebook, path)
        print(f"{path.name}: {_seconds() - before:.0f} s of processor time, {path.stat().st_size / 1e3:.0f} kB")
    return 1 if failed else 0


def _seconds() -> float:
    """Of processor time, by the kernels that have ended."""
    used = os.times()
    return used.children_user + used.children_system


if __name__ == "__main__":
    sys.exit(main())
