"""The HTTP API as its users see it: captions, options, models, pages, health, and what a browser is told."""

import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from PIL import Image

from captioner.backends.graph_files import graph_folder
from captioner.errors import OptionError
from captioner.pipeline import load
from captioner.serve import schemas
from captioner.serve.files import EXAMPLES

from .conftest import PLAIN, Running, Serve, problem_of

MakePicture = Callable[..., Path]


def test_a_picture_gives_what_the_command_line_gives(server: Running, tiny_model: Path, picture: bytes) -> None:
    response = server.post(("photo.png", picture), beam=3, n_best=2, max_length=5, length_penalty=0.5)
    assert response.status_code == 200
    [line] = response.json()["captions"]
    model = load(tiny_model)
    options = model.options(width=3, n_best=2, max_length=5, length_penalty=0.5)
    expected = model.caption(picture, options=options).as_dict()
    assert line["image"] == "photo.png"
    assert [line[key] for key in ("caption", "grid", "size", "model")] == [
        expected[key] for key in ("caption", "grid", "size", "model")
    ]
    assert line["score"] == pytest.approx(expected["score"], abs=1e-5)
    assert [word["word"] for word in line["words"]] == [word["word"] for word in expected["words"]]
    maps = [[word["map"] for word in caption["words"]] for caption in (line, expected)]
    np.testing.assert_allclose(*maps, rtol=1e-3)
    assert [other["caption"] for other in line["alternatives"]] == [o["caption"] for o in expected["alternatives"]]
    assert "viewer" not in line
    described = schemas.Captions.model_validate(response.json()).captions[0]
    assert isinstance(described, schemas.CaptionLine)
    assert line.keys() == schemas.CaptionLine.model_fields.keys() - {"viewer"}, "what /docs says is what comes"
    assert line["words"][0].keys() == schemas.WordLine.model_fields.keys() - {"off_grid", "given", "unknown", "gain"}
    assert line["alternatives"][0].keys() == schemas.OtherCaption.model_fields.keys()


def test_several_pictures_keep_their_order_and_fail_alone(server: Running, make_picture: MakePicture) -> None:
    pictures = [(f"{i}.png", make_picture(f"{i}.png", seed=i, size=(20 + i, 20)).read_bytes()) for i in range(3)]
    pictures.insert(1, ("notes.txt", b"buy milk"))
    response = server.post(*pictures)
    assert response.status_code == 200
    lines = response.json()["captions"]
    assert [line["image"] for line in lines] == ["0.png", "notes.txt", "1.png", "2.png"]
    assert [line.get("size") for line in lines] == [[20, 20], None, [21, 20], [22, 20]]
    assert lines[1]["problem"]["status"] == 422
    assert lines[1]["problem"]["detail"].startswith("notes.txt: not an image")


def test_where_no_picture_is_one_the_answer_is_a_problem(server: Running, bomb: bytes) -> None:
    problem = problem_of(server.post(("a.txt", b"text"), ("b.png", bomb)), 422)
    assert problem["detail"] == "none of 2 pictures could be captioned"
    assert [line["problem"]["status"] for line in problem["captions"]] == [422, 413]


def test_the_viewer_gets_its_picture_upright_and_small(server: Running) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.new("RGB", (300, 200), "orange").save(buffer, "JPEG", exif=exif)
    [line] = server.post(("turned.jpg", buffer.getvalue()), viewer="true").json()["captions"]
    assert line["size"] == line["viewer"]["size"] == [200, 300]
    assert line["viewer"]["image"].startswith("data:image/jpeg;base64,")
    assert line["viewer"]["captions"][0]["text"] == line["caption"]


def test_page_and_figure_can_be_downloaded(server: Running, picture: bytes) -> None:
    page = server.post(("a&b.png", picture), ("c.png", picture), format="html")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["content-disposition"] == 'attachment; filename="words.html"'
    assert page.text.startswith("<!DOCTYPE html>")
    assert page.text.count("data:image/jpeg;base64,") == 2
    figure = server.post(("a.png", picture), format="png")
    assert figure.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(figure.content)).width > 200
    assert (
        "one picture, not 2"
        in problem_of(server.post(("a.png", picture), ("b.png", picture), format="png"), 422)["detail"]
    )
    problem_of(server.post(("a.png", b"text"), format="png"), 422)


