"""A sentence from the words of the tokeniser: the usual English form, as far as the words still tell it.

What the tokeniser drops stays lost: capitals, most punctuation, the apostrophe of "the dogs' ball".
"""

import re
from collections.abc import Sequence

_CLITICS = frozenset(["'s", "'ll", "'re", "'ve", "'d", "'m", "n't"])

_OPENING = {"-lrb-": "(", "-lsb-": "[", "-lcb-": "{"}
_CLOSING = {"-rrb-": ")", "-rsb-": "]", "-rcb-": "}"}
_BRACKETS = _OPENING | _CLOSING
_BRACKET = re.compile("|".join(_BRACKETS))

_BEFORE_NUMBER = re.compile(r"[a-z]*\$|#")  # $, us$, number sign (also what the tokeniser makes of the pound sign)
_NUMBER = re.compile(r"[0-9][0-9.,:/-]*|\.[0-9]+")
_AFTER_NUMBER = frozenset(["%", "°"])
_MARKS = re.compile(r"[!?]{2,}")

# Words that the tokeniser cuts in two, and that are written as one.
_CUT = ("can not", "gon na", "got ta", "wan na", "lem me", "gim me", "'t is", "'t was", "y' all")
_ONE_WORD = frozenset(tuple(pair.split()) for pair in _CUT)


def detokenize(words: Sequence[str]) -> str:
    """A sentence from PTB tokens.

    Clitics go back to their word ("the dog 's" -> "the dog's"), brackets get their signs ("-lrb-" -> "("), and signs
    of numbers lose their space ("50 %" -> "50%", "$ 5" -> "$5"). Decades and other words with an apostrophe stay
    words: "the '70s", "rock 'n' roll".
    """
    text, before = "", ""
    for word in words:
        space = " " if text and not _joined(before, word) else ""
        text += space + _BRACKET.sub(lambda found: _BRACKETS[found[0]], word).replace("\u00a0", " ")
        before = word
    return text


def _joined(before: str, word: str) -> bool:
    """Whether no space stands between two words."""
    if word in _CLITICS or word in _CLOSING or before in _OPENING or (before, word) in _ONE_WORD:
        return True
    if word in _AFTER_NUMBER or before == "°":
        return bool(_NUMBER.fullmatch(before)) or (before == "°" and word in ("c", "f"))
    return bool(_MARKS.fullmatch(word)) or bool(_BEFORE_NUMBER.fullmatch(before) and _NUMBER.fullmatch(word))
