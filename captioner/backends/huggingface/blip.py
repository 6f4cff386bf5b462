"""BLIP (Li et al. 2022): a text decoder with cross-attention over the patches of a vision transformer."""

from typing import Any

from torch import Tensor

from captioner.backends.huggingface.families import (
    FAMILIES,
    Family,
    ForeignState,
    Parts,
    Read,
    attention_of,
    new_cache,
    with_cache,
)


@FAMILIES.register("blip")
class Blip(Family):
    """The decoder's cross-attention; the class token comes before the cells."""

    classes = ("BlipForConditionalGeneration",)
    first_cell = 1

    def __init__(self, model: Any, parts: Parts) -> None:
        super().__init__(model, parts)
        vision, text = model.config.vision_config, model.config.text_config
        self.grid = self.square_grid((vision.image_size // vision.patch_size) ** 2, vision.patch_size)
        self.start = int(text.bos_token_id)
        self.longest = int(text.max_position_embeddings) - 2

    @property
    def ends(self) -> list[int]:
        """Its generation ends with the separator."""
        return [int(self.model.config.text_config.sep_token_id)]

    def encode(self, pixels: Tensor) -> ForeignState:
        outputs = self.model.vision_model(pixel_values=pixels).last_hidden_state  # (B, 1 + h * w, D)
        return ForeignState(cache=new_cache(cross=True), rows={"outputs": outputs})

    def read(self, tokens: Tensor, state: ForeignState) -> Read:
        decoder = self.model.text_decoder
        found = decoder(
            input_ids=tokens,
            encoder_hidden_states=state.rows["outputs"],
            output_attentions=True,
            **with_cache(decoder, state.cache),
        )
        return Read(found.logits, attention_of(found, "cross_attentions", self.parts.name))