BAD_OPTIONS: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({"beam": "0"}, ("beam", "'0'")),
    ({"beam": "11"}, ("beam", "10", "'11'")),
    ({"beam": "wide"}, ("beam", "'wide'")),
    ({"beam": "2.5"}, ("beam",)),
    ({"beam": ""}, ("beam", "''")),
    ({"beam": "1e0"}, ("beam", "'1e0'")),
    ({"beam": "0x3"}, ("beam", "'0x3'")),
    ({"beam": "1_0"}, ("beam", "'1_0'")),
    ({"length_penalty": "0_1"}, ("length_penalty", "'0_1'")),
    ({"diversity": "1_0"}, ("diversity", "'1_0'")),
    ({"beam": "\u0663"}, ("beam", "'\u0663'")),  # an Arabic 3
    ({"beam": "\uff13"}, ("beam", "'\uff13'")),  # a full-width 3
    ({"beam": "9" * 900}, ("beam", "'999")),
    ({"beam": "-" + "9" * 30}, ("beam", "'-999")),
    ({"beam": "nan"}, ("beam", "'nan'")),
    ({"beam": "3\x00"}, ("beam",)),
    ({"length_penalty": "-1"}, ("length_penalty", "'-1'")),
    ({"length_penalty": "nan"}, ("length_penalty", "'nan'")),
    ({"length_penalty": "inf"}, ("length_penalty", "'inf'")),
    ({"length_penalty": "1e999"}, ("length_penalty", "'1e999'")),
    ({"length_penalty": ""}, ("length_penalty", "''")),
    ({"length_penalty": "0,5"}, ("length_penalty", "'0,5'")),
    ({"max_length": "51"}, ("max_length", "50", "'51'")),
    ({"max_length": "0"}, ("max_length", "'0'")),
    ({"min_length": "-1"}, ("min_length", "'-1'")),
    ({"no_repeat_ngram": "1e3"}, ("no_repeat_ngram", "'1e3'")),
    ({"max_length": "2", "min_length": "3"}, ("min_length", "3", "max_length", "2")),
    ({"beam": "2", "n_best": "3"}, ("n_best", "3", "2", "beam")),
    ({"format": "pdf"}, ("format", "'pdf'")),
    ({"format": "PNG"}, ("format", "'PNG'")),
    ({"format": ""}, ("format", "''")),
    ({"viewer": "perhaps"}, ("viewer", "'perhaps'")),
    ({"viewer": ""}, ("viewer", "''")),
    ({"model": "gpt"}, ("model", "'gpt'", "tiny")),
    ({"model": ""}, ("model", "''", "tiny")),
    ({"model": "../../etc/passwd"}, ("model", "tiny")),
    ({"bean": "3"}, ("bean",)),
    ({"beam": ["1", "2"]}, ("beam", "twice")),
    ({"beam": ["3", "3"]}, ("beam", "twice")),
]


@pytest.mark.parametrize(("fields", "values"), BAD_OPTIONS, ids=[json.dumps(fields)[:40] for fields, _ in BAD_OPTIONS])
def test_options_out_of_their_range(
    server: Running, picture: bytes, fields: dict[str, Any], values: tuple[str, ...]
) -> None:
    with server.client() as client:
        response = client.post("/v1/captions", files={"file": ("a.png", picture)}, data=fields)
    detail = problem_of(response, 422)["detail"]
    assert [value for value in values if value not in detail] == [], detail
    assert len(detail) < 400


def test_options_in_the_address_are_not_passed_over(server: Running, picture: bytes) -> None:
    with server.client() as client:
        response = client.post("/v1/captions?beam=5", files={"file": ("a.png", picture)})
    assert problem_of(response, 422)["detail"].startswith("beam: options are fields of the form")


def test_an_option_that_the_model_cannot_follow(
    serve: Serve, make_checkpoint: Callable[..., Any], tmp_path: Path, picture: bytes
) -> None:
    """The transformer of the tests places 32 tokens; a caption of 40 is the client's mistake, not a fault."""
    from captioner import checkpoint

    checkpoint.save(tmp_path / "short.safetensors", make_checkpoint("transformer"))
    with serve(tmp_path / "short.safetensors") as running:
        response = running.post(("a.png", picture), max_length=40, min_length=40)
        detail = problem_of(response, 422)["detail"]
        assert "max_length" in detail
        assert "31" in detail
        assert running.post(("a.png", picture)).status_code == 200


