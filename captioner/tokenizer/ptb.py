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
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import zip_longest

from captioner.tokenizer import abbreviations
from captioner.tokenizer.characters import DIGITS, LETTERS, MARKS, SYMBOLS

# Dropped after lower-casing. The list of the official code has the brackets in upper case (-LRB-), so that
# brackets are never dropped; runs such as "!!" are not in it either.
PUNCTUATION = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])

# These end a line in the reference, or cannot be encoded: a space each.
_AS_SPACE = str.maketrans(
    dict.fromkeys([*"\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029", *map(chr, range(0xD800, 0xE000))], " ")
)
_SOFT_HYPHEN = "\u00ad"
_NO_BREAK_SPACE = "\u00a0"

# A few signs are spelt in ASCII.
_SPELT = {
    "(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-",
    "£": "#", "€": "$", "¤": "$", "\x80": "$", "₠": "$", "¢": "cents",
    "¼": "1/4", "½": "1/2", "¾": "3/4", "⅓": "1/3", "⅔": "2/3",
}  # fmt: skip
_QUOTE_SPELLING = str.maketrans(
    {"‘": "`", "‛": "`", "‹": "`", "\x91": "`", "’": "'", "›": "'", "\x92": "'"}
    | {"“": "``", "«": "``", "\x93": "``", "”": "''", "»": "''", "\x94": "''"}
)
_SPELT_CLASS = "".join(re.escape(sign) for sign in _SPELT)

# ------------------------------------------------------------------------------------------------------
# Parts of rules
# ------------------------------------------------------------------------------------------------------

_CAPITALS_AND = r"[A-Z]+(?:(?:&(?:(?i:amp);)?|\+)[A-Z]+)+"
_BLANK = r"[ \t\n\u00a0\u2000-\u200a\u3000]"
_APOSTROPHE = r"(?:['’\x92]|&(?i:apos);)"
_ANY_APOSTROPHE = r"(?:['’\x92‘‛`\x91]|&(?i:apos);)"  # opening quotes and accents too: o‘clock
_ACCENTED = r"&(?i:[aeiou](?:acute|grave|uml));"  # caf&eacute; is a word
_LETTER = rf"(?:[{LETTERS}{MARKS}{_SOFT_HYPHEN}]|{_ACCENTED})"
_LETTER_DIGIT = rf"(?:[{LETTERS}{MARKS}{DIGITS}{_SOFT_HYPHEN}]|{_ACCENTED})"
_PLAIN = (
    rf"[{LETTERS}{DIGITS}{_SOFT_HYPHEN}]"  # without marks: what may stand beside a hyphen, a slash or an apostrophe
)
# Marks stand only in words that begin with a letter and hold no underscore.
_WORD = rf"(?:{_PLAIN}+(?:_{_PLAIN}+)+|{_LETTER}{_LETTER_DIGIT}*|{_PLAIN}+)"
_JOINED = rf"{_LETTER}{_LETTER_DIGIT}*(?:[.!?]{_LETTER}{_LETTER_DIGIT}*)+"
_CLITIC = rf"{_APOSTROPHE}(?i:ll|re|ve|[sdm])"
_NUMBER = rf"(?:[{DIGITS}]*(?:[.:,][{DIGITS}]+)+|[{DIGITS}]+)"

_HYPHEN = "[-‐‑]"
# o'clock, d'angelo, l'orange; the prefix also opens a part of a hyphenated word (jack-o'lantern).
_ELIDED = rf"[dolDOL]{_ANY_APOSTROPHE}(?={_PLAIN}{{2}})"
_STEM = rf"{_PLAIN}(?:{_PLAIN}|_(?={_PLAIN}))*"
_HYPHENATED = rf"(?:{_ELIDED})?{_STEM}(?:{_HYPHEN}(?:{_ELIDED})?{_STEM})+"
# Before the first hyphen there may be periods and commas (1,000-pound, u.s.-based), after the last initials.
_BEFORE_HYPHEN = r"[A-Za-z0-9](?:[A-Za-z0-9.,]|(?<=[A-Za-z0-9])_(?=[A-Za-z0-9])){0,100}-"
_AFTER_HYPHEN = r"(?:(?:[A-Za-z]\.){2,}|[A-Za-z0-9]+)"
_HYPHENATED_DOTTED = rf"{_BEFORE_HYPHEN}{_AFTER_HYPHEN}(?:{_HYPHEN}{_AFTER_HYPHEN})*"
_SLASHED_PART = "[A-Za-z0-9]+(?:-[A-Za-z]+)*"
_SLASHED = rf"{_SLASHED_PART}(?:\\?/{_SLASHED_PART}){{1,2}}"

