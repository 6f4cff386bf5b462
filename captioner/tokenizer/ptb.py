"""The words of a caption, as the official COCO evaluation counts them.

The official code pipes captions through a Java tokeniser for the Penn Treebank's conventions, puts the result in
lower case and drops punctuation. This module gives the same words in pure Python. It was written from the
behaviour of that program on real and made captions, never from its source.

The rules are those of a lexer by *maximal munch*: at each place every rule is tried, the longest match wins and
the earlier rule wins a tie. What a rule must see after its token (its context) counts towards its length. That
single principle decides most of the odd cases: ``dog.cat`` is one word because the rule for words joined by a
period reaches further than the rule for words; ``a.5`` is ``a.`` and ``5`` because an initial with its period is
longer than the letter alone.

``tokenize`` sees one caption. The reference reads a file of captions, and there the next line can change the last
token of this one; ``tokenize_all`` does the same, because the official figures hold it.

Line separators other than a line feed (a carriage return, U+2028, ...) break a caption in two in the reference, and
shift every later caption onto the wrong picture. Here they are white space.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import zip_longest

from captioner.tokenizer import abbreviations
from captioner.tokenizer.ptb_rules import IN_TWO, Action, any_of, drop, rules_for

# Dropped after lower-casing. The list of the official code has the brackets in upper case (-LRB-), so that
# brackets are never dropped; runs such as "!!" are not in it either.
PUNCTUATION = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])

# These end a line in the reference, or cannot be encoded: a space each.
_AS_SPACE = str.maketrans(
    dict.fromkeys([*"\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029", *map(chr, range(0xD800, 0xE000))], " ")
)


def _next(text: str, place: int) -> tuple[tuple[str, ...], int]:
    """What stands at a place, by maximal munch: its tokens, and where the rest begins. White space and unknown signs
    leave none."""
    longest = token_end = place
    chosen: Action = drop
    for pattern, action in rules_for(text[place]):
        match = pattern.match(text, place)
        if match is not None and match.end() > longest:
            end = match.end("token") if "token" in pattern.groupindex else match.end()
            if end > place:
                longest, token_end, chosen = match.end(), end, action
    if token_end == place:
        return (), place + 1
    return tuple(token for token in chosen(text[place:token_end]) if token not in PUNCTUATION), token_end


# Chunks whose tokens no neighbour can change: words, a clitic and one mark after them; no initials.
_INDEPENDENT = re.compile(r"(?:[A-Za-z]{2,}(?:-[A-Za-z]+)*(?:'(?:s|re|ll|ve|d))?[.,!?;:]?|[A-Za-z],?|[.,!?;:\"&-])")
_NEEDS_DIGIT = frozenset(f"{word}." for word in abbreviations.BEFORE_DIGIT)
_CHUNK = re.compile(r"\S+")
# Of these, whole words with a mark that goes; most chunks are, and need not be put before every rule.
_WHOLE_WORD = re.compile(r"([A-Za-z]{2,}(?:-[A-Za-z]+)*)[.,!?;:]?")
_NOT_WHOLE = abbreviations.ALL | IN_TWO


@lru_cache(maxsize=1 << 16)
def _alone(chunk: str) -> tuple[str, ...] | None:
    """The words of a chunk between white space, or None where they may depend on what surrounds it."""
    if not _INDEPENDENT.fullmatch(chunk) or chunk.lower() in _NEEDS_DIGIT:
        return None
    whole = _WHOLE_WORD.fullmatch(chunk)
    if whole and (word := whole[1].lower()) not in _NOT_WHOLE:
        return (word,)
    text, place = f"{chunk}\n", 0
    words: list[str] = []
    while place < len(chunk):
        found, place = _next(text, place)
        words += found
    return tuple(words)


def _in_context(caption: str, following: str) -> list[str]:
    """The words of a caption that holds chunks whose words depend on what surrounds them."""
    text = f"{caption.translate(_AS_SPACE)}\n{following}"
    words: list[str] = []
    place = 0
    while place < len(caption):
        chunk = _CHUNK.match(text, place) if place == 0 or text[place - 1] == " " else None
        known = _alone(chunk[0]) if chunk else None
        if chunk and known is not None:
            found, place = known, chunk.end()
        else:
            found, place = _next(text, place)
        words += found
    return words


def tokenize(caption: str, *, following: str = "") -> list[str]:
    """The words of one caption: lower case, without punctuation, as the official evaluation counts them.

    A word may hold a no-break space ("22 3/4" is one). ``following`` is what stands on the next line of the text
    that the official tokeniser reads, see ``tokenize_all``; leave it out and the words depend on the caption alone.
    """
    words: list[str] = []
    for chunk in caption.split():
        known = _alone(chunk)
        if known is None:
            return _in_context(caption, following)
        words += known
    return words


_OPEN_END = re.compile(rf"(?:\A|[^A-Za-z0-9])(?:[A-Za-z]|{any_of(abbreviations.BEFORE_DIGIT)})\.\s*\Z")
_TAIL = 12  # characters that decide whether the end is open


def tokenize_all(captions: Sequence[str], *, known: dict[tuple[str, str], list[str]] | None = None) -> list[list[str]]:
    """The words of each caption when the reference reads them one to a line, in this order.

    There an initial or an abbreviation at the end of a caption can keep or lose its period by the first word of the
    next caption: "... 12th Ave S." before "A dog ..." ends in ``s``, elsewhere in ``s.``. It touches one caption in ten
    thousand, and without it the official figures cannot be had to the last digit.

    Args:
        captions: in the order of the lines.
        known: words of captions from earlier calls. They are taken from there, and new ones are added; lists of words
            are then shared, and must not be changed.
    """
    words = []
    known = {} if known is None else known
    for caption, following in zip_longest(captions, captions[1:], fillvalue=""):
        dependent = _OPEN_END.search(caption.rstrip()[-_TAIL:])
        key = (caption, following[:100] if dependent else "")
        found = known.get(key)
        if found is None:
            found = known[key] = tokenize(caption, following=key[1])
        words.append(found)
    return words
