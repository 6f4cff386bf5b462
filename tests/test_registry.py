"""Registries, and the parts of installed packages."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from captioner import registry
from captioner.errors import OptionError
from captioner.registry import Registry


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path into which packages can be installed."""
    monkeypatch.syspath_prepend(tmp_path)
    registry._import_plugins.cache_clear()
    yield tmp_path
    registry._import_plugins.cache_clear()


def plug_in(folder: Path, package: str, code: str) -> None:
    (folder / f"{package}.py").write_text(code)
    metadata = folder / f"{package}-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text(f"[{registry.PLUGINS}]\nparts = {package}\n")


def test_a_part_of_an_installed_package_is_found_by_its_name(install: Path) -> None:
    plug_in(
        install,
        "package_with_a_reader",
        "from captioner.data.readers.formats import READERS\n"
        "from captioner.model.attention import ATTENTIONS\n"
        "READERS.register('from_a_package')(object)\n"
        "ATTENTIONS.register('from_a_package')(object)\n",
    )
    from captioner.data.readers.formats import READERS
    from captioner.model.attention import ATTENTIONS

    try:
        assert ATTENTIONS["from_a_package"] is object
        assert "from_a_package" in list(READERS)
    finally:
        READERS.unregister("from_a_package")
        ATTENTIONS.unregister("from_a_package")


def test_a_package_that_cannot_be_imported_is_named(install: Path) -> None:
    plug_in(install, "broken_package", "raise RuntimeError('no library\\nhere')\n")
    shapes: Registry[int] = Registry("shape")
    with pytest.raises(OptionError, match="'parts' of the package broken_package cannot be imported") as error:
        shapes["circle"]
    assert "RuntimeError: no library here" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", [["circle"], {}, None, 3, "square"])
def test_what_is_no_name_of_a_part_is_refused(name: object) -> None:
    shapes: Registry[int] = Registry("shape")
    shapes.register("circle")(1)
    with pytest.raises(OptionError, match=r"no shape is called .*; there are circle"):
        shapes[name]  # type: ignore[index]
    assert name not in shapes


def test_a_name_is_taken_once() -> None:
    shapes: Registry[int] = Registry("shape")
    shapes.register("circle")(1)
    with pytest.raises(ValueError, match="a shape is called 'circle' already"):
        shapes.register("circle")(2)
    assert len(shapes) == 1
