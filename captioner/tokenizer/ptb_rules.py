"""The rules of the lexer in `captioner.tokenizer.ptb`: patterns of tokens, and what becomes of each."""

import re
from collections.abc import Callable
from functools import lru_cache

from captioner.tokenizer import abbreviations
from captioner.tokenizer.characters import DIGITS, LETTERS, MARKS, SYMBOLS

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


def any_of(words: frozenset[str]) -> str:
    return "(?i:" + "|".join(sorted(words, key=lambda word: (-len(word), word))) + ")"


def _capitalised(words: frozenset[str]) -> str:
    return "(?:" + "|".join(f"{word[0].upper()}(?i:{word[1:]})" for word in sorted(words)) + ")"


def _not_upper(words: frozenset[str]) -> str:
    return "(?:" + "|".join(f"[{word[0]}{word[0].upper()}]{word[1:]}" for word in sorted(words)) + ")"


IN_TWO = frozenset(["cannot", "gonna", "gotta", "lemme", "gimme", "wanna"])  # after three letters
_ALWAYS = f"(?:{any_of(abbreviations.ALWAYS)}|{_not_upper(abbreviations.ALWAYS_UNLESS_UPPER)})"
_FINAL = (
    f"(?:{any_of(abbreviations.FINAL)}|{_capitalised(abbreviations.FINAL_IF_CAPITALISED)}"
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


def drop(text: str) -> tuple[str, ...]:
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

Action = Callable[[str], tuple[str, ...]]
_Rule = tuple[re.Pattern[str], Action]


def _rules(*pairs: tuple[str, Action]) -> list[_Rule]:
    return [(re.compile(pattern), action) for pattern, action in pairs]


_ANYWHERE = _rules(
    (rf"{_BLANK}+", drop),
    (rf"{_SITE}(?:/{_IN_PATH}{{1,1000}}{_ADDRESS_END})?", _keep),
    (rf"<?[A-Za-z0-9]{_IN_ADDRESS}{{0,100}}@{_IN_DOMAIN}+(?:\.{_IN_DOMAIN}+)*>?", _keep),
)

_FROM_LETTER = _rules(
    # Contractions: the word is cut where its clitic begins.
    (rf"(?P<token>[A-Za-z]*[A-MO-Za-mo-z])[nN]{_ANY_APOSTROPHE}[tT]", _keep),
    (rf"[nN]{_ANY_APOSTROPHE}[tT]", _clitic),
    (rf"(?P<token>{_WORD}){_CLITIC}", _word),
    (rf"(?={any_of(IN_TWO)})(?P<token>...)(?i:not|na|ta|me)", _keep),
    # Initials, acronyms and abbreviations keep their period.
    (rf"(?P<token>[A-Za-z])\.{_BLANK}+(?:(?:{_STARTER}|M[Rr]\.|Ms\.)(?:{_BLANK}|$)|{_TAG})", _keep),
    (r"[A-Za-z](?:\.[A-Za-z])*\.|[A-Za-z](?:\.[A-Za-z])+", _keep),
    (rf"{_ALWAYS}\.", _keep),
    (rf"(?P<token>{_FINAL}\.)(?:-?(?s:.))", _keep),
    (rf"{_FINAL}\.", _keep),
    (rf"(?P<token>{any_of(abbreviations.BEFORE_DIGIT)}\.){_BLANK}?[{DIGITS}]", _keep),
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
    (r"(?P<token>['`])[A-Za-z][A-Za-z]", drop),
    (rf"{_APOSTROPHE}[sdmSDM]", _clitic),
    (r"['’\x92]|&apos;", drop),
    (r"&(?i:apos);", _keep),
)

_FROM_SIGN = _rules(
    (rf"[+\-]?{_NUMBER}", _keep),
    (_PHONE, _joined),
    (r"[⁻¹²³⁰⁴-⁹]+|[₀-₉]+|-{5,}|\*+|#+|_+|@+|[!?]{2,}|<<|>>", _keep),
    (r"\\[*]", _keep),
    (rf"[{_QUOTES}`]{{2}}", _quotes),
    (r"''|``|\.{3,5}|\.(?: \.){2,4}|-{2,4}|[!?]|[.,:;\-\"`“”«»‹›…—–―]", drop),
    (rf"#{_LETTER}+|@[A-Za-z_][A-Za-z0-9_]*", _keep),
    (_FACE, _face),
    (r"[\-^x=~<>']_[\-^x=~<>']|\([\-^x=~<>']_?[\-^x=~<>']\)", _face),
    (_TAG, _joined),
    (r"&(?i:amp);", lambda text: ("&",)),
    (r"&(?i:lt);", lambda text: ("<",)),
    (r"&(?i:gt);", lambda text: (">",)),
    (r"&(?i:nbsp);|&(?i:[mn]dash);|&quot;", drop),
    (r"&(?i:quot);|&#[0-9]+;", _keep),
    (r"(?i:-[lr][rsc]b-)", _keep),
    (rf"[{_SPELT_CLASS}]", _spell),
    (rf"[!-/:-@\[-`{{-~{SYMBOLS}]", _keep),
)


@lru_cache(maxsize=4096)
def rules_for(character: str) -> list[_Rule]:
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
