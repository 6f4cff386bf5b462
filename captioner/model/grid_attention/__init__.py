"""Attention on the grid before the decoder: gates, self-attention, branches, and pooling to fewer vectors.

Each is a refiner by name (`captioner.model.refiners.REFINERS`). Those that keep the grid's shape are also blocks
(`BLOCKS`), which the encoder can have between its stages.
"""

from captioner.model.grid_attention.base import BLOCKS, Block, BlockRefiner, EncoderBlock, build_block
from captioner.model.grid_attention.gates import (
    ConvolutionalBlockAttention,
    EfficientChannelAttention,
    SpatialAttention,
    SqueezeExcitation,
)
from captioner.model.grid_attention.pooled import CoarseCellsRefiner, LatentQueriesRefiner
from captioner.model.grid_attention.selective_kernel import SelectiveKernel
from captioner.model.grid_attention.self_attention import GridSelfAttention, RelativeSelfAttention

__all__ = [
    "BLOCKS",
    "Block",
    "BlockRefiner",
    "CoarseCellsRefiner",
    "ConvolutionalBlockAttention",
    "EfficientChannelAttention",
    "EncoderBlock",
    "GridSelfAttention",
    "LatentQueriesRefiner",
    "RelativeSelfAttention",
    "SelectiveKernel",
    "SpatialAttention",
    "SqueezeExcitation",
    "build_block",
]
