"""Channel attention for each word, then attention over the cells (SCA-CNN, Chen et al. 2017)."""

from torch import Tensor, nn

from captioner.errors import OptionError
from captioner.model.attention.base import ATTENTIONS, Attended, Attention, AttentionCache, masked_softmax
from captioner.model.grid import Grid


@ATTENTIONS.register("channel")
class ChannelAttention(Attention):
    """Weighs the channels by the query, and then the cells by the query and the weighed channels.

    Chen et al. 2017, "SCA-CNN: Spatial and Channel-wise Attention in Convolutional Networks for Image Captioning", the
    order channel - spatial (https://arxiv.org/abs/1611.05594). With ``v`` the mean of each channel:
    ``b = tanh((W_c outer v + b_c) + W_hc h)`` and ``beta = softmax(W_i b + b_i)`` over the channels (equation 7);
    ``a = tanh((W_s V' + b_s) + W_hs h)`` and ``alpha = softmax(W_a a)`` over the cells (equation 5), where
    ``V' = beta V``. The context is ``alpha V'``. Other than in the paper, ``beta`` is multiplied by the number of
    channels, so that even weights leave the features as they are.

    ``others`` has "channels" (B, T, D), ``beta``, which sums to 1.

    Args:
        channel_width: k, of the space in which channels and query are compared.
    """

    def __init__(
        self, *, text_width: int, image_width: int, width: int, heads: int = 1, channel_width: int = 32
    ) -> None:
        super().__init__()
        if heads != 1:
            raise OptionError(f"{type(self).__name__} has one head, not {heads}", remedy="set heads to 1")
        if channel_width < 1:
            raise OptionError(f"channel_width must be positive, not {channel_width}")
        self.channel = nn.Linear(1, channel_width)
        self.channel_query = nn.Linear(text_width, channel_width, bias=False)
        self.channel_score = nn.Linear(channel_width, 1, bias=False)
        self.key = nn.Linear(image_width, width, bias=False)
        self.query = nn.Linear(text_width, width)
        self.score = nn.Linear(width, 1, bias=False)

    def keys_values(self, grid: Grid) -> AttentionCache:
        """The keys are the channels' means (B, 1, D): the cells are compared after the channels have been weighed."""
        return AttentionCache.of(grid, grid.mean().unsqueeze(1), grid.features)

    def forward(self, query: Tensor, cache: AttentionCache) -> Attended:
        """See `Attention.forward`."""
        mean = cache.keys.squeeze(1)  # (B, D)
        hidden = self.channel(mean[..., None])[:, None] + self.channel_query(query)[:, :, None]  # (B, T, D, k)
        channels = masked_softmax(self.channel_score(hidden.tanh()).squeeze(-1), None)  # (B, T, D)
        factor = channels * channels.shape[-1]
        weighed = factor[:, :, None] * cache.values[:, None]  # (B, T, L, D)
        scores = self.score((self.key(weighed) + self.query(query)[:, :, None]).tanh()).squeeze(-1)  # (B, T, L)
        mask = None if cache.mask is None else cache.mask[:, None]
        weights = masked_softmax(scores, mask).unsqueeze(1)  # (B, 1, T, L)
        # Weighing channels and summing cells change places, which spares a tensor.
        context = factor * (weights @ cache.values.unsqueeze(1)).squeeze(1)
        return Attended.on_grid(context, weights, channels=channels)
