"""Florence-2 (Xiao et al. 2023): an encoder reads the grid of a DaViT and a task prompt, a decoder writes."""

from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from captioner.backends.huggingface.families import (
    FAMILIES,
    Family,
    ForeignState,
    Parts,
    Read,
    outputs_of_encoder,
)

_PROMPT = "What does the image describe?"  # what its processor makes of the task <CAPTION>


@FAMILIES.register("florence2")
class Florence2(Family):
    """The decoder's cross-attention over the encoder's outputs: the picture's mean, the cells, and the prompt.

    What goes to the mean and to the prompt is off the grid.
    """

    classes = ("Florence2ForConditionalGeneration",)
    first_cell = 1

    def __init__(self, model: Any, parts: Parts) -> None:
        super().__init__(model, parts)
        stride = 1
        for one in model.config.vision_config.patch_stride:
            stride *= int(one)
        fitting = parts.fitting
        self.grid = (-(-fitting.height // stride), -(-fitting.width // stride))
        text = model.config.text_config
        self.start = int(text.decoder_start_token_id)
        self.longest = int(text.max_position_embeddings) - 2
        self.force_first()
        self.picture = int(model.config.image_token_id)
        self.hidden = (self.picture,)
        self.prompt = parts.tokenizer(_PROMPT).input_ids

    def encode(self, pixels: Tensor) -> ForeignState:
        model = self.model.model
        features = model.get_image_features(pixels).pooler_output  # (B, 1 + h * w, D)
        prompt = torch.tensor([self.prompt], device=pixels.device).expand(len(pixels), -1)
        inputs = torch.cat((features, model.get_input_embeddings()(prompt)), 1)
        return outputs_of_encoder(model.language_model.encoder(inputs_embeds=inputs).last_hidden_state)

    def read(self, tokens: Tensor, state: ForeignState) -> Read:
        outputs = BaseModelOutput(last_hidden_state=state.rows["outputs"])
        given = {"decoder_input_ids": tokens, "encoder_outputs": outputs}
        return self.run(self.model, state, attention="cross_attentions", **given)
