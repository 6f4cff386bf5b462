"""BLIP (Li et al. 2022): a text decoder with cross-attention over the patches of a vision transformer."""

from typing import Any

from torch import Tensor

from captioner.backends.huggingface.families import (
    FAMILIES,
    Family,
    ForeignState,
    Parts,
    Read,
    outputs_of_encoder,
)


@FAMILIES.register("blip")
class Blip(Family):
    """The decoder's cross-attention; the class token comes before the cells."""

    classes = ("BlipForConditionalGeneration",)
    first_cell = 1

    def __init__(self, model: Any, parts: Parts) -> None:
        super().__init__(model, parts)
        vision, text = model.config.vision_config, model.config.text_config
        self.grid = self.patch_grid(vision)
        self.start = int(text.bos_token_id)
        self.ends = (int(text.sep_token_id),)  # as its own generation ends
        self.longest = int(text.max_position_embeddings) - 2

    def encode(self, pixels: Tensor) -> ForeignState:
        return outputs_of_encoder(self.model.vision_model(pixel_values=pixels).last_hidden_state)  # (B, 1 + h * w, D)

    def read(self, tokens: Tensor, state: ForeignState) -> Read:
        given = {"input_ids": tokens, "encoder_hidden_states": state.rows["outputs"]}
        return self.run(self.model.text_decoder, state, attention="cross_attentions", **given)
