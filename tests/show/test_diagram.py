"""The diagram of a model: every mechanism and refiner has one, with its shapes, and graphviz takes it."""

import shutil
from pathlib import Path

import pytest

from captioner.cli import main
from captioner.errors import OptionError
from captioner.model.attention import ATTENTIONS
from captioner.model.caption_model import ModelConfig
from captioner.model.encoder import EncoderConfig
from captioner.model.lstm import LSTMConfig
from captioner.model.refiners import REFINERS
from captioner.show.diagram import _MECHANISMS, _REFINERS, diagram, write_diagram


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


@pytest.mark.skipif(shutil.which("dot") is None, reason="needs graphviz, which is not installed")
def test_graphviz_draws_it(tmp_path: Path) -> None:
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


def test_other_endings_and_inputs_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    assert main(["models", str(tiny_model), "--diagram", str(tmp_path / "flow.jpg")]) == 2
    assert main(["models", "nowhere", "--diagram", str(tmp_path / "flow.gv")]) == 2
    assert main(["models", str(tiny_model)]) == 0
