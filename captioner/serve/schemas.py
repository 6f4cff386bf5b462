"""The schemas of requests and answers. They check the options of a request, and /docs shows them."""

import re
from typing import Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, field_validator

from captioner.serve.problems import SCHEMA, Problem, describe

_INTEGER = re.compile(r"[+-]?[0-9]{1,9}")  # Pydantic would take "1_0" and "3.0" too
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")

WIDEST_BEAM = 10
LONGEST_CAPTION = 50


def _check_digits(value: object) -> object:
    if isinstance(value, str) and not _INTEGER.fullmatch(value):
        raise ValueError("input should be an integer in digits")
    return value


def _check_figures(value: object) -> object:
    if isinstance(value, str) and not _NUMBER.fullmatch(value):
        raise ValueError("input should be a number in digits")
    return value


class Options(BaseModel):
    """The options of a request. Those left out have the defaults of the model."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = Field(
        None, description="a name that /v1/models lists; left out, or 'default', for the server's own"
    )
    beam: int | None = Field(None, ge=1, le=WIDEST_BEAM, description="width of the beam; 1 is greedy")
    n_best: int | None = Field(None, ge=1, le=WIDEST_BEAM, description="captions of each picture")
    length_penalty: float | None = Field(None, ge=0, le=5, description="score = sum(log p) / tokens ** length_penalty")
    rerank: float | None = Field(
        None, ge=0, le=100, description="weight of the model's reranker, where it has one; 0 for the beam's own order"
    )
    max_length: int | None = Field(
        None,
        ge=1,
        le=LONGEST_CAPTION,
        validation_alias=AliasChoices("max_length", "max_words"),
        description="most words",
    )
    min_length: int | None = Field(
        None,
        ge=0,
        le=LONGEST_CAPTION,
        validation_alias=AliasChoices("min_length", "min_words"),
        description="fewest words",
    )
    no_repeat_ngram: int | None = Field(None, ge=0, le=LONGEST_CAPTION, description="no so many words in a row twice")
    begin: str | None = Field(None, description="how each caption begins; the model reads these words first")
    forbid_words: str | None = Field(
        None, description="words and phrases that no caption holds, with commas between them"
    )
    require_words: str | None = Field(None, description="words and phrases that each caption holds, 8 at most")
    diverse_groups: int | None = Field(None, ge=1, le=WIDEST_BEAM, description="groups that avoid one another's words")
    diversity: float | None = Field(None, ge=0, le=100, description="how much they avoid them; 0.5 if left out")
    picture_gain: bool = Field(False, description="add to each word how much likelier the picture makes it, in nats")
    text: str | None = Field(
        None,
        description="a caption that the model reads in place of making one: the probability and the map of each word",
    )
    format: Literal["json", "html", "png"] = Field(
        "json", description="json; html, a page that holds all it shows; png, the figure of one picture"
    )
    viewer: bool = Field(False, description="add what the page's viewer needs: the picture, small, and packed maps")

    _in_digits = field_validator(
        "beam", "n_best", "max_length", "min_length", "no_repeat_ngram", "diverse_groups", mode="before"
    )(_check_digits)
    _in_figures = field_validator("length_penalty", "diversity", "rerank", mode="before")(_check_figures)

    def of_search(self) -> dict[str, Any]:
        """The options of `Captioner.options` that were given."""
        given = self.model_dump(exclude_none=True, exclude={"model", "format", "viewer", "picture_gain", "text"})
        if "beam" in given:
            given["width"] = given.pop("beam")
        return given

    @classmethod
    def of_form(cls, fields: dict[str, str]) -> "Options":
        """The options among a form's fields.

        Raises:
            Problem: 422, an option that is not known or out of its range.
        """
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            detail = "; ".join(describe({**each}) for each in error.errors(include_url=False))
            raise Problem(422, "invalid-options", detail) from None


LONGEST_QUESTION = 500
MOST_ANSWERS = 10
MOST_DRAWN = 10  # questions of a figure, which takes a second or two for each


class Question(BaseModel):
    """The fields of a question about a picture."""

    model_config = ConfigDict(extra="forbid")

    question: str = Field(
        max_length=LONGEST_QUESTION, description="one question; or several, each on a line of its own"
    )
    n_best: int = Field(1, ge=1, le=MOST_ANSWERS, description="answers to each question, the likeliest first")
    format: Literal["json", "html", "png"] = Field("json", description="json; html, a page; png, the figure")
    viewer: bool = Field(False, description="add what the page's viewer needs")

    _in_digits = field_validator("n_best", mode="before")(_check_digits)

    @property
    def questions(self) -> list[str]:
        """The questions, one a line."""
        return [line.strip() for line in self.question.splitlines() if line.strip()]

    @classmethod
    def of_form(cls, fields: dict[str, str]) -> "Question":
        """The question among a form's fields.

        Raises:
            Problem: 422, no question, or an option that is not known or out of its range.
        """
        try:
            asked = cls.model_validate(fields)
        except ValidationError as error:
            detail = "; ".join(describe({**each}) for each in error.errors(include_url=False))
            raise Problem(422, "invalid-options", detail) from None
        if not asked.questions:
            raise Problem(422, "invalid-options", "question: it is empty")
        if asked.format == "png" and len(asked.questions) > MOST_DRAWN:
            detail = f"format: a figure has at most {MOST_DRAWN} questions, not {len(asked.questions)}: ask for html"
            raise Problem(422, "invalid-options", detail)
        return asked


class WordLine(BaseModel):
    """A word, its probability given the words before it, and where the model looked."""

    word: str
    probability: float
    off_grid: float = Field(0.0, description="the share of the attention that went to no cell; left out where it is 0")
    given: bool = Field(False, description="true for a word of `begin`; else left out")
    unknown: bool = Field(False, description="true for a word of `text` that the model does not know; else left out")
    gain: float | None = Field(
        None, description="with `picture_gain`: log-probability less that without the picture, in nats"
    )
    map: list[list[float]] = Field(description="grid rows of cells; with off_grid they sum to 1")


class OtherCaption(BaseModel):
    """Another caption of the picture."""

    caption: str
    score: float
    finished: bool = Field(description="false where the length limit cut it off")
    words: list[WordLine]


class CaptionLine(BaseModel):
    """A caption, as a line of `captioner caption --json`; or the picture's name and what is wrong with it."""

    image: str = Field(description="the file's name")
    caption: str
    score: float
    finished: bool
    model: str
    explain: Literal["attention", "gradient", "occlusion"] = Field(description="what the maps are made of")
    grid: tuple[int, int] = Field(description="(h, w) cells")
    size: tuple[int, int] = Field(description="(width, height) of the upright picture")
    words: list[WordLine]
    alternatives: list[OtherCaption]
    viewer: dict[str, Any] | None = Field(None, description="only where it was asked for")


