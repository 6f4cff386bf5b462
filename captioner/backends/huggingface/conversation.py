"""Models that read a conversation with a picture in it: LLaVA (Liu et al. 2023) and Qwen2-VL (Wang et al. 2024).

The picture's cells stand in the middle of the prompt; the self-attention from a word to them is its map, and all other
positions are off the grid.
"""

from collections.abc import Mapping
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
from captioner.backends.huggingface.inputs import resample_of
from captioner.errors import CheckpointError
from captioner.geometry import Fitting

_REQUEST = "Describe the image in one sentence."
_WITHOUT_TEMPLATE = "USER: {picture}\n{request} ASSISTANT:"
_QWEN_SIDE = 448  # pixels: 16 x 16 cells of 28


class Conversation(Family):
    """A decoder that reads a prompt with the picture's cells in it, once a picture."""

    start_is_a_piece = True  # the last of the prompt

    def __init__(self, model: Any, parts: Parts) -> None:
        super().__init__(model, parts)
        self.picture = int(first_of(model.config, "image_token_id", "image_token_index"))
        self.hidden = (self.picture,)
        self.grid = self.cell_grid()
        before, after = self._prompt()
        self.first_cell = len(before)
        self.prompt = [*before, *[self.picture] * (self.grid[0] * self.grid[1]), *after]
        self.start = self.prompt.pop()
        self.longest = int(model.config.text_config.max_position_embeddings) - len(self.prompt) - 2

    def cell_grid(self) -> tuple[int, int]:
        """(h, w) of the cells that the language model reads."""
        return self.patch_grid(self.model.config.vision_config)

    def inputs(self, pixels: Tensor) -> Mapping[str, Tensor]:
        """What the model takes of normalised pictures (B, 3, height, width)."""
        return {"pixel_values": pixels}

    def places(self, state: ForeignState, steps: int) -> dict[str, Tensor]:
        """Further arguments for so many pieces after those that were read."""
        return {}

    def encode(self, pixels: Tensor) -> ForeignState:
        cache = new_cache(cross=False)
        prompt = torch.tensor([self.prompt], device=pixels.device).expand(len(pixels), -1)  # (B, P)
        inputs = self.inputs(pixels)
        self.model(input_ids=prompt, **inputs, **with_cache(self.model, cache))
        return ForeignState(cache=cache)

    def read(self, tokens: Tensor, state: ForeignState) -> Read:
        places = self.places(state, tokens.shape[1])
        return self.run(self.model, state, attention="attentions", input_ids=tokens, **places)

    def _prompt(self) -> tuple[list[int], list[int]]:
        """The ids before and after the picture.

        Raises:
            CheckpointError: the model's template does not hold the picture once.
        """
        tokenizer = self.parts.tokenizer
        picture = tokenizer.convert_ids_to_tokens(self.picture)
        template = self.parts.processor or (tokenizer if tokenizer.chat_template else None)
        if template is None:
            text = _WITHOUT_TEMPLATE.format(picture=picture, request=_REQUEST)
        else:
            text = _templated(template, picture)
        begins = bool(tokenizer.bos_token) and text.startswith(tokenizer.bos_token)  # as some templates do themselves
        ids = tokenizer(text, add_special_tokens=not begins).input_ids
        if ids.count(self.picture) != 1:
            raise CheckpointError(f"{self.parts.name}: its template holds {ids.count(self.picture)} pictures, not one")
        place = ids.index(self.picture)
        if place + 1 == len(ids):
            raise CheckpointError(f"{self.parts.name}: nothing follows the picture in its prompt")
        return ids[:place], ids[place + 1 :]


def _templated(template: Any, picture: str) -> str:
    """The request in a template, which takes a list of parts or, where it is for text alone, one text."""

    def filled(content: Any) -> str:
        messages = [{"role": "user", "content": content}]
        return str(template.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))

    try:
        text = filled([{"type": "image"}, {"type": "text", "text": _REQUEST}])
    except (TypeError, ValueError, ArithmeticError, LookupError, RuntimeError):  # of the template's own code
        text = ""
    return text if picture in text else filled(f"{picture}\n{_REQUEST}")


