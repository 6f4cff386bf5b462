"""Additive attention (Bahdanau et al. 2015), the soft attention of Show, Attend and Tell."""

from torch import Tensor, nn

from captioner.model.attention.base import ATTENTIONS, SingleHeadAttention


@ATTENTIONS.register("additive")
class AdditiveAttention(SingleHeadAttention):
    """Scores by a small network over query and cell: ``v . tanh(W q + U k)``.

    Bahdanau et al. 2015, appendix A.1.2; Xu et al. 2015, equations 4 to 6 and 13.
    """

    def __init__(self, *, text_width: int, image_width: int, width: int, heads: int = 1) -> None:
        super().__init__(text_width=text_width, image_width=image_width, width=width, heads=heads)
        self.score = nn.Linear(width, 1, bias=False)

    def scores(self, query: Tensor, keys: Tensor) -> Tensor:
        hidden = query.unsqueeze(2) + keys.unsqueeze(1)  # (B, T, L, A)
        scores: Tensor = self.score(hidden.tanh()).squeeze(-1)
        return scores
