"""The simple form of vision-language attention: text asks, cells answer, in one common space."""

from typing import NamedTuple

from torch import Tensor, nn

from captioner.errors import OptionError
from captioner.model.attention.base import Attended
from captioner.model.attention.dot_product import DotProductAttention
from captioner.model.grid import Grid


class ContextWeights(NamedTuple):
    """What `VisionLanguageAttention` returns.

    Attributes:
        context: (B, T, image_width), for each word the weighted sum of the cells.
        weights: (B, T, L), of each cell for each word; each row sums to 1.
    """

    context: Tensor
    weights: Tensor


class VisionLanguageAttention(nn.Module):
    """Scaled dot-product attention of words over the cells of a picture, on plain tensors.

    Vaswani et al. 2017, equation 1, with one head, both modalities projected to ``width`` and the cells themselves as
    values: ``softmax(W text . U image / sqrt(width)) image``. It is the mechanism "dot" of
    `captioner.model.attention.ATTENTIONS` without its cache, for use on its own:

    >>> attention = VisionLanguageAttention(image_width=2048, text_width=768, width=512)
    >>> context, weights = attention(torch.randn(2, 49, 2048), torch.randn(2, 10, 768))
    >>> context.shape, weights.shape
    (torch.Size([2, 10, 2048]), torch.Size([2, 10, 49]))

    Args:
        image_width: of the cells and of the context.
        text_width: of the words.
        width: of the common space.
    """

    def __init__(self, *, image_width: int, text_width: int, width: int = 512) -> None:
        super().__init__()
        self.attention = DotProductAttention(text_width=text_width, image_width=image_width, width=width)

    def forward(self, image: Tensor, text: Tensor, mask: Tensor | None = None) -> ContextWeights:
        """Attend.

        Args:
            image: (B, L, image_width), cells of a picture, row by row.
            text: (B, T, text_width).
            mask: (B, L), True where a cell holds picture; None where every cell does.

        Raises:
            OptionError: the shapes do not fit.
        """
        if image.dim() != 3 or text.dim() != 3 or len(image) != len(text):
            raise OptionError(
                f"image and text are (B, L, D) and (B, T, D) of the same B, not {tuple(image.shape)} and "
                f"{tuple(text.shape)}"
            )
        cache = self.attention.keys_values(Grid(image, (1, image.shape[1]), mask))
        attended: Attended = self.attention(text, cache)
        return ContextWeights(attended.context, attended.weights.squeeze(1))
