"""What the scores may import: they must be usable where torch is slow to load, or not there."""

import subprocess
import sys

import pytest

MODULES = [
    "captioner.metrics",
    "captioner.commands.evaluate",
    "captioner.commands.evaluation_report",
    "captioner.grounding.deletion",
    "captioner.commands.ground",
    "captioner.grounding.report",
    "captioner.grounding.pointing",
    "captioner.metrics.judgement",
    "captioner.metrics.meteor",
    "captioner.metrics.resampling",
    "captioner.data.readers",
]


def imported(statement: str) -> set[str]:
    """The top-level modules that a fresh Python has after a statement."""
    program = f"import sys; {statement}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    return set(
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    )


def test_scores_import_neither_torch_nor_what_needs_it() -> None:
    names = imported(f"import {', '.join(MODULES)}")
    assert "numpy" in names
    assert names.isdisjoint({"torch", "torchvision", "pycocotools", "matplotlib"})


@pytest.mark.parametrize("heavy", ["rich", "scipy", "nltk"])
def test_options_of_the_command_cost_little(heavy: str) -> None:
    assert heavy not in imported("import captioner.commands.evaluate, captioner.commands.ground")