_SPACE = r" \t\n"  # a no-break space may stand in a site or a path
_IN_ADDRESS = rf"[^{_SPACE}\u00a0\"<>|(){{}}]"
_IN_DOMAIN = rf"[^{_SPACE}\u00a0\"<>|(){{}}.]"
_IN_LINK = rf"[^{_SPACE}\"<>|(){{}}]"
_IN_PATH = rf"[^{_SPACE}\"<>|()]"
_ADDRESS_END = rf"[^{_SPACE}\"<>|(){{}}.!?,-]"
_FILE_TYPES = (
    "bat|bmp|class|cpp|c|dll|docx?|exe|gif|gz|html?|h|jar|java|jpe?g|mov|mp3|pdf|php|pl|png|ppt|ps|py|sql|tar|txt|wav"
    "|xml|x|zip"
)
_FILE_NAME = rf"{_PLAIN}{{1,100}}(?:\.{_PLAIN}{{1,100}}){{0,10}}\.(?i:{_FILE_TYPES})(?={_BLANK}|[!,.?]|$)"
# A site is any run without capitals, digits or ASCII punctuation before .com: "~.com" is one.
_IN_SITE = rf"[^{_SPACE}!\"$'()\-./:;<=>?@\[\\\]^_`{{|}},0-9A-Z]"
_SITE = rf"(?:{_IN_SITE}{{1,100}}\.){{1,100}}(?i:com|net|org|edu)"
_QUOTES = "‘’“”‛«»‹›\x91-\x94‚„"
_TAG_NAME = r"[A-Za-z][A-Za-z0-9_:.\-]*"
_TAG = (
    rf"(?:<{_TAG_NAME}(?: +{_TAG_NAME}(?:=(?:\"[^\"]*\"|'[^']*'))?)* */?>|</{_TAG_NAME} *>"
    r"|<[!?][A-Za-z-][^>]{0,1000}>)"
)
_FACE = r"[<>]?[:;=][\-o'*]?[()\[\]{DdPpO|\\@](?![A-Za-z0-9])"


def _any_of(words: frozenset[str]) -> str:
    return "(?i:" + "|".join(sorted(words, key=lambda word: (-len(word), word))) + ")"


def _capitalised(words: frozenset[str]) -> str:
    return "(?:" + "|".join(f"{word[0].upper()}(?i:{word[1:]})" for word in sorted(words)) + ")"


def _not_upper(words: frozenset[str]) -> str:
    return "(?:" + "|".join(f"[{word[0]}{word[0].upper()}]{word[1:]}" for word in sorted(words)) + ")"


_IN_TWO = frozenset(["cannot", "gonna", "gotta", "lemme", "gimme", "wanna"])  # after three letters
_ALWAYS = f"(?:{_any_of(abbreviations.ALWAYS)}|{_not_upper(abbreviations.ALWAYS_UNLESS_UPPER)})"
_FINAL = (
    f"(?:{_any_of(abbreviations.FINAL)}|{_capitalised(abbreviations.FINAL_IF_CAPITALISED)}"
    rf"|{_not_upper(abbreviations.FINAL_UNLESS_UPPER)}|(?i:ph\.d|ed\.d))"
)
_STARTER = (
    "(?:" + "|".join(f"{word.capitalize()}|{word.upper()}" for word in sorted(abbreviations.SENTENCE_STARTERS)) + ")"
)

# ------------------------------------------------------------------------------------------------------
# What becomes of a match
# ------------------------------------------------------------------------------------------------------


def _keep(text: str) -> tuple[str, ...]:
    return (text.lower(),)


def _word(text: str) -> tuple[str, ...]:
    text = text.replace(_SOFT_HYPHEN, "")
    return (text.lower(),) if text else ()


def _drop(text: str) -> tuple[str, ...]:
    return ()


def _joined(text: str) -> tuple[str, ...]:
    """One token although it holds spaces; the brackets of an area code are spelt."""
    text = text.replace(" ", _NO_BREAK_SPACE).replace("(", "-lrb-").replace(")", "-rrb-")
    return (text.lower(),)


def _clitic(text: str) -> tuple[str, ...]:
    text = text.replace("&apos;", "'")
    return (text.translate(_QUOTE_SPELLING).lower(),)


def _ampersand(text: str) -> tuple[str, ...]:
    return (re.sub("&amp;", "&", text.lower()),)


def _spell(text: str) -> tuple[str, ...]:
    return (_SPELT[text],)


def _quotes(text: str) -> tuple[str, ...]:
    """A run of typographic quotes is one token, spelt in ASCII; only a spelling in the list is dropped later."""
    return (text.translate(_QUOTE_SPELLING),)


def _face(text: str) -> tuple[str, ...]:
    return (text.replace("(", "-lrb-").replace(")", "-rrb-").lower(),)


# ------------------------------------------------------------------------------------------------------
# The rules, by what a token may begin with. A group (?P<token>...) marks a token that is followed by its context.
# ------------------------------------------------------------------------------------------------------