def test_models_are_listed_and_loaded_when_asked_for(
    serve: Serve, either_model: Path, tiny_model: Path, picture: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"no model")
    shipped = {"other": either_model, "broken": broken}
    monkeypatch.setattr("captioner.shipped.shipped_models", lambda: shipped)
    with serve(tiny_model) as running:
        with running.client() as client:
            offer = client.get("/v1/models").json()
        assert [(model["name"], model["default"]) for model in offer["models"]] == [
            ("tiny", True),
            ("other", False),
            ("broken", False),
        ]
        assert offer["models"][1]["decoder"] == either_model.stem.removeprefix("tiny-")
        assert offer["models"][0]["decoding"]["width"] == 2
        assert offer["limits"]["max_upload"] == 20_000_000
        [line] = running.post(("a.png", picture), model="other").json()["captions"]
        assert line["caption"] == load(either_model).caption(picture).text
        assert "'broken' is damaged" in problem_of(running.post(("a.png", picture), model="broken"), 500)["detail"]
        for own in ({}, {"model": "default"}):
            assert running.post(("a.png", picture), **own).json()["captions"][0]["model"] == "tiny"


def test_a_model_that_does_not_run_here_is_no_fault(
    serve: Serve, tiny_model: Path, either_model: Path, picture: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("captioner.shipped.shipped_models", lambda: {"other": either_model})

    def refused(*_: object, **__: object) -> None:
        raise OptionError("the backend cannot run this model")

    with serve(tiny_model) as running:
        monkeypatch.setattr("captioner.pipeline.load", refused)
        monkeypatch.setattr("captioner.asking.load_answering", refused)
        found = problem_of(running.post(("a.png", picture), model="other"), 501)
        assert "'other': the backend cannot run" in found["detail"]
        with running.client() as client:
            answer = client.post("/v1/answers", files={"file": ("a.png", picture)}, data={"question": "what is it?"})
        assert "cannot answer questions: the backend" in problem_of(answer, 501)["detail"]


def test_health(server: Running) -> None:
    with server.client() as client:
        assert client.get("/health/live").json() == {"status": "live"}
        assert client.get("/health/ready").json() == {"status": "ready", "model": "tiny"}
        server.service.ready = False
        try:
            assert problem_of(client.get("/health/ready"), 503)["detail"] == "the model is being warmed up"
        finally:
            server.service.ready = True


def test_the_description_of_the_api_names_what_there_is(server: Running) -> None:
    with server.client() as client:
        described = client.get("/openapi.json").json()
        assert set(described["paths"]) == {
            "/v1/answers",
            "/v1/captions",
            "/v1/models",
            "/health/live",
            "/health/ready",
        }
        post = described["paths"]["/v1/captions"]["post"]
        body = post["requestBody"]["content"]["multipart/form-data"]["schema"]
        assert body["properties"]["file"]["items"] == {"type": "string", "format": "binary"}
        assert body["properties"]["beam"]["maximum"] == 10
        assert {"200", "400", "408", "413", "415", "422", "503"} <= set(post["responses"])
        assert "application/problem+json" in post["responses"]["503"]["content"]


def test_the_files_of_the_page_and_no_others(server: Running) -> None:
    with server.client() as client:
        page = client.get("/")
        assert page.status_code == 200
        own = ("app.js", "pictures.js", "pictures.css", "viewer.js", "viewer.css", "docs.js", "icon.svg")
        for name in (*own, "swagger-ui-bundle.js"):
            file = client.get(f"/static/{name}")
            assert file.status_code == 200
            assert file.content
            again = client.get(f"/static/{name}", headers={"If-None-Match": file.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")
        for name in (
            "command.py",
            "../command.py",
            "..%2Fcommand.py",
            "%2Fetc%2Fpasswd",
            "....//command.py",
            "a%00b",
            "",
        ):
            problem_of(client.get(f"/static/{name}"), 404)
        for number in range(EXAMPLES):
            assert Image.open(io.BytesIO(client.get(f"/examples/{number}.png").content)).size == (480, 360)
            assert f'src="/examples/{number}.png"' in page.text
        assert f"/examples/{EXAMPLES}.png" not in page.text
        for number in (EXAMPLES, -1, "x"):
            problem_of(client.get(f"/examples/{number}.png"), 422)


def test_what_browsers_are_told(server: Running, picture: bytes) -> None:
    with server.client() as client:
        for path in ("/", "/docs", "/static/app.js", "/nothing", "/health/live"):
            response = client.get(path)
            headers = response.headers
            policy = headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "script-src 'self';" in policy  # no inline script, none from elsewhere
            assert "frame-ancestors 'none'" in policy
            assert ("'unsafe-inline'" in policy) == (path == "/docs")  # for Swagger UI's inline styles
            assert headers["x-content-type-options"] == "nosniff"
            assert "access-control-allow-origin" not in headers
            assert "server" not in headers
            if headers["content-type"].startswith("text/html"):
                assert "<script>" not in response.text
                assert "style=" not in response.text
                assert "//" not in response.text.replace("http://www.w3.org/2000/svg", "")
        assert client.get("/health/live").headers["cache-control"] == "no-store"


def test_every_error_is_a_problem(server: Running, picture: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    with server.client() as client:
        assert "/nothing" in problem_of(client.get("/nothing"), 404)["detail"]
        wrong_method = client.get("/v1/captions")
        assert "does not take GET" in problem_of(wrong_method, 405)["detail"]
        assert wrong_method.headers["allow"] == "POST"
        problem_of(client.delete("/"), 405)

        def fails(*arguments: Any, **options: Any) -> Any:
            raise RuntimeError("a secret of the server")

        with monkeypatch.context() as patch:
            patch.setattr("captioner.serve.models.Models.describe", fails)
            response = client.get("/v1/models")
            assert "secret" not in response.text
            problem_of(response, 500)
        with monkeypatch.context() as patch:
            patch.setattr("captioner.pipeline.Captioner.caption_prepared", fails)
            response = server.post(("a.png", picture))
            assert "secret" not in response.text
            problem_of(response, 500)
        assert server.post(("a.png", picture)).status_code == 200


def test_requests_for_other_names_and_from_other_pages_are_refused(server: Running, picture: bytes) -> None:
    """A page elsewhere whose name points here (DNS rebinding), or which sends a form here, gets nothing."""
    port = server.address[1]
    files = {"file": ("a.png", picture)}
    with server.client() as client:
        for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "127.0.0.2"):
            problem_of(client.get("/v1/models", headers={"Host": host}), 421)
        for host in (f"localhost:{port}", "LOCALHOST", f"127.0.0.1:{port}", "[::1]:80"):
            assert client.get("/v1/models", headers={"Host": host}).status_code == 200
        others = ("http://127.0.0.1:9999", "http://localhost:3000", "http://[::1]:3000", "http://localhost")
        for origin in ("https://evil.example", "null", f"http://127.0.0.1.evil.example:{port}", "http://", *others):
            problem_of(client.post("/v1/captions", files=files, headers={"Origin": origin}), 403)
        problem_of(client.post("/v1/captions", files=files, headers={"Sec-Fetch-Site": "cross-site"}), 403)
        own = {"Origin": server.url, "Sec-Fetch-Site": "same-origin"}
        assert client.post("/v1/captions", files=files, headers=own).status_code == 200


def test_further_names_can_be_allowed(serve: Serve, tiny_model: Path, picture: bytes) -> None:
    with serve(tiny_model, hosts=("captions.example",)) as running, running.client() as client:
        headers = {"Host": "captions.example", "Origin": "https://captions.example"}
        files = {"file": ("a.png", picture)}
        assert client.post("/v1/captions", files=files, headers=headers).status_code == 200
        own = {"Host": f"127.0.0.1:{running.address[1]}"}  # a proxy may ask under the server's own name
        by_proxy = own | {"Origin": "https://captions.example:8443"}
        assert client.post("/v1/captions", files=files, headers=by_proxy).status_code == 200
        problem_of(client.post("/v1/captions", files=files, headers=own | {"Origin": "https://localhost:1"}), 403)
        problem_of(client.get("/", headers={"Host": "other.example"}), 421)


HOSTILE_NAMES = {
    "<img src=x onerror=alert(1)>.png": "<img src=x onerror=alert(1)>.png",
    "../../etc/passwd": "passwd",
    "C:\\Users\\me\\photo.png": "photo.png",
    "a\u202egnp.exe": "a\ufffdgnp.exe",
    "line\tbreak.png": "line\ufffdbreak.png",
    "x" * 3000 + ".png": "x" * 200,
    "猫 and ünïcode.png": "猫 and ünïcode.png",
    "</script><script>alert(1)</script>.png": "script>.png",
    "{{7*7}}%s%n.png": "{{7*7}}%s%n.png",
}


@pytest.mark.parametrize(("name", "shown"), HOSTILE_NAMES.items(), ids=[name[:20] for name in HOSTILE_NAMES])
def test_hostile_file_names_are_only_ever_shown(server: Running, picture: bytes, name: str, shown: str) -> None:
    boundary = b"edge"
    body = b'--edge\r\nContent-Disposition: form-data; name="file"; filename="' + name.replace("\\", "\\\\").encode()
    body += b'"\r\n\r\n' + picture + b"\r\n--edge--\r\n"
    kind = {"Content-Type": f"multipart/form-data; boundary={boundary.decode()}"}
    with server.client() as client:
        response = client.post("/v1/captions", content=body, headers=kind)
        assert response.json()["captions"][0]["image"] == shown
        bad = client.post("/v1/captions", content=body.replace(picture, b"no picture"), headers=kind)
        assert problem_of(bad, 422)["detail"].startswith(f"{shown}: not an image")


def test_words_are_steered(server: Running, tiny_model: Path, picture: bytes) -> None:
    fields = {"begin": "the cat", "forbid_words": "a, red", "require_words": "blue", "max_words": "6"}
    (line,) = server.post(("a.png", picture), **fields, picture_gain="true").json()["captions"]
    model = load(tiny_model)
    options = model.options(begin="the cat", forbid_words="a, red", require_words="blue", max_words=6)
    (expected,) = model.with_gains([model.caption(picture, options=options)])
    assert line == {**expected.as_dict(), "image": "a.png"}
    assert [word.get("given") for word in line["words"]][:3] == [True, True, None]
    assert "gain" in line["words"][0]
    (line,) = server.post(("a.png", picture), diverse_groups="3", n_best="3", diversity="5").json()["captions"]
    captions = [line["caption"], *(other["caption"] for other in line["alternatives"])]
    assert len({caption.split()[0] for caption in captions}) == 3


def test_a_text_is_read_in_place_of_a_caption(server: Running, tiny_model: Path, picture: bytes) -> None:
    answer = server.post(("a.png", picture), ("b.png", picture), text="The Dog,  in Oslo!").json()["captions"]
    (expected,) = load(tiny_model).read(picture, ["the dog in oslo"])
    for line, name in zip(answer, ("a.png", "b.png"), strict=True):
        assert line["image"] == name
        assert line["caption"] == "The Dog, in Oslo!"
        assert [word["word"] for word in line["words"]] == ["the", "dog", "in", "oslo"]
        assert [word.get("unknown") for word in line["words"]] == [None, None, None, True]
        assert line["words"][1] == expected.as_dict()["words"][1]
    page = server.post(("a.png", picture), text="The Dog, in Oslo!", format="html")
    assert "The Dog, in Oslo!" in page.text


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"require_words": "dgo"}, "dgo"),
        ({"require_words": "dog", "forbid_words": "dog"}, "dog"),
        ({"begin": "a dog in", "max_words": "2", "min_words": "1"}, "3 words"),
        ({"diverse_groups": "11"}, "10"),
        ({"diverse_groups": "2", "beam": "3"}, "--beam 4"),
        ({"min_words": "5", "max_words": "4"}, "5"),
        ({"text": "..."}, "..."),
        ({"text": "dog " * 101}, "101"),
    ],
)
def test_words_that_cannot_be_had_are_named(
    server: Running, picture: bytes, fields: dict[str, str], named: str
) -> None:
    problem = problem_of(server.post(("a.png", picture), **fields), 422)
    assert problem["type"].endswith("invalid-options")
    assert named in problem["detail"]


def test_a_model_whose_name_is_not_utf_8_is_served(
    serve: Serve, quick_model: Path, picture: bytes, tmp_path: Path
) -> None:
    named = tmp_path / os.fsdecode(b"caf\xe9.safetensors")
    shutil.copyfile(quick_model, named)
    shutil.copytree(graph_folder(quick_model), graph_folder(named))
    with serve(named) as server:
        assert httpx2.get(f"{server.url}/v1/models", **PLAIN).json()["models"][0]["name"] == "caf\ufffd"
        for more in ({}, {"viewer": "true"}):
            response = httpx2.post(f"{server.url}/v1/captions", data=more, files={"file": picture}, **PLAIN)
            assert response.json()["captions"][0]["model"] == "caf\ufffd"
