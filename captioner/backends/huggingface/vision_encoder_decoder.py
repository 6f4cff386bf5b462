"""An image encoder and a text decoder with cross-attention, such as ViT and GPT-2 (Kumar 2022), TrOCR or Donut."""

from typing import Any

from torch import Tensor

from captioner.backends.huggingface.families import (
    FAMILIES,
    Family,
    ForeignState,
    Parts,
    Read,
    first_of,
    outputs_of_encoder,
)
from captioner.errors import CheckpointError


@FAMILIES.register("vision-encoder-decoder")
class VisionEncoderDecoder(Family):
    """The decoder's cross-attention over the encoder's outputs; class and register tokens come before the cells."""

    classes = ("VisionEncoderDecoderModel",)

    def __init__(self, model: Any, parts: Parts) -> None:
        super().__init__(model, parts)
        encoder, decoder = model.config.encoder, model.config.decoder
        self.grid = self._grid(encoder)
        start = first_of(model.generation_config, "decoder_start_token_id", "bos_token_id")
        start = first_of(model.config, "decoder_start_token_id") if start is None else start
        if start is None:
            start = first_of(decoder, "decoder_start_token_id", "bos_token_id")
        if start is None:
            raise CheckpointError(f"{parts.name}: its configuration names no decoder_start_token_id")
        self.start = int(start)
        self.longest = int(first_of(decoder, "n_positions", "max_position_embeddings") or 512) - 3
        self.first_cell = 0
        self.force_first()

    def _grid(self, encoder: Any) -> tuple[int, int]:
        """Cells of the encoder's last stage: hierarchical encoders (Swin) halve their grid between stages."""
        fitting = self.parts.fitting
        patch = first_of(encoder, "patch_size")
        if patch is None:
            raise CheckpointError(
                f"{self.parts.name}: its encoder '{encoder.model_type}' has no patches, so its outputs are no grid",
                remedy="use a model whose encoder is a vision transformer",
            )
        down, across = patch if isinstance(patch, (list, tuple)) else (patch, patch)
        depths = first_of(encoder, "depths")
        h, w = fitting.height // int(down), fitting.width // int(across)
        for _ in range(len(depths) - 1 if depths else 0):
            h, w = -(-h // 2), -(-w // 2)
        return h, w

    def encode(self, pixels: Tensor) -> ForeignState:
        outputs = self.model.encoder(pixel_values=pixels).last_hidden_state  # (B, L, D)
        extra = outputs.shape[1] - self.grid[0] * self.grid[1]
        if extra < 0:
            raise CheckpointError(
                f"{self.parts.name}: its encoder returns {outputs.shape[1]} positions, fewer than the "
                f"{self.grid[1]} x {self.grid[0]} cells of its pictures"
            )
        self.first_cell = extra
        model = self.model
        sizes = model.encoder.config.hidden_size, model.decoder.config.hidden_size
        if sizes[0] != sizes[1] and first_of(model.decoder.config, "cross_attention_hidden_size") is None:
            outputs = model.enc_to_dec_proj(outputs)
        return outputs_of_encoder(outputs)

    def read(self, tokens: Tensor, state: ForeignState) -> Read:
        given = {"input_ids": tokens, "encoder_hidden_states": state.rows["outputs"]}
        return self.run(self.model.decoder, state, attention="cross_attentions", **given)
