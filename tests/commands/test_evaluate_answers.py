"""``captioner evaluate --questions``: official files and JSON lines, baselines, intervals."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from captioner.cli import main
from captioner.data.questions import AskedQuestion, named_as, read_questions


def _official(folder: Path) -> list[str]:
    questions = [{"question_id": i, "image_id": i // 2, "question": "how many dogs"} for i in range(4)]
    people = [["two"] * 10, ["2"] * 5 + ["3"] * 5, ["red"] * 10, ["red"] * 2 + ["blue"] * 8]
    annotations = [
        {
            "question_id": i,
            "image_id": i // 2,
            "answer_type": "number" if i < 2 else "other",
            "multiple_choice_answer": max(answers, key=answers.count),
            "answers": [{"answer": answer, "answer_id": n} for n, answer in enumerate(answers)],
        }
        for i, answers in enumerate(people)
    ]
    results = [{"question_id": i, "answer": answer} for i, answer in enumerate(("two", "two", "blue", "blue"))]
    (folder / "q.json").write_text(json.dumps({"questions": questions}))
    (folder / "a.json").write_text(json.dumps({"annotations": annotations}))
    (folder / "r.json").write_text(json.dumps(results))
    return ["evaluate", "--questions", str(folder / "q.json"), "--annotations", str(folder / "a.json")]


def test_official_files_by_type_with_intervals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [*_official(tmp_path), "--results", str(tmp_path / "r.json"), "--json"]
    assert main([*command, "--bootstrap", "50"]) == 0
    table = json.loads(capsys.readouterr().out)["types"]
    assert list(table) == ["all", "number", "other"]
    assert table["number"]["VQA accuracy"]["answers"]["value"] == 100
    assert table["other"]["VQA accuracy"]["answers"]["value"] == 50
    assert table["all"]["VQA accuracy"]["answers"] == {"value": 75, "interval": None}, "few pictures: no interval"
    prior = table["other"]["exact"]["most frequent of the type"]["value"]
    assert prior == 50, "'red' is the first of two equally frequent answers"
    assert main(command[:-1]) == 0
    assert "VQA accuracy" in capsys.readouterr().out


def test_intervals_resample_pictures_and_not_questions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"question_id": 10 * i + k, "image_id": i, "question": "what is it?", "answer": "dog" if i < 6 else "cat"}
        for i in range(12)
        for k in range(5)
    ]
    questions = _lines(tmp_path / "q.jsonl", *rows)
    results = _lines(tmp_path / "r.jsonl", *({"question_id": row["question_id"], "answer": "dog"} for row in rows))
    assert (
        main(
            [
                "evaluate",
                "--questions",
                questions,
                "--annotations",
                questions,
                "--results",
                results,
                "--json",
                "--bootstrap",
                "400",
            ]
        )
        == 0
    )
    low, high = json.loads(capsys.readouterr().out)["types"]["all"]["exact"]["answers"]["interval"]
    assert 18 < low < 32 and 68 < high < 82, "60 questions of 12 pictures vary as 12 draws do"


def test_what_does_not_fit_together_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = _official(tmp_path)
    assert main(command) == 2
    assert "--results" in capsys.readouterr().err
    (tmp_path / "r.json").write_text(json.dumps([{"question_id": 0, "answer": "two"}]))
    assert main([*command, "--results", str(tmp_path / "r.json")]) == 2
    assert "3 of 4" in capsys.readouterr().err
    assert main([*command, "--results", str(tmp_path / "r.json"), "--partial", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["questions"] == 1
    of_captions = (("--compare", str(tmp_path / "r.json")), ("--beam", "0"), ("--rerank", "0"), ("--rerank", "1"))
    for option, value in of_captions:
        assert main([*command, "--results", str(tmp_path / "r.json"), option, value]) == 2
        assert f"{option} is of captions" in capsys.readouterr().err


def test_a_missing_vqa_accuracy_is_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [*_official(tmp_path), "--results", str(tmp_path / "r.json"), "--json"]
    annotations = json.loads((tmp_path / "a.json").read_text())
    del annotations["annotations"][2]["answers"][1:]
    (tmp_path / "a.json").write_text(json.dumps(annotations))
    assert main(command) == 0
    output = capsys.readouterr()
    assert "VQA accuracy" not in json.loads(output.out)["types"]["all"]
    assert "1 of 4" in output.err and "first is 2" in output.err


def _lines(file: Path, *rows: dict[str, object]) -> str:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def test_answers_are_found_by_the_id_that_their_questions_have(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [{"image": "a.jpg", "question": "what?", "answer": text, "id": i} for i, text in enumerate(("dog", "cat"))]
    questions = _lines(tmp_path / "q.jsonl", *asked)
    results = _lines(tmp_path / "r.jsonl", {"id": 1, "answer": "cat"}, {"id": 0, "answer": "dog"})
    command = ["evaluate", "--questions", questions, "--annotations", questions, "--results", results, "--json"]
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)["types"]["all"]["exact"]["answers"]["value"] == 100


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"id": 0}, "id 0"),  # as the line before
        ({"answers": [{"answer": "dog"}]}, "'answers'"),
        ({"answers": [None]}, "'answers'"),
        ({"answer": ["dog"]}, "'answer'"),
        ({"id": 1.5}, "'id'"),
    ],
)
def test_what_is_no_id_and_no_answer_is_refused(
    changed: dict[str, object], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first: dict[str, object] = {"image": "a.jpg", "question": "what?", "answer": "dog", "id": 0}
    questions = _lines(tmp_path / "q.jsonl", first, {**first, "id": 1, **changed})
    annotations = _lines(tmp_path / "a.jsonl", first, {**first, "id": 1})
    results = _lines(tmp_path / "r.jsonl", {"id": 0, "answer": "dog"}, {"id": 1, "answer": "dog"})
    assert main(["evaluate", "--questions", questions, "--annotations", annotations, "--results", results]) == 2
    assert named in capsys.readouterr().err


@pytest.mark.parametrize(
    "option", [["--meteor"], ["--spice"], ["--references", "2"], ["--map-heads", "1"], ["--bootstrap", "1" + "0" * 12]]
)
def test_options_that_change_nothing_here_are_refused(
    option: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*_official(tmp_path), "--results", str(tmp_path / "r.json"), *option]) == 2
    assert option[0] in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--bootstrap", "--seed"])
def test_numbers_of_resampling_out_of_range_are_named(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*_official(tmp_path), "--results", str(tmp_path / "r.json"), option, "-3"]
    assert main(command) == 2
    assert "-3" in capsys.readouterr().err


def test_the_right_one_of_several_answers_is_the_most_frequent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    questions = tmp_path / "q.jsonl"
    questions.write_text(json.dumps({"image": "a.jpg", "question": "what?", "answers": ["cat", "dog", "dog"]}) + "\n")
    (tmp_path / "r.json").write_text(json.dumps([{"question_id": 0, "answer": "dog"}]))
    command = ["evaluate", "--questions", str(questions), "--annotations", str(questions), "--json"]
    assert main([*command, "--results", str(tmp_path / "r.json")]) == 0
    exact = json.loads(capsys.readouterr().out)["types"]["all"]["exact"]
    assert {name: side["value"] for name, side in exact.items()} == {"answers": 100, "most frequent of the type": 100}
    (tmp_path / "r.json").write_text(json.dumps([{"question_id": 0, "answer": ""}]))
    assert main([*command, "--results", str(tmp_path / "r.json")]) == 0
    assert json.loads(capsys.readouterr().out)["types"]["all"]["exact"]["answers"]["value"] == 0


def test_wrong_kinds_of_values_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [*_official(tmp_path), "--results", str(tmp_path / "r.json")]
    annotation = {"question_id": [1], "image_id": 3, "answers": [{"answer": "x"}]}
    (tmp_path / "a.json").write_text(json.dumps({"annotations": [annotation]}))
    assert main(command) == 2
    assert "question_id" in capsys.readouterr().err
    for row in ("a house", [], {**annotation, "answers": ["a house"]}, {**annotation, "answers": "a house"}):
        (tmp_path / "a.json").write_text(json.dumps({"annotations": [row]}))
        assert main(command) == 2
        error = capsys.readouterr().err
        assert ("a house" in error or "[]" in error) and '"answer"' in error  # the value, and the remedy
    for key in ([1], {"a": 1}, 1.5, True):
        (tmp_path / "of.json").write_text(json.dumps([{"question_id": key, "answer": "two"}]))
        assert main([*_official(tmp_path), "--results", str(tmp_path / "of.json")]) == 2
        assert "question_id" in capsys.readouterr().err
    lines = tmp_path / "lines.jsonl"
    lines.write_text(json.dumps({"image": "a.jpg", "question": "what?", "answers": "dog"}) + "\n")
    assert main(["evaluate", "--questions", str(lines), "--annotations", str(lines), *command[-2:]]) == 2
    assert "'dog'" in capsys.readouterr().err


def test_a_model_is_scored_beside_its_blind_self(
    tiny_answers: Path, make_picture: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = []
    for i in range(3):
        make_picture(f"photos/{i}.png", seed=i)
        rows += [{"image": f"{i}.png", "question": "the dog", "answer": "dog", "split": "test"}]
    rows += [{"image": "0.png", "question": "the cat", "answer": "yes", "split": "dev"}]
    questions, saved = tmp_path / "q.jsonl", tmp_path / "r.json"
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["evaluate", "--questions", str(questions), "--annotations", str(questions), "--split", "test"]
    command += ["--images", str(tmp_path / "photos"), "--model", str(tiny_answers), "--save-results", str(saved)]
    assert main([*command, "--json"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert table["questions"] == 3
    assert set(table["types"]["all"]["exact"]) == {
        "answers",
        "without the picture",
        "shuffled pictures",
        "most frequent of the type",
    }
    assert [row["question_id"] for row in json.loads(saved.read_text())] == [0, 1, 2]
    assert main([*command[:-2], "--json", "--no-baselines"]) == 0
    assert set(json.loads(capsys.readouterr().out)["types"]["all"]["exact"]) == {"answers"}
    picture = tmp_path / "photos" / "0.png"
    before = picture.read_bytes()
    assert main([*command[:-1], str(picture)]) == 2
    assert picture.read_bytes() == before
    assert main([*command[:-1], str(tmp_path / "nowhere" / "r.json"), "--model", "none"]) == 2
    assert "no folder" in capsys.readouterr().err, "found before the model is opened"
    (tmp_path / "photos" / "1.png").write_bytes(b"no picture")
    assert main(command) == 2
    assert [row["question_id"] for row in json.loads(saved.read_text())] == [0, 2], "what was answered is not lost"


def test_answers_of_other_questions_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [*_official(tmp_path), "--results", str(tmp_path / "r.json"), "--json"]
    rows = json.loads((tmp_path / "r.json").read_text())
    (tmp_path / "r.json").write_text(json.dumps([*rows, {"question_id": 77, "answer": "two"}]))
    assert main(command) == 2
    assert "77" in (message := capsys.readouterr().err) and "--partial" in message
    assert main([*command, "--partial"]) == 0
    assert "partial" not in capsys.readouterr().err, "all questions are scored"
    (tmp_path / "r.json").write_text(json.dumps(rows[:3]))
    assert main([*command, "--partial"]) == 0
    assert "3 of 4" in capsys.readouterr().err
    (tmp_path / "r.json").write_text(json.dumps([{"question_id": "x", "answer": "two"}]))
    assert main(command) == 2
    assert "'x'" in (message := capsys.readouterr().err) and "such as 0" in message


def test_ids_that_are_texts_on_one_side_and_numbers_on_the_other_are_understood(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*_official(tmp_path), "--results", str(tmp_path / "r.json"), "--json"]
    rows = json.loads((tmp_path / "r.json").read_text())
    texts = [{**row, "question_id": str(row["question_id"])} for row in rows]
    (tmp_path / "r.json").write_text(json.dumps(texts))
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)["types"]["all"]["VQA accuracy"]["answers"]["value"] == 75
    (tmp_path / "r.json").write_text(json.dumps([*rows[:3], texts[3]]))
    assert main(command) == 2
    assert "'3'" in capsys.readouterr().err, "two types in one file"


def test_annotations_of_another_picture_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [*_official(tmp_path), "--results", str(tmp_path / "r.json")]
    rows = json.loads((tmp_path / "a.json").read_text())["annotations"]
    for name, value, named in (
        ("image_id", 9, "picture 9"),
        ("image_id", [1], "'image_id'"),
        ("question_id", True, "True"),
    ):
        (tmp_path / "a.json").write_text(json.dumps({"annotations": [rows[0], {**rows[1], name: value}, *rows[2:]]}))
        assert main(command) == 2
        assert named in capsys.readouterr().err


def test_splits_of_questions_are_those_of_captions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first: dict[str, object] = {"image": "a.jpg", "question": "what?", "answer": "dog"}
    rows = [{**first, "split": split} for split in ("val", "test")]
    questions = _lines(tmp_path / "q.jsonl", *rows)
    results = _lines(tmp_path / "r.jsonl", {"question_id": 0, "answer": "dog"}, {"question_id": 1, "answer": "cat"})
    command = ["evaluate", "--questions", questions, "--annotations", questions, "--results", results, "--json"]
    for split in ("dev", "validation"):
        assert main([*command, "--split", split]) == 0
        table = json.loads(capsys.readouterr().out)
        assert table["questions"] == 1 and table["types"]["all"]["exact"]["answers"]["value"] == 100
    assert main([*command, "--split", "train"]) == 2
    assert "dev, test" in capsys.readouterr().err
    assert main([*command, "--split", "dve"]) == 2
    assert "'dve'" in (message := capsys.readouterr().err) and "dev, test" in message
    assert main([*command, "--split", " "]) == 2
    assert "--split" in capsys.readouterr().err
    _lines(tmp_path / "q.jsonl", {**rows[0], "split": "testdev"}, {**rows[0], "split": "val"})
    assert [one.split for one in read_questions(tmp_path / "q.jsonl")] == ["testdev", "dev"]
    _lines(tmp_path / "q.jsonl", {**rows[0], "split": 3})
    assert main(command) == 2
    assert "line 1" in (message := capsys.readouterr().err) and "3" in message


def test_lines_without_ids_are_answers_in_order_and_to_no_other_ids(tmp_path: Path) -> None:
    asked = {str(i): AskedQuestion(image="a.jpg", question="what?", id=str(i)) for i in (1, 2, 3)}
    assert named_as({0: "a", 1: "b", 2: "c"}, asked) == {0: "a", 1: "b", 2: "c"}
    assert named_as({3: "c", 1: "a"}, asked) == {"3": "c", "1": "a"}


def test_questions_that_could_not_be_answered_are_no_wrong_answers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*_official(tmp_path), "--results", str(tmp_path / "r.jsonl"), "--json"]
    answers = ({"question_id": i, "answer": answer} for i, answer in enumerate(("two", "two", "blue")))
    _lines(tmp_path / "r.jsonl", *answers, {"question_id": 3, "error": "its picture does not open"})
    assert main(command) == 2
    assert "1 of 4 questions have no answer; the first is 3" in capsys.readouterr().err
    assert main([*command, "--partial"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["types"]["other"]["VQA accuracy"]["answers"]["value"] == 0  # that of "blue" for "red"
    assert "3 of 4 questions scored" in said.err