_Action = Callable[[str], tuple[str, ...]]
_Rule = tuple[re.Pattern[str], _Action]


def _rules(*pairs: tuple[str, _Action]) -> list[_Rule]:
    return [(re.compile(pattern), action) for pattern, action in pairs]


_ANYWHERE = _rules(
    (rf"{_BLANK}+", _drop),
    (rf"{_SITE}(?:/{_IN_PATH}{{1,1000}}{_ADDRESS_END})?", _keep),
    (rf"<?[A-Za-z0-9]{_IN_ADDRESS}{{0,100}}@{_IN_DOMAIN}+(?:\.{_IN_DOMAIN}+)*>?", _keep),
)

_FROM_LETTER = _rules(
    # Contractions: the word is cut where its clitic begins.
    (rf"(?P<token>[A-Za-z]*[A-MO-Za-mo-z])[nN]{_ANY_APOSTROPHE}[tT]", _keep),
    (rf"[nN]{_ANY_APOSTROPHE}[tT]", _clitic),
    (rf"(?P<token>{_WORD}){_CLITIC}", _word),
    (rf"(?={_any_of(_IN_TWO)})(?P<token>...)(?i:not|na|ta|me)", _keep),
    # Initials, acronyms and abbreviations keep their period.
    (rf"(?P<token>[A-Za-z])\.{_BLANK}+(?:(?:{_STARTER}|M[Rr]\.|Ms\.)(?:{_BLANK}|$)|{_TAG})", _keep),
    (r"[A-Za-z](?:\.[A-Za-z])*\.|[A-Za-z](?:\.[A-Za-z])+", _keep),
    (rf"{_ALWAYS}\.", _keep),
    (rf"(?P<token>{_FINAL}\.)(?:-?(?s:.))", _keep),
    (rf"{_FINAL}\.", _keep),
    (rf"(?P<token>{_any_of(abbreviations.BEFORE_DIGIT)}\.){_BLANK}?[{DIGITS}]", _keep),
    # Words, alone and joined.
    (_WORD, _word),
    (_JOINED, _word),
    (rf"(?P<token>{_JOINED}){_CLITIC}", _word),
    (
        rf"(?P<token>(?:{_HYPHENATED}|{_HYPHENATED_DOTTED}|{_JOINED}|{_WORD}|{_ELIDED}{_PLAIN}+)\.)[,;:]",
        _keep,
    ),
    (_HYPHENATED, _word),
    (_HYPHENATED_DOTTED, _keep),
    (_SLASHED, _keep),
    (rf"{_CAPITALS_AND}", _ampersand),
    (rf"(?P<token>{_CAPITALS_AND}\.)[,;:]", _ampersand),
    (r"[A-Z]+\$", _keep),
    (r"[CcFf]#|[Cc]\+\+|[Ss]&[Pp]-500", _keep),
    # Apostrophes that belong to a word.
    (rf"(?:{_PLAIN}+_)*{_ELIDED}{_STEM}", _word),
    (rf"[nN]{_ANY_APOSTROPHE}[{LETTERS}]{{2,}}", _keep),
    (rf"[A-HJ-XZ]{_ANY_APOSTROPHE}[{LETTERS}]{{2,}}", _keep),
    (rf"[{LETTERS}]+[aeiouyAEIOUY]{_ANY_APOSTROPHE}[aeiouA-Z][{LETTERS}]*|[oO]{_ANY_APOSTROPHE}[oO]", _keep),
    (rf"(?i:e{_APOSTROPHE}er|c'mon|s{_APOSTROPHE}mores|cap{_APOSTROPHE}n|nor{_APOSTROPHE}easter)", _keep),
    (rf"(?i:dunkin|somethin|ol|[djl]){_APOSTROPHE}", _keep),
    (rf"(?P<token>[yY]{_APOSTROPHE})[{LETTERS}]", _keep),
    # Files and addresses.
    (_FILE_NAME, _keep),
    (
        rf"(?i:www)\.(?:(?:(?!,){_IN_DOMAIN}){{1,100}}\.){{1,100}}[A-Za-z]{{2,4}}(?:/{_IN_PATH}{{1,1000}}{_ADDRESS_END})?",
        _keep,
    ),
    (rf"(?i:https?)://{_IN_LINK}{{1,1000}}{_ADDRESS_END}", _keep),
)

# An area code in brackets, or a code of a country and of an area; U+00A0 takes the place of the spaces.
_BETWEEN = r"[ \u00a0-]"
_PHONE = (
    rf"(?:\([0-9]{{2,3}}\){_BETWEEN}?|\+{{0,2}}(?:[0-9]{{2,4}}{_BETWEEN})?[0-9]{{2,4}}{_BETWEEN})"
    rf"[0-9]{{3,4}}{_BETWEEN}?[0-9]{{3,5}}"
)

