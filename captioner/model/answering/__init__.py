"""Answerers: what answers questions about a grid. An entry in `ANSWERERS` adds one."""

from captioner.model.answering.base import ANSWERERS, Answered, Answerer
from captioner.model.answering.hierarchical import HierarchicalAnswerer, HierarchicalConfig
from captioner.model.answering.pooled import PooledAnswerer, PooledConfig

__all__ = [
    "ANSWERERS",
    "Answered",
    "Answerer",
    "HierarchicalAnswerer",
    "HierarchicalConfig",
    "PooledAnswerer",
    "PooledConfig",
]
