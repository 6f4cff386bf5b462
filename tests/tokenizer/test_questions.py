"""The words of questions are those of the PTB tokeniser, with its rules or without them."""

import gzip
import json
from pathlib import Path

import pytest

from captioner.tokenizer.ptb import tokenize
from captioner.tokenizer.questions import question_words


def of_tokeniser(question: str) -> list[str]:
    return [word for word in tokenize(question) if any(map(str.isalnum, word))]


@pytest.mark.parametrize(
    "question",
    ["What is the dog doing?", "how many cats ?", "what's up", "Can you cannot?", "is it 5pm?", "T-shirt color", "",
     "?!", "gonna go", "a  b", "É là?", "what is 3.5 m", "Mr. X is who", "dogs & cats", "so what! ", "2 or 3"],
)  # fmt: skip
def test_plain_words_need_no_rules_and_give_the_same(question: str) -> None:
    assert question_words(question) == of_tokeniser(question)


@pytest.mark.shared
def test_real_questions_give_the_same(shared: Path) -> None:
    with gzip.open(shared / "data" / "vqa" / "questions.jsonl.gz", "rt", encoding="utf-8") as file:
        questions = sorted({json.loads(line)["question"] for line in file})[::7]
    assert [question_words(one) for one in questions] == [of_tokeniser(one) for one in questions]
