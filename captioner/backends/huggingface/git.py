"""GIT (Wang et al. 2022): one sequence of patches and words under one decoder, without cross-attention."""

from typing import Any

import torch
from torch import Tensor

from captioner.backends.huggingface.families import (
    FAMILIES,
    Family,
    ForeignState,
    Parts,
    Read,
    first_of,
    new_cache,
    with_cache,
)


@FAMILIES.register("git")
class Git(Family):
    """The self-attention from a word to the patches, which come first; the class token is before them."""

    classes = ("GitForCausalLM",)
    first_cell = 1

    def __init__(self, model: Any, parts: Parts) -> None:
        super().__init__(model, parts)
        vision = model.config.vision_config
        self.grid = self.patch_grid(vision)
        start = first_of(parts.tokenizer, "cls_token_id", "bos_token_id")
        self.start = int(model.config.bos_token_id if start is None else start)
        self.ends = (int(model.config.eos_token_id),)  # the separator
        self.longest = int(model.config.max_position_embeddings) - 2

    def encode(self, pixels: Tensor) -> ForeignState:
        """The patches alone: they attend to one another, and to no word."""
        state = ForeignState(cache=new_cache(cross=False))
        none = torch.zeros((len(pixels), 0), dtype=torch.long, device=pixels.device)
        self.model.git(input_ids=none, pixel_values=pixels, **with_cache(self.model.git, state.cache))
        return state

    def read(self, tokens: Tensor, state: ForeignState) -> Read:
        # Positions count words alone.
        places = torch.arange(state.length, state.length + tokens.shape[1], device=tokens.device)[None]
        return self.run(self.model, state, attention="attentions", input_ids=tokens, position_ids=places)
