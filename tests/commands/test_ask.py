"""The command ``captioner ask``: one picture, many questions, resuming, and what is wrong."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from captioner.cli import main

MakePicture = Callable[..., Path]


def test_questions_about_a_picture(
    tiny_answers: Path, make_picture: MakePicture, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture, model = str(make_picture()), ["--model", str(tiny_answers)]
    assert main(["ask", picture, "what is the dog doing?", *model]) == 0
    one = capsys.readouterr().out.strip()
    assert main(["ask", picture, "what is the dog doing?", "how many http://cat", "--n-best", "2", *model]) == 0
    output = capsys.readouterr()
    lines = output.out.splitlines()
    assert lines[0] == f"what is the dog doing?\t{one}" and lines[1].startswith("\t") and len(lines) == 4
    assert "http" in output.err, "the unknown word is named"
    files = ["--figure", str(tmp_path / "a.png"), "--page", str(tmp_path / "a.html"), "--json"]
    assert main(["ask", picture, "the dog", "the cat", *files, *model]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["question"] for row in rows] == ["the dog", "the cat"]
    assert (tmp_path / "a.png").exists() and (tmp_path / "a.html").exists()


def test_a_figure_or_page_that_cannot_be_is_refused_before_any_work(
    make_picture: MakePicture, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    missing = str(tmp_path / "no-model.safetensors")  # would be named if it were opened first
    for option, name in (
        *(("--figure", name) for name in ("a.txt", "folder", "file/a.png")),
        *(("--page", name) for name in ("a.png", "folder", "file/a.html")),
    ):
        words = ["ask", str(make_picture()), "the dog", option, str(tmp_path / name), "--model", missing]
        assert main(words) == 2
        assert name in (error := capsys.readouterr().err) and "no-model" not in error


def test_many_questions_have_a_line_each_and_a_stopped_run_goes_on(
    tiny_answers: Path, make_picture: MakePicture, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(2):
        make_picture(f"photos/{i}.png", seed=i)
    asked = [
        {"image": "0.png", "question": "the dog"},
        {"image": "0.png", "question": "how many", "question_id": 7},
        {"image": "gone.png", "question": "the cat"},
        {"image": "1.png", "question": "zzz"},
        {"image": "1.png", "question": "the \ud800 dog"},  # half a surrogate pair
        {"image": "1.png", "question": "what color is the cat"},
    ]
    questions, output = tmp_path / "q.jsonl", tmp_path / "a.jsonl"
    questions.write_text("".join(json.dumps(row) + "\n" for row in asked))
    command = ["ask", "--questions", str(questions), "--images", str(tmp_path / "photos"), "--output", str(output)]
    command += ["--model", str(tiny_answers)]
    assert main(command) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].endswith("3 answers; 3 failed") and lines[0].count("gone.png") == 1 and "1.png: " in lines[1]
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [(row["image"], row["question"]) for row in rows] == [(row["image"], row["question"]) for row in asked]
    assert rows[1]["question_id"] == 7 and 0 < rows[0]["probability"] <= 1 and rows[5]["answer"]
    assert "gone.png" in rows[2]["error"] and "zzz" in rows[3]["error"]
    whole = output.read_bytes()
    output.write_bytes(whole[: len(whole) * 2 // 3])  # as a kill leaves it
    assert main(command) == 1
    assert output.read_bytes() == whole
    # What failed is asked again: the picture is there now. A line feed that an editor dropped does not matter.
    make_picture("photos/gone.png", seed=2)
    output.write_bytes(b"".join(whole.splitlines(keepends=True)[:4])[:-1])
    assert main(command) == 1  # "zzz" is no word still
    lines, before = output.read_bytes().splitlines(), whole.splitlines()
    assert json.loads(lines[2])["answer"] and (*lines[:2], *lines[3:]) == (*before[:2], *before[3:])
    whole = output.read_bytes()
    assert main(command) == 1
    assert output.read_bytes() == whole and not list(tmp_path.glob(".captioner*"))
    capsys.readouterr()
    questions.write_text(json.dumps({"image": "1.png", "question": "other"}) + "\n")
    assert main(command) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert output.read_bytes() == whole
    assert main([*command, "--overwrite"]) == 2  # no word of it is known
    assert "other" in json.loads(output.read_text())["error"]


def test_a_disk_that_is_full_for_a_moment_leaves_one_line_a_question(
    tiny_answers: Path,
    make_picture: MakePicture,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_picture("photos/0.png")
    asked = [{"image": "0.png", "question": question} for question in ("the dog", "how many", "the cat")]
    questions, output = tmp_path / "q.jsonl", tmp_path / "a.jsonl"
    questions.write_text("".join(json.dumps(row) + "\n" for row in asked))
    command = ["ask", "--questions", str(questions), "--images", str(tmp_path / "photos"), "--output", str(output)]
    command += ["--model", str(tiny_answers)]
    write, calls = os.write, []

    def full(descriptor: int, data: bytes) -> int:
        calls.append(data)
        if len(calls) == 2:  # a part of the second line fits
            write(descriptor, bytes(data)[:9])
            raise OSError(28, "No space left on device")
        return write(descriptor, data)

    with monkeypatch.context() as patch:
        patch.setattr("captioner.data.writers.answers.os.write", full)
        assert main(command) == 2
    assert f"--output {output}: cannot be written (No space left" in capsys.readouterr().err
    assert len(output.read_text().splitlines()) == 1 and len(calls) == 2
    assert main(command) == 0
    assert [json.loads(line)["question"] for line in output.read_text().splitlines()] == [a["question"] for a in asked]


def test_answers_of_another_run_and_files_of_others_are_kept(
    tiny_answers: Path, make_picture: MakePicture, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = make_picture("photos/0.png")
    questions, output = tmp_path / "q.jsonl", tmp_path / "a.jsonl"
    asked = [{"image": "0.png", "question": "the dog"}, {"image": "0.png", "question": "the cat"}]
    questions.write_text("".join(json.dumps(row) + "\n" for row in asked))
    command = ["ask", "--questions", str(questions), "--images", str(picture.parent), "--model", str(tiny_answers)]
    command += ["--output", str(output)]
    assert main([*command, "--n-best", "99"]) == 2
    assert not output.exists(), "a run that is refused leaves nothing"
    assert main(command) == 0
    whole = output.read_bytes()
    # An editor leaves the last line without a line feed; it is a whole line all the same.
    mine = whole.splitlines()[0].replace(b'"answer": "', b'"answer": "my own ')
    output.write_bytes(mine)
    assert main(command) == 0
    assert output.read_bytes() == mine + b"\n" + whole.splitlines(keepends=True)[1]
    before = output.read_bytes()
    other = tmp_path / "other.safetensors"
    other.write_bytes(tiny_answers.read_bytes())
    capsys.readouterr()
    for more, named in (
        (["--n-best", "2"], "n-best 1"),  # other options
        (["--overwrite", "--n-best", "99"], "99"),  # found out before the answers are removed
        (["--overwrite", "--device", "cuda:77"], "cuda:77"),
        (["--output", str(tmp_path / "photo.jsonl"), "--overwrite"], "line 1"),  # a link to a picture
        (["--output", str(tmp_path / "mixed.jsonl"), "--overwrite"], "line 2"),  # begun by us, and gone on with
        (["--output", str(tmp_path / "more.jsonl")], "line 1"),  # questions, which have no answers
        (["--output", str(tmp_path / "text.jsonl")], "line 1"),  # no line feed, and no line of ours
        (["--output", str(tmp_path / "deep.jsonl")], "line 1"),
    ):
        (tmp_path / "photo.jsonl").unlink(missing_ok=True)
        (tmp_path / "photo.jsonl").symlink_to(picture)
        (tmp_path / "more.jsonl").write_bytes(questions.read_bytes())
        (tmp_path / "mixed.jsonl").write_bytes(whole.splitlines(keepends=True)[0] + b'{"years": "of work"}\n')
        (tmp_path / "text.jsonl").write_text("years of work")
        (tmp_path / "deep.jsonl").write_text("[" * 100_000)
        kept = [picture.read_bytes(), *(file.read_bytes() for file in sorted(tmp_path.glob("*.jsonl")))]
        assert main([*command, *more]) == 2
        assert named in capsys.readouterr().err
        assert kept == [picture.read_bytes(), *(file.read_bytes() for file in sorted(tmp_path.glob("*.jsonl")))]
    assert output.read_bytes() == before
    from captioner import checkpoint

    renamed = checkpoint.load_answering(tiny_answers)
    renamed.about["seed"] = 2
    checkpoint.save(other, renamed)
    assert main([*command, "--model", str(other)]) == 2
    assert "model tiny-answers, not other" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0
    assert output.read_bytes() == whole


def test_questions_with_one_id_and_none_at_all_are_refused(
    make_picture: MakePicture, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"image": make_picture().name, "question": what, "question_id": 7} for what in ("the dog", "the cat")]
    for name, text, said in (
        ("q.jsonl", "".join(json.dumps(row) + "\n" for row in rows), "q.jsonl, line 1"),
        ("q.json", json.dumps({"questions": rows}), "q.json, question 1"),
        ("none.json", '{"questions": []}', "none.json"),
    ):
        (tmp_path / name).write_text(text)
        assert main(["ask", "--questions", str(tmp_path / name), "--output", str(tmp_path / "a.jsonl")]) == 2
        assert said in capsys.readouterr().err and not (tmp_path / "a.jsonl").exists()


def test_the_official_questions_file_is_read(tiny_answers: Path, make_picture: MakePicture, tmp_path: Path) -> None:
    make_picture("photos/COCO_val2014_000000000042.png")
    questions, output = tmp_path / "q.json", tmp_path / "a.jsonl"
    asked = [{"image_id": 42, "question": "How many dogs?", "question_id": 421}]
    questions.write_text(json.dumps({"questions": asked}))
    command = ["ask", "--questions", str(questions), "--images", str(tmp_path / "photos"), "--output", str(output)]
    assert main([*command, "--model", str(tiny_answers)]) == 0
    row = json.loads(output.read_text())
    assert row["image"] == 42 and row["question_id"] == 421 and row["answer"]


def test_a_number_means_one_picture(
    tiny_answers: Path, make_picture: MakePicture, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_picture("photos/7.png")
    for name in ("7.json", "._7.png", ".7.png"):  # a sidecar, and what a Mac leaves
        (tmp_path / "photos" / name).write_text("{}")
    questions, output = tmp_path / "q.json", tmp_path / "a.jsonl"
    questions.write_text(json.dumps({"questions": [{"image_id": 7, "question": "the dog", "question_id": 1}]}))
    command = ["ask", "--questions", str(questions), "--images", str(tmp_path / "photos"), "--output", str(output)]
    command += ["--model", str(tiny_answers)]
    assert main(command) == 0
    whole = output.read_bytes()
    make_picture("photos/right_7.png", seed=1)
    assert main([*command, "--overwrite"]) == 2
    assert "7.png" in (message := capsys.readouterr().err) and "right_7.png" in message
    assert output.read_bytes() == whole


def test_a_run_goes_on_with_the_same_pictures_and_ids_alone(
    tiny_answers: Path, make_picture: MakePicture, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("photos", "other"):
        make_picture(f"all/{folder}/0.png")
    questions, output = tmp_path / "all" / "q.jsonl", tmp_path / "all" / "a.jsonl"
    questions.write_text(json.dumps({"image": "0.png", "question": "the dog", "question_id": 1}) + "\n")

    def command(folder: Path, images: str) -> list[str]:
        files = ["--questions", str(folder / "q.jsonl"), "--output", str(folder / "a.jsonl")]
        return ["ask", *files, "--images", str(folder / images), "--model", str(tiny_answers)]

    assert main(command(output.parent, "photos")) == 0
    whole = output.read_bytes()
    capsys.readouterr()
    assert main(command(output.parent, "other")) == 2
    assert "photos" in (message := capsys.readouterr().err) and "--overwrite" in message
    assert main(command(output.parent.rename(tmp_path / "moved"), "photos")) == 0, "all of it was moved"
    moved = tmp_path / "moved"
    assert (moved / "a.jsonl").read_bytes() == whole
    (moved / "q.jsonl").write_text(json.dumps({"image": "0.png", "question": "the dog", "question_id": 2}) + "\n")
    assert main(command(moved, "photos")) == 2
    assert "line 1" in capsys.readouterr().err


def test_no_remedy_names_an_option_of_another_command_as_ones_own(
    tiny_answers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bomb = tmp_path / "bomb.png"
    Image.new("1", (20_000, 20_000)).save(bomb)
    assert main(["ask", str(bomb), "the dog", "--model", str(tiny_answers)]) == 2
    assert "captioner caption --max-pixels" in capsys.readouterr().err
    command = ["export", "m.safetensors", "--output", str(tmp_path / "out.safetensors"), "--data", str(tmp_path)]
    assert main([*command, "--decoding", '{"n_best": 5, "width": 3}']) == 2
    message = capsys.readouterr().err
    assert "n_best 5" in message and "--decoding" in message and "--beam" not in message


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "--questions"),
        (["photo.png"], "photo.png"),
        (["photo.png", "the dog", "--output", "a.jsonl"], "--questions"),
        (["photo.png", "the dog"], "photo.png"),  # which is not there
        (["photo.png", "the dog", "--cells"], "--cells"),
        (["--questions", "q.jsonl", "--output", "a.jsonl", "--cells"], "--cells"),
        (["photo.png", "the dog", "--model", "default"], "'default'"),
        (["--questions", "q.jsonl"], "--output"),
        (["--questions", "q.jsonl", "--output", "a.csv", "--images", "."], "q.jsonl"),
    ],
)
def test_wrong_usage_is_one_line(
    arguments: list[str],
    named: str,
    tiny_answers: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    model = [] if "--model" in arguments else ["--model", str(tiny_answers)]
    assert main(["ask", *arguments, *model]) == 2
    error = capsys.readouterr().err
    assert named in error and error.count("\n") == 1