class FailedPicture(BaseModel):
    """A picture that could not be captioned."""

    image: str
    problem: dict[str, Any] = Field(description="a problem object, RFC 9457")


class Captions(BaseModel):
    """One entry for each picture, in the order of the request."""

    captions: list[CaptionLine | FailedPicture]


class QuestionWordLine(BaseModel):
    """A word of a question, and how much it mattered."""

    word: str
    weight: float
    known: bool = Field(True, description="false for a word that the model does not know; left out where it is true")


class OtherAnswerLine(BaseModel):
    """Another answer to the question."""

    answer: str
    probability: float


class AnswerLine(BaseModel):
    """An answer, as a line of `captioner ask --json`."""

    image: str = Field(description="the file's name")
    question: str
    answer: str
    probability: float
    model: str
    grid: tuple[int, int] = Field(description="(h, w) cells")
    size: tuple[int, int] = Field(description="(width, height) of the upright picture")
    map: list[list[float]] = Field(description="grid rows of cells, which sum to 1")
    words: list[QuestionWordLine]
    alternatives: list[OtherAnswerLine]
    viewer: dict[str, Any] | None = Field(None, description="only where it was asked for")


class Answers(BaseModel):
    """One entry for each question, in the order of the request."""

    answers: list[AnswerLine]


class ModelLine(BaseModel):
    """A model that the server offers."""

    name: str
    default: bool
    encoder: str | None = None
    decoder: str | None = None
    words: int | None = Field(None, description="size of the vocabulary")
    decoding: dict[str, Any] = Field({}, description="its own options of the search")
    test: dict[str, Any] = Field({}, description="the scores that it was measured at")


class UploadLimits(BaseModel):
    """How much a request may send."""

    max_upload: int = Field(description="bytes of a picture")
    max_pixels: int = Field(description="pixels of a picture")
    max_files: int = Field(description="pictures of a request")


class Offer(BaseModel):
    """What the server can do; its default model comes first."""

    version: str
    models: list[ModelLine]
    limits: UploadLimits


def form_schema() -> dict[str, Any]:
    """The body of POST /v1/captions, for OpenAPI."""
    schema = Options.model_json_schema()
    pictures = {"type": "array", "items": {"type": "string", "format": "binary"}, "description": "the pictures"}
    properties = {"file": pictures}
    for name, property_ in schema["properties"].items():
        kinds = [kind for kind in property_.pop("anyOf", []) if kind != {"type": "null"}]
        properties[name] = {**(kinds[0] if kinds else {}), **property_}
        if properties[name].get("default", 0) is None:
            del properties[name]["default"]
    content = {"schema": {"type": "object", "required": ["file"], "properties": properties}}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": content}}}


def question_schema() -> dict[str, Any]:
    """The body of POST /v1/answers, for OpenAPI."""
    schema = Question.model_json_schema()
    picture = {"type": "string", "format": "binary", "description": "the picture"}
    content = {
        "schema": {
            "type": "object",
            "required": ["file", "question"],
            "properties": {"file": picture, **schema["properties"]},
        }
    }
    return {"requestBody": {"required": True, "content": {"multipart/form-data": content}}}


def problem_responses(*statuses: tuple[int, str]) -> dict[int | str, dict[str, Any]]:
    """The errors of an operation, for OpenAPI."""
    content = {"application/problem+json": {"schema": SCHEMA}}
    return {status: {"description": text, "content": content} for status, text in statuses}
