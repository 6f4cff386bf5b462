"""The rules of the tokeniser, each on made captions, and what must hold for any text."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captioner.tokenizer.ptb import PUNCTUATION, _alone, _next, tokenize, tokenize_all

RULES = {
    "lower case, punctuation dropped": ("A dog, a cat; and -- a BIRD!", "a dog a cat and a bird"),
    "brackets are kept, spelt": ("A dog (left) [sic]", "a dog -lrb- left -rrb- -lsb- sic -rsb-"),
    "runs of marks are kept": ("What?! No!!", "what ?! no !!"),
    "hyphens stay inside words": ("a close-up of a twenty-five- sign", "a close-up of a twenty-five sign"),
    "clitics are cut off": ("The dog's it's they'll DON'T", "the dog 's it 's they 'll do n't"),
    "words in two": ("We cannot, gonna 'tis", "we can not gon na 't is"),
    "but not inside longer ones": ("cannot-do gonna's", "cannot-do gonna 's"),
    "apostrophes of words": ("O'Brien ma'am ol' 'em '70s", "o'brien ma'am ol' 'em '70s"),
    "quotes are dropped": ("\"stop\" 'go' “left” «right» ``up''", "stop go left right up"),
    "abbreviations": ("St. Mr. Ave. etc. Jr. vol. lb.", "st. mr. ave. etc. jr. vol lb"),
    "some only with a capital": ("Wash. wash. La. la.", "wash. wash la. la"),
    "some only before a digit": ("No. 5, no. five", "no. 5 no five"),
    "acronyms": ("the U.S. at 5 p.m., Ph.D. t.v", "the u.s. at 5 p.m. ph.d. t.v"),
    "initials": ("Mr. T. on S. Main", "mr. t. on s. main"),
    "initials before a sentence": ("on 5th S. The dog", "on 5th s the dog"),
    "no space after the period": ("street.A dog!cat 10.dog", "street.a dog!cat 10 dog"),
    "numbers": ("1,000 3.14 10:30am 50% $5 +5 -5", "1,000 3.14 10:30 am 50 % $ 5 +5 -5"),
    "one token with a no-break space": ("22 3/4 inches, 555 123 4567", "22\u00a03/4 inches 555\u00a0123\u00a04567"),
    "signs of money": ("£5 €5 5¢ US$5 us$5", "# 5 $ 5 5 cents us$ 5 us $ 5"),
    "slashes": ("and/or w/ black / white a/b/c/d", "and/or w / black / white a/b/c / d"),
    "tags": ("<unk> a < b </s> <3", "<unk> a < b </s> < 3"),
    "entities": ("AT&amp;T a &lt; b &hellip;", "at&t a < b & hellip"),
    "addresses": ("me@here.org http://a.org/b. flickr.com/photos", "me@here.org http://a.org/b flickr.com/photos"),
    "faces": ("dog :) ;-) ^_^ :)a", "dog :-rrb- ;--rrb- ^_^ -rrb- a"),
    "emoji leave nothing": ("a dog \U0001f436 runs\U0001f600fast", "a dog runs fast"),
    "older symbols stay": ("I ♥ dogs ★", "i ♥ dogs ★"),
    "letters of all scripts": ("Собака café 狗在跑。", "собака café 狗在跑 。"),
    "soft hyphens join": ("foot\u00adball", "football"),
    "separators of lines are space": ("a\rb\x0bc\x0cd\u2028e\u2029f\x85g", "a b c d e f g"),
    "lone surrogates are space": ("a\ud800b \udfff", "a b"),
    "opening quotes and accents as apostrophes": ("o‘clock O`Brien ma‛am isn‘t", "o‘clock o`brien ma‛am is n`t"),
    "but not n't after another n": ("mann't inn't", "mann t inn t"),
    "'t before is and was": ("'twas22 'tisn't ’tis", "'t was22 't is n't tis"),
    "initials before a tag or a title": ("on S. <b> and T. Mr. X, V. Mrs. Y", "on s <b> and t mr. x v. mrs. y"),
    "typographic clitics from the left": ("’reflective 'reflective ’vespas", "'re flective reflective 've spas"),
    "initials on both sides of a hyphen": ("the u.s.-u.k.-border Corp.-i.e.-x", "the u.s.-u.k.-border corp.-i.e.-x"),
    "sites have no capitals": ("O.—dogs.com •Dogs.COM •dogs.COM", "o. —dogs.com • dogs.com •dogs.com"),
    "paths": ("www.my-dogs.com/x{y, flickr.com/ab{", "www.my-dogs.com/x{y flickr.com/ab -lcb-"),
    "soft hyphens are letters": ("mother-in\u00adlaw a.\u00adb good.\u00ad", "mother-inlaw a.b good."),
    "marks not beside underscores": ("cafe\u0301_bar a_b 5\u0301", "cafe\u0301 _ bar a_b 5 \u0301"),
    "digits of all scripts": ("１/２ 5 １/２ 1/27-11", "１/２ 5\u00a0１/２ 1/27-11"),
    "superscripts together": ("10⁻³ ²₂ H₂₂", "10 ⁻³ ² ₂ h ₂₂"),
    "nothing": ("", ""),
    "only punctuation": (" . , -- ... ", ""),
}


@pytest.mark.parametrize("rule", RULES)
def test_rule(rule: str) -> None:
    caption, words = RULES[rule]
    assert tokenize(caption) == ([] if not words else words.split(" "))


def test_next_line_matters_only_when_asked_for() -> None:
    captions = ["on 12th Ave S.", "A dog runs.", "on 12th Ave S.", "two dogs", "exhibit no.", "5 dogs"]
    assert [words[-1] for words in tokenize_all(captions)] == ["s", "runs", "s.", "dogs", "no.", "dogs"]
    assert [tokenize(caption)[-1] for caption in captions] == ["s.", "runs", "s.", "dogs", "no", "dogs"]


PIECES = [
    "a",
    "St.",
    "no.",
    "5",
    "o'",
    "'s",
    "n't",
    "-",
    "/",
    ".",
    ",",
    "U.S.",
    "&",
    "<b>",
    "“",
    "café",
    "狗",
    " ",
    "@",
]


@given(st.text())
def test_any_text_has_words_without_plain_space_or_dropped_marks(text: str) -> None:
    for word in tokenize(text):
        assert word
        assert " " not in word
        assert "\n" not in word
        assert word not in PUNCTUATION


@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_surrounding_space_changes_nothing(text: str) -> None:
    assert tokenize(f"  {text} ") == tokenize(text)


def by_rules_alone(caption: str) -> list[str]:
    """The words without the short cut for chunks that no neighbour can change."""
    words: list[str] = []
    place = 0
    while place < len(caption):
        found, place = _next(f"{caption}\n", place)
        words += found
    return words


@given(
    st.lists(
        st.sampled_from(
            [
                "dog",
                "Jr.",
                "it's",
                "close-up,",
                "cannot",
                "Wash.",
                "GONNA!",
                "dog.",
                "ab-st.",
                "Multi-A.",
                "a",
                "wow!",
                "-",
                "ol-x.",
            ]
        ),
        max_size=8,
    )
)
def test_chunks_known_alone_are_what_the_whole_caption_gives(chunks: list[str]) -> None:
    assert all(_alone(chunk) is not None for chunk in chunks)
    assert tokenize(" ".join(chunks)) == by_rules_alone(" ".join(chunks))


@given(st.lists(st.sampled_from([*PIECES, "dog ", "it's ", ". ", "A ", "Mr. "]), max_size=12).map("".join))
def test_the_short_cut_changes_nothing(caption: str) -> None:
    assert tokenize(caption) == by_rules_alone(caption)


@given(st.text(st.characters(codec="ascii", exclude_characters="\n\r\x0b\x0c\x1c\x1d\x1e"), max_size=40))
def test_the_short_cut_changes_nothing_of_ascii(caption: str) -> None:
    assert tokenize(caption) == by_rules_alone(caption)


@given(
    st.lists(st.sampled_from(["A", "dog's", "don't", "close-up", "(left)", "Mr.", "U.S.", "cannot", "12:30", "café"]))
)
def test_words_are_their_own_words(pieces: list[str]) -> None:
    """Tokenising twice changes nothing where no word has lost its neighbour."""
    words = tokenize(" ".join(pieces))
    assert tokenize(" ".join(words)) == words


@given(
    st.lists(
        st.sampled_from([*PIECES, "www.", "http://", "a@", "no.", "&apos;", "♥", "\u0301"]), min_size=1, max_size=6
    )
)
@settings(max_examples=30)
def test_no_pattern_makes_a_long_chunk_slow(pieces: list[str]) -> None:
    """8,000 characters of any repeated pattern; a rule that looks again from every character takes minutes."""
    pattern = "".join(pieces) or "a"
    start = time.process_time()
    tokenize((pattern * 8000)[:8000])
    assert time.process_time() - start < 3


@pytest.mark.parametrize(
    ("piece", "words"),
    [
        ("a dog, ", 2),
        ("a, ", 1),
        ("<a ", 2),
        ("it's ", 2),
        ("a( ", 2),
        ("x/ ", 2),
        ("5 ", 1),
        ("1 1/2 ", 1),
        ("N. ", 1),
    ],
)
def test_captions_of_10_000_words(piece: str, words: int) -> None:
    assert len(tokenize(piece * 10_000)) == words * 10_000


@pytest.mark.parametrize("piece", ["a,", "<a", "a-", "a.5,", "'x", "&lt", "(5)", "a_,", "http:/"])
def test_a_caption_without_space_is_cut_into_what_it_holds(piece: str) -> None:
    """Rules that look far ahead must not look again from every sign: 5,000 pieces in one chunk."""
    letters = "".join(tokenize(piece * 5_000)).replace("-lrb-", "").replace("-rrb-", "")
    kept = [sign for sign in piece if sign.isalnum()]
    assert [letters.count(sign) for sign in kept] == [5_000 * piece.count(sign) for sign in kept]