_FROM_DIGIT = _rules(
    (_NUMBER, _keep),
    (_WORD, _word),
    (rf"(?P<token>(?:{_HYPHENATED}|{_HYPHENATED_DOTTED}|{_WORD})\.)[,;:]", _keep),
    (rf"(?P<token>{_WORD}){_CLITIC}", _word),
    (_FILE_NAME, _keep),
    (_HYPHENATED, _word),
    (_HYPHENATED_DOTTED, _keep),
    (_SLASHED, _keep),
    (rf"(?:[{DIGITS}]{{1,4}}[ \u00a0-])?[{DIGITS}]{{1,4}}/[{DIGITS}]{{1,4}}", _joined),
    (r"[0-9]{1,2}[/-][0-9]{1,2}[/-][0-9]{2,4}", _keep),
    (_PHONE, _joined),
)

_FROM_APOSTROPHE = _rules(
    (rf"(?i:{_APOSTROPHE}til+|{_APOSTROPHE}cause|{_APOSTROPHE}em)", _keep),
    (r"(?i:(?P<token>'t)(?:is|was))", _clitic),
    (rf"{_APOSTROPHE}[nN]{_APOSTROPHE}", _keep),
    (rf"(?P<token>'[nN])(?:{_BLANK}|$)", _keep),
    (rf"(?!'){_APOSTROPHE}[nN]", _keep),
    (rf"{_APOSTROPHE}[2-9]0[sS]", _keep),
    (rf"(?P<token>{_APOSTROPHE}[0-9]{{2}})(?:{_BLANK}|$)", _keep),
    (r"(?P<token>'(?i:ll|re|ve))(?:[^A-Za-z]|$)", _clitic),
    (r"[’\x92](?i:ll|re|ve)", _clitic),
    (r"(?P<token>['`])[A-Za-z][A-Za-z]", _drop),
    (rf"{_APOSTROPHE}[sdmSDM]", _clitic),
    (r"['’\x92]|&apos;", _drop),
    (r"&(?i:apos);", _keep),
)

_FROM_SIGN = _rules(
    (rf"[+\-]?{_NUMBER}", _keep),
    (_PHONE, _joined),
    (r"[⁻¹²³⁰⁴-⁹]+|[₀-₉]+|-{5,}|\*+|#+|_+|@+|[!?]{2,}|<<|>>", _keep),
    (r"\\[*]", _keep),
    (rf"[{_QUOTES}`]{{2}}", _quotes),
    (r"''|``|\.{3,5}|\.(?: \.){2,4}|-{2,4}|[!?]|[.,:;\-\"`“”«»‹›…—–―]", _drop),
    (rf"#{_LETTER}+|@[A-Za-z_][A-Za-z0-9_]*", _keep),
    (_FACE, _face),
    (r"[\-^x=~<>']_[\-^x=~<>']|\([\-^x=~<>']_?[\-^x=~<>']\)", _face),
    (_TAG, _joined),
    (r"&(?i:amp);", lambda text: ("&",)),
    (r"&(?i:lt);", lambda text: ("<",)),
    (r"&(?i:gt);", lambda text: (">",)),
    (r"&(?i:nbsp);|&(?i:[mn]dash);|&quot;", _drop),
    (r"&(?i:quot);|&#[0-9]+;", _keep),
    (r"(?i:-[lr][rsc]b-)", _keep),
    (rf"[{_SPELT_CLASS}]", _spell),
    (rf"[!-/:-@\[-`{{-~{SYMBOLS}]", _keep),
)


@lru_cache(maxsize=4096)
def _rules_for(character: str) -> list[_Rule]:
    """The rules that a token may follow that begins with this character."""
    rules = []
    if re.match(f"[{LETTERS}{MARKS}{_SOFT_HYPHEN}&]", character):
        rules += _FROM_LETTER
    if re.match(f"[{DIGITS}.,:]", character):
        rules += _FROM_DIGIT
    if re.match(r"['’\x92&`‘]", character):
        rules += _FROM_APOSTROPHE
    if not rules or character in "&.,:'`’‘\x92":
        rules = rules + _FROM_SIGN
    return rules + _ANYWHERE


def _next(text: str, place: int) -> tuple[tuple[str, ...], int]:
    """What stands at a place, by maximal munch: its tokens, and where the rest begins. White space and unknown signs
    leave none."""
    longest = token_end = place
    chosen: _Action = _drop
    for pattern, action in _rules_for(text[place]):
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
_NOT_WHOLE = abbreviations.ALL | _IN_TWO


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


_OPEN_END = re.compile(rf"(?:\A|[^A-Za-z0-9])(?:[A-Za-z]|{_any_of(abbreviations.BEFORE_DIGIT)})\.\s*\Z")
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
