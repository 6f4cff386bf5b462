"""The diagram of a model: every mechanism and refiner has one, with its shapes, and graphviz takes it."""

import errno
import os
import shutil
from pathlib import Path

import pytest

from captioner.cli import main
from captioner.errors import OptionError
from captioner.model.answer_model import AnswerConfig
from captioner.model.answering import ANSWERERS
from captioner.model.attention import ATTENTIONS
from captioner.model.caption_model import ModelConfig
from captioner.model.co_attention import CO_ATTENTIONS
from captioner.model.encoder import EncoderConfig
from captioner.model.lstm import LSTMConfig
from captioner.model.refiners import REFINERS
from captioner.model.transformer import TransformerConfig
from captioner.show.answer_diagram import _ANSWERERS, _CO_ATTENTIONS, answer_diagram
from captioner.show.diagram import _MECHANISMS, _REFINERS, diagram
from captioner.show.dot import write_diagram


def source(attention: str = "multihead", refiner: str = "transformer_encoder") -> str:
    config = ModelConfig(
        encoder=EncoderConfig(attention="se", attention_after=(3,)),
        refiner=REFINERS[refiner].config(width=48),
        decoder=LSTMConfig(
            attention=attention, attention_width=24, heads=8 if attention in ("multihead", "memory") else 1
        ),
    )
    header = {
        "config": config.as_dict(),
        "tensors": {"refiner.input_norm.weight": {"shape": [320]}},
        "vocabulary": ["<pad>", "<start>", "<end>", "<unk>", "dog"],
    }
    return diagram(header, (10, 10), name='my "model"')


def answering_source(answerer: str = "hierarchical", **options: object) -> str:
    config = AnswerConfig(
        answerer=ANSWERERS[answerer].config(width=24, embedding=12, hidden=36, **options), blind=False
    )
    header = {
        "config": config.as_dict(),
        "tensors": {"refiner.input_norm.weight": {"shape": [320]}},
        "vocabulary": ["<pad>", "<start>", "<end>", "<unk>", "dog"],
        "answers": ["yes", "no"],
    }
    return answer_diagram(header, (10, 10), name="model")


def test_every_mechanism_and_refiner_is_drawn() -> None:
    assert set(_MECHANISMS) == set(ATTENTIONS) and set(_REFINERS) == set(REFINERS)
    for attention in ATTENTIONS:
        text = source(attention)
        assert "10 x 10 x 320" in text and "100 x 24" in text
        assert ("off_grid" in text) == (attention in ("adaptive", "memory"))
    assert "32 vectors x 48" in source(refiner="latent_queries")
    assert "36 vectors x 48" in source(refiner="coarse_cells")


def test_an_attention_that_is_not_named_is_the_default_of_the_decoder() -> None:
    config = ModelConfig(decoder=LSTMConfig()).as_dict()
    del config["decoder"]["attention"]
    text = diagram({"config": config, "tensors": {}, "vocabulary": ["a"] * 5}, (2, 2))
    assert "multi-head attention" in text and "additive" not in text


def test_every_answerer_and_co_attention_is_drawn() -> None:
    assert set(_ANSWERERS) == set(ANSWERERS) and set(_CO_ATTENTIONS) == set(CO_ATTENTIONS)
    for kind in CO_ATTENTIONS:
        heads = 8 if kind == "multihead" else 1
        text = answering_source(co_attention=kind, heads=heads, levels=("word", "phrase", "question"))
        for level in ("word", "phrase", "question"):
            assert f"first_{level} -> cells_{level} -> seen_{level}" in text and f"{level} -> first_{level}" in text
            assert (f"seen_{level} -> words_{level}" in text) == (kind != "parallel"), "the words after the cells"
        assert f"{heads} x 100" in text and "phrase -> lstm" in text and "one of 2" in text
        assert "cells_question -> map" in text and "cells_word -> map" not in text
        assert ("T x 100" in text) == (kind == "parallel"), "the affinity"
    two = answering_source(levels=("word", "question"), heads=8, map_heads=(1, 9))
    assert "word -> lstm" in two and "phrase" not in two
    assert "cells_word -> map" in two and "cells_question -> map" in two and "mean of 2 heads" in two
    attributes = answering_source(attributes=(5, 7, 9))
    assert "3 attributes" in attributes and "3 x 100" in attributes and "shown -> embedding" in attributes
    assert "there -> h_question" in attributes and "attributes" not in two
    assert "looked -> map" not in attributes
    shared = answering_source(attributes=(5, 7, 9), attribute_map=0.25)
    assert "looked -> map" in shared and "wanted -> map" in shared and "0.75 x mean of" in shared
    assert "classifier -> map" not in shared
    named = answering_source(attributes=(5, 7, 9), attribute_map=1.0, attribute_answers=(0, -1, 1))
    assert "classifier -> map" in named and "cells_question -> map" not in named
    pooled = answering_source("pooled", latents=6, heads=4)
    assert "6 x 4 x 100" in pooled and "chosen -> map" in pooled and "phrase" not in pooled


