"""The words of a question: PTB tokens that have a letter or a digit.

The rules of the PTB tokeniser take longer to build than a question to answer. A question of plain words needs none of
them.
"""

import re

_PLAIN = re.compile(r"[A-Za-z0-9]+(?: [A-Za-z0-9]+)*[ ]*[?!]?[ ]*")
_LETTERS_OR_DIGITS = re.compile(r"[A-Za-z]+|[0-9]+")
# Of these the tokeniser makes several words.
_SPLIT = frozenset(("cannot", "gonna", "gotta", "gimme", "lemme", "wanna", "dunno", "whatcha", "finna", "tis", "twas"))


def question_words(question: str) -> list[str]:
    """The words of a question, in lower case; without any for one that has none."""
    if _PLAIN.fullmatch(question):
        words = question.rstrip(" ?!").lower().split()
        if _SPLIT.isdisjoint(words) and all(map(_LETTERS_OR_DIGITS.fullmatch, words)):
            return words
    from captioner.tokenizer.ptb import tokenize

    return [word for word in tokenize(question) if any(map(str.isalnum, word))]
