"""Words that hold a sentence together and name nothing in a picture: English function words."""

FUNCTION_WORDS: frozenset[str] = frozenset(
    word
    for line in (
        # determiners and pronouns; no numbers and no "many", which a picture shows
        "a an the this that these those his her its their my your our him them he she it they we you who whom whose",
        "which what each other another one himself herself itself themselves there some any both either neither",
        # prepositions and particles, but for words of place ("behind", "under", "between", "across", ...)
        "of to in on at by for from with without into onto off out up as than like about during while upon",
        # conjunctions and adverbs of degree
        "and or but nor so if because when where then also too very just",
        # auxiliaries
        "is are was were be been being am has have had having do does did can could may might will would should",
        # what the tokeniser splits off
        "'s 's n't 're 've 'll",
    )
    for word in line.split()
)
"""In lower case, as the tokeniser gives them. Words of place and relation that a map may show are not among them."""


def is_function_word(word: str) -> bool:
    """Whether a word is one, in any case; signs without a letter or digit are too."""
    return word.lower() in FUNCTION_WORDS or not any(character.isalnum() for character in word)