@pytest.mark.skipif(shutil.which("dot") is None, reason="needs graphviz, which is not installed")
def test_graphviz_draws_it(tmp_path: Path) -> None:
    for answerer in ANSWERERS:
        assert "question" in write_diagram(answering_source(answerer), tmp_path / "answers.svg").read_text()
    svg = write_diagram(source("memory", "cbam"), tmp_path / "flow.svg").read_text()
    assert "memory slots" in svg and "10 x 10 x 320" in svg
    assert write_diagram(source(), tmp_path / "flow.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(OptionError, match=r"flow\.svg"):
        write_diagram("no graph {", tmp_path / "flow.svg")


def test_without_graphviz_the_source_is_written(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shutil.which", lambda program: None)
    assert main(["models", str(tiny_model), "--diagram", str(tmp_path / "flow.svg")]) == 0
    printed = capsys.readouterr()
    assert len(printed.err.splitlines()) == 1 and "dot" in printed.err
    assert printed.out.strip() == str(tmp_path / "flow.gv")
    assert "8 x 8 x 96" in (tmp_path / "flow.gv").read_text()
    assert not (tmp_path / "flow.svg").exists()


def test_an_answering_model_is_drawn(tiny_answers: Path, tmp_path: Path) -> None:
    assert main(["models", str(tiny_answers), "--diagram", str(tmp_path / "flow.gv")]) == 0
    text = (tmp_path / "flow.gv").read_text()
    assert "64 x 64 x 3" in text and "2 x 64" in text and "T, at most 12, of 9 words" in text and "one of 5" in text


def test_a_diagram_is_whole_or_as_it_was(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "flow.gv"
    before = "digraph attention { before }"
    target.write_text(before)
    write = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        write(path, content[:10])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        assert main(["models", str(tiny_model), "--diagram", str(target)]) == 2
    assert "flow.gv: " in capsys.readouterr().err and target.read_text() == before
    assert list(tmp_path.iterdir()) == [target]
    for other in ("mine.gv", "mine.svg", "mine.png"):
        (tmp_path / other).write_text("a file of others")
        assert main(["models", str(tiny_model), "--diagram", str(tmp_path / other)]) == 2
        assert "stays as it is" in capsys.readouterr().err
        assert (tmp_path / other).read_text() == "a file of others"
    monkeypatch.setattr("shutil.which", lambda program: None)  # the source goes to the .gv file beside the .svg
    model, target = tmp_path / "m.safetensors", tmp_path / "m.gv"
    write(model, tiny_model.read_bytes())
    target.hardlink_to(model)
    assert main(["models", str(model), "--diagram", str(tmp_path / "m.svg")]) == 2
    assert target.samefile(model)


def test_other_endings_and_inputs_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    assert main(["models", str(tiny_model), "--diagram", str(tmp_path / "flow.jpg")]) == 2
    assert main(["models", "nowhere", "--diagram", str(tmp_path / "flow.gv")]) == 2
    assert main(["models", str(tiny_model)]) == 0


def test_a_transformer_maps_by_the_heads_of_its_last_layer() -> None:
    for layers, text in ((1, "mean of all heads\\n"), (2, "mean of all heads of the last layer\\n")):
        config = ModelConfig(
            refiner=REFINERS["transformer_encoder"].config(width=48), decoder=TransformerConfig(layers=layers)
        )
        header = {
            "config": config.as_dict(),
            "tensors": {"refiner.input_norm.weight": {"shape": [320]}},
            "vocabulary": ["<pad>", "<start>", "<end>", "<unk>", "dog"],
        }
        assert text in diagram(header, (10, 10))
