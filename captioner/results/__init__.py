"""Results as plain data: captions, words with their maps, views of a word, answers to questions, and failures."""

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
from captioner.results.views import Contrast, Heads, WordView, place_of

__all__ = [
    "Alternative",
    "Answer",
    "Caption",
    "ClipCaption",
    "Contrast",
    "Failure",
    "Heads",
    "OtherAnswer",
    "Outcome",
    "QuestionWord",
    "Word",
    "WordView",
    "across_strip",
    "from_strip",
    "path_of",
    "place_of",
    "strip_layout",
]
