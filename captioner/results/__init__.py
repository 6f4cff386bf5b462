"""Results as plain data: captions, words with their maps, answers to questions, and failures."""

from captioner.results.answers import Answer, OtherAnswer, QuestionWord
from captioner.results.captions import (
    Alternative,
    Caption,
    ClipCaption,
    Word,
    across_strip,
    from_strip,
    strip_layout,
)
from captioner.results.failures import Failure, Outcome, path_of

__all__ = [
    "Alternative",
    "Answer",
    "Caption",
    "ClipCaption",
    "Failure",
    "OtherAnswer",
    "Outcome",
    "QuestionWord",
    "Word",
    "across_strip",
    "from_strip",
    "path_of",
    "strip_layout",
]
