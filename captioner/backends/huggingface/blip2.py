"""BLIP-2 (Li et al. 2023): a Q-Former gathers the patches into a few queries, which a language model reads.

A word looks at queries, and a query at patches: the map is the product of the two attentions, as in attention rollout
(Abnar and Zuidema 2020), over the Q-Former's layers with cross-attention and their heads on average.
"""

from dataclasses import replace
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
    attention_of,
    first_of,
    new_cache,
    outputs_of_encoder,
    with_cache,
)


@FAMILIES.register("blip-2")
class Blip2(Family):
    """Language models of both kinds: decoders (OPT) read the queries before the words, and encoder-decoders (Flan-T5)
    in the encoder."""

    classes = ("Blip2ForConditionalGeneration",)
    first_cell = 1  # after the class token of the vision transformer

    def __init__(self, model: Any, parts: Parts) -> None:
        super().__init__(model, parts)
        vision, text = model.config.vision_config, model.config.text_config
        self.grid = self.patch_grid(vision)
        self.decoder_only = bool(model.config.use_decoder_only_language_model)
        start = text.bos_token_id if self.decoder_only else text.decoder_start_token_id
        self.start = int(start)
        self.queries = int(model.config.num_query_tokens)
        positions = first_of(text, "max_position_embeddings", "n_positions") or 512
        self.longest = int(positions) - self.queries - 4
        image_token = first_of(model.config, "image_token_index", "image_token_id")
        self.hidden = () if image_token is None else (int(image_token),)

    def encode(self, pixels: Tensor) -> ForeignState:
        model = self.model
        patches = model.vision_model(pixel_values=pixels).last_hidden_state  # (B, L, D)
        found = model.qformer(
            query_embeds=model.query_tokens.expand(len(pixels), -1, -1),
            encoder_hidden_states=patches,
            output_attentions=True,
        )
        looks = torch.stack(attention_of(found, "cross_attentions", self.parts.name)).float().mean((0, 2))  # (B, Q, L)
        queries = model.language_projection(found.last_hidden_state.to(patches.dtype))  # (B, Q, D)
        rows = {"looks": looks}
        if self.decoder_only:
            cache = new_cache(cross=False)
            language_model = model.language_model
            language_model(inputs_embeds=queries, **with_cache(language_model, cache))
            return ForeignState(cache=cache, rows=rows)
        state = outputs_of_encoder(self._with_prompt(queries))
        return replace(state, rows=rows | state.rows)

    def _with_prompt(self, queries: Tensor) -> Tensor:
        """What the encoder makes of the queries and of the start of an empty prompt, as the model's own generation
        has it."""
        model = self.model
        first = model.config.text_config.bos_token_id
        if first is not None:
            embedded = model.get_input_embeddings()(torch.tensor([[first]], device=queries.device))
            queries = torch.cat((queries, embedded.expand(len(queries), -1, -1).to(queries.dtype)), 1)
        outputs: Tensor = model.language_model.get_encoder()(inputs_embeds=queries).last_hidden_state
        return outputs

    def read(self, tokens: Tensor, state: ForeignState) -> Read:
        language_model = self.model.language_model
        if self.decoder_only:
            return self.run(language_model, state, attention="attentions", input_ids=tokens)
        outputs = BaseModelOutput(last_hidden_state=state.rows["outputs"])
        given = {"decoder_input_ids": tokens, "encoder_outputs": outputs}
        return self.run(language_model, state, attention="cross_attentions", **given)

    def cells(self, weights: Tensor, state: ForeignState) -> Tensor:
        patches = weights[..., : self.queries] @ state.rows["looks"].to(weights.dtype)  # (N, T, L)
        return super().cells(patches, state)
