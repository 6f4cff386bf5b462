"""Questions as arrays, for the backends that answer them."""

import numpy as np
from numpy.typing import NDArray

from captioner.backends.base import AnswerScores, Tokens
from captioner.tokenizer.vocabulary import PAD, UNKNOWN


def pad_questions(questions: Tokens) -> NDArray[np.int64]:
    """Questions as (B, k, T) ids, padded; a picture with fewer than k gets rows of one unknown word."""
    rows, length = max(map(len, questions)), max(len(one) for some in questions for one in some)
    tokens = np.full((len(questions), rows, length), PAD, dtype=np.int64)
    tokens[:, :, 0] = UNKNOWN
    for i, some in enumerate(questions):
        for j, ids in enumerate(some):
            tokens[i, j, : len(ids)] = ids
    return tokens


def unpad_answers(
    questions: Tokens, log_p: NDArray[np.float32], maps: NDArray[np.float32], words: NDArray[np.float32]
) -> list[list[AnswerScores]]:
    """The scores of each question, from (B, k, A), (B, k, h, w) and (B, k, T)."""
    return [
        [AnswerScores(log_p[i, j], maps[i, j], words[i, j, : len(ids)]) for j, ids in enumerate(some)]
        for i, some in enumerate(questions)
    ]
