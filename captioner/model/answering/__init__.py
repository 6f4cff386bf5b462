"""Answerers: what answers questions about a grid. An entry in `ANSWERERS` adds one."""

from captioner.model.answering.base import ANSWERERS, Answered, Answerer
from captioner.model.answering.hierarchical import HierarchicalAnswerer, HierarchicalConfig

__all__ = [
    "ANSWERERS",
    "Answered",
    "Answerer",
    "HierarchicalAnswerer",
    "HierarchicalConfig",
]