@FAMILIES.register("llava")
class Llava(Conversation):
    """The vision transformer's patches one by one; its class token is dropped, or stands before the cells."""

    classes = ("LlavaForConditionalGeneration",)

    def _prompt(self) -> tuple[list[int], list[int]]:
        before, after = super()._prompt()
        keeps_class = self.model.config.vision_feature_select_strategy == "full"
        return ([*before, self.picture], after) if keeps_class else (before, after)


@FAMILIES.register("qwen2_vl")
class Qwen2VL(Conversation):
    """Pictures of any size; here all are brought to one square and padded, so that all have one grid.

    Neighbouring patches are merged into one cell. Positions have three axes, which go on after the larger side of the
    picture's grid.
    """

    classes = ("Qwen2VLForConditionalGeneration",)

    @staticmethod
    def fitting_of(processor: Any, name: str) -> Fitting:
        """A square of 448 pixels, or of what the processor allows."""
        cell = int(processor.patch_size) * int(processor.merge_size)
        size = getattr(processor, "size", None) or {}
        most = size.get("longest_edge") if hasattr(size, "get") else getattr(size, "longest_edge", None)
        side = min(_QWEN_SIDE, int(most**0.5)) if most else _QWEN_SIDE
        side = max(1, side // cell) * cell
        mean = [round(255 * value) for value in processor.image_mean]
        return Fitting(
            width=side, height=side, mode="pad", resample=resample_of(processor), fill=(mean[0], mean[1], mean[2])
        )

    def cell_grid(self) -> tuple[int, int]:
        vision = self.model.config.vision_config
        cell = int(vision.patch_size) * int(vision.spatial_merge_size)
        return self.parts.fitting.height // cell, self.parts.fitting.width // cell

    def inputs(self, pixels: Tensor) -> Mapping[str, Tensor]:
        vision = self.model.config.vision_config
        patch, merge, frames = int(vision.patch_size), int(vision.spatial_merge_size), int(vision.temporal_patch_size)
        count, channels = pixels.shape[:2]
        h, w = self.grid
        # Patches of a cell stand together; a still picture is a clip of frames that are alike.
        cut = pixels.reshape(count, channels, h, merge, patch, w, merge, patch)
        cut = cut.permute(0, 2, 5, 3, 6, 1, 4, 7)  # (B, h, w, merge, merge, 3, patch, patch)
        cut = cut.unsqueeze(6).expand(*[-1] * 6, frames, -1, -1)
        prompt = torch.tensor(self.prompt, device=pixels.device)
        return {
            "pixel_values": cut.reshape(count * h * w * merge**2, -1),
            "image_grid_thw": torch.tensor([[1, h * merge, w * merge]] * count, device=pixels.device),
            "position_ids": self._positions(prompt).expand(-1, count, -1),
        }

    def _positions(self, prompt: Tensor) -> Tensor:
        """(3, 1, P), of time, rows and columns."""
        h, w = self.grid
        before, after = self.first_cell, len(prompt) - self.first_cell - h * w
        rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
        cells = torch.stack((torch.zeros_like(rows), rows, columns)).flatten(1) + before
        texts = [torch.arange(n).expand(3, -1) + start for n, start in ((before, 0), (after, before + max(h, w)))]
        return torch.cat((texts[0], cells, texts[1]), 1)[:, None].to(prompt.device)

    def places(self, state: ForeignState, steps: int) -> dict[str, Tensor]:
        h, w = self.grid
        first = len(self.prompt) - h * w + max(h, w) + state.length
        mask = state.rows["mask"]
        places = torch.arange(first, first + steps, device=mask.device)
        return {"position_ids": places.expand(3, len(mask), -1)}


@FAMILIES.register("qwen2_5_vl")
class Qwen25VL(Qwen2VL):
    """Qwen2.5-VL: the same order of patches and positions; its vision transformer attends within windows."""

    classes = ("Qwen2_5_VLForConditionalGeneration",)
