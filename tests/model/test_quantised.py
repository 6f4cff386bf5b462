"""Matrices in integers of 8 bits: what they compute, on torch and in graphs, and how a model gets and loses them."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from captioner import checkpoint
from captioner.backends.arrays import to_numpy
from captioner.backends.onnx import open_model
from captioner.backends.torch import TorchBackend
from captioner.cli import main
from captioner.errors import CheckpointError, OptionError
from captioner.export.folder import export_folder
from captioner.export.quantise import in_integers, require_integers
from captioner.model.caption_model import ModelConfig
from captioner.model.lstm import LSTMConfig
from captioner.model.quantised import (
    ACTIVATION_STEPS,
    WEIGHT_STEPS,
    QuantisedEmbedding,
    QuantisedLinear,
    QuantisedLSTMCell,
    TiedEmbedding,
    UnquantisedLinear,
    dequantise,
    quantise,
    quantised_matrices,
    set_to_zero,
)
from captioner.model.refiners import GridRefiner, RefinerConfig
from captioner.pipeline import load
from captioner.training.average_checkpoints import average_checkpoints
from captioner.training.ensembles import make_ensemble, take_member
from captioner.training.recipe import Recipe
from captioner.training.start import first_model

Make = Callable[..., checkpoint.Checkpoint]


@pytest.fixture
def quantised(make_checkpoint: Make) -> Make:
    def make(decoder: str = "lstm") -> checkpoint.Checkpoint:
        model = make_checkpoint(decoder)
        model.model.set_quantised(True)
        return model

    return make


def pixels_for(model: TorchBackend, count: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, model.side, model.side, 3), dtype=np.uint8)


def test_a_product_is_that_of_integers() -> None:
    torch.manual_seed(0)
    x, layer = torch.randn(3, 5, 700) * torch.tensor([1e-3, 1.0, 50.0])[:, None, None], nn.Linear(700, 40)
    found = QuantisedLinear(layer.weight, layer.bias)
    rows, weight = x.numpy().astype(np.float64), layer.weight.detach().numpy().astype(np.float64)
    step = np.abs(rows).max(-1, keepdims=True) / ACTIVATION_STEPS
    scale = np.abs(weight).max(1) / WEIGHT_STEPS
    sums = np.rint(rows / step).astype(np.int64) @ np.rint(weight / scale[:, None]).astype(np.int64).T
    assert np.abs(sums).max() < 1 << 24  # exact in 32-bit floats
    expected = sums * scale * step + layer.bias.detach().numpy()
    np.testing.assert_allclose(found(x).detach().numpy(), expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
    exact = layer(x).detach()
    assert (found(x) - exact).std() < 0.02 * exact.std()
    assert found(torch.zeros(1, 700)).equal(layer.bias.detach()[None])


def test_two_products_of_unsigned_activations_fit_in_16_bits() -> None:
    """Processors without instructions for neural networks add them so, and keep the largest where they do not fit."""
    assert 2 * WEIGHT_STEPS * (2 * ACTIVATION_STEPS + 1) < 1 << 15


def test_layers_are_set_to_zero_in_floats_and_in_integers() -> None:
    x = torch.randn(2, 64)
    for layer in (nn.Linear(64, 64), QuantisedLinear(torch.randn(64, 64), torch.ones(64))):
        assert layer(x).any()
        set_to_zero(layer)
        assert not layer(x).any()


def test_a_row_does_not_depend_on_the_others() -> None:
    torch.manual_seed(0)
    layer = QuantisedLinear(torch.randn(64, 96), None)
    rows = torch.randn(7, 96)
    rows[3] *= 1000
    together = layer(rows)
    for row, found in zip(rows, together, strict=True):
        torch.testing.assert_close(layer(row[None])[0], found, rtol=1e-6, atol=0)


def test_gradients_pass_as_if_nothing_were_rounded() -> None:
    torch.manual_seed(0)
    layer = QuantisedLinear(torch.randn(64, 96), torch.randn(64))
    with torch.inference_mode():
        plain = layer(torch.ones(2, 96))
    x = torch.ones(2, 96, requires_grad=True)
    weights = torch.randn(2, 64)
    (layer(x) * weights).sum().backward()
    assert layer(x).detach().equal(plain.clone())
    torch.testing.assert_close(x.grad, weights @ layer.weight)


def test_cells_and_embeddings_compute_what_those_in_floats_do() -> None:
    torch.manual_seed(0)
    part = nn.ModuleDict({"cell": nn.LSTMCell(80, 64), "embed": TiedEmbedding(90, 48), "head": nn.Linear(48, 96)})
    part["small"], part["positions"], part["grid"] = nn.Linear(4, 4), nn.Embedding(90, 48), UnquantisedLinear(48, 96)
    x, state, ids = torch.randn(3, 80), (torch.randn(3, 64), torch.randn(3, 64)), torch.tensor([[1, 5], [89, 5]])
    quantise(part)
    kinds = {name: type(child) for name, child in part.named_children()}
    assert kinds == {
        "cell": QuantisedLSTMCell,
        "embed": QuantisedEmbedding,
        "head": QuantisedLinear,
        "small": nn.Linear,
        "positions": nn.Embedding,
        "grid": UnquantisedLinear,
    }
    integers = {name: one.integers for name, one in quantised_matrices(part).items()}
    after, embedded = part["cell"](x, state), part["embed"](ids)
    logits = part["embed"].logits(embedded, torch.ones(90))
    dequantise(part)
    for found, expected in zip(after, part["cell"](x, state), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0.05)
    torch.testing.assert_close(embedded, part["embed"](ids))
    torch.testing.assert_close(logits, part["embed"].logits(embedded, torch.ones(90)), rtol=0.05, atol=0.5)
    quantise(part)  # nothing is lost on the way there and back
    for name, one in quantised_matrices(part).items():
        assert one.integers.equal(integers[name])


@pytest.mark.parametrize("decoder", ["lstm", "transformer"])
def test_a_file_holds_the_integers(decoder: str, quantised: Make, make_checkpoint: Make, tmp_path: Path) -> None:
    model, plain = quantised(decoder), make_checkpoint(decoder)
    checkpoint.save(tmp_path / "q.safetensors", model)
    stored = checkpoint.load(tmp_path / "q.safetensors")
    assert stored.model.config.quantised
    assert stored.model.config == ModelConfig.from_dict(model.model.config.as_dict())
    for name, one in stored.model.state_dict().items():
        assert one.dtype == (torch.int8 if name.endswith(".integers") else torch.float32), name
    pixels = pixels_for(TorchBackend(stored), 2)
    texts = []
    for one in (model, stored):
        backend = TorchBackend(one)
        scored = backend.score(backend.encode(pixels, []), [[[4, 5, 6]], [[7]]])
        texts.append(np.concatenate([words.log_p for some in scored for words in some]))
    np.testing.assert_allclose(*texts, atol=0.05)  # norms and convolutions in 16 bits
    to_train = checkpoint.load_to_train(tmp_path / "q.safetensors").model
    assert not to_train.config.quantised
    assert to_train.state_dict().keys() == plain.model.state_dict().keys()
    for name, weight in to_train.decoder.named_parameters():
        assert weight.requires_grad and weight.dtype == torch.float32, name
        before = plain.model.decoder.get_parameter(name)
        assert (weight - before).abs().max() <= 0.01 * before.abs().max() + 1e-6, name


def test_a_config_that_is_no_truth_value_is_refused() -> None:
    with pytest.raises(OptionError, match="'yes'"):
        ModelConfig.from_dict({**ModelConfig().as_dict(), "quantised": "yes"})


def test_a_damaged_file_is_refused(quantised: Make, tmp_path: Path) -> None:
    file = tmp_path / "q.safetensors"
    model = quantised()
    for part in quantised_matrices(model.model).values():
        part.scales[0] = torch.nan
    checkpoint.save(file, model)
    with pytest.raises(CheckpointError, match="not finite"):
        checkpoint.load(file)


def test_what_is_trained_further_is_in_floats(quantised: Make, make_checkpoint: Make, tmp_path: Path) -> None:
    files = [tmp_path / "q.safetensors", tmp_path / "f.safetensors"]
    checkpoint.save(files[0], quantised())
    checkpoint.save(files[1], make_checkpoint("lstm"))
    mean = average_checkpoints(files).model
    assert not mean.config.quantised
    embed = mean.decoder.get_parameter("embed.weight")
    torch.testing.assert_close(
        embed, make_checkpoint("lstm").model.decoder.get_parameter("embed.weight"), atol=0.01, rtol=0.01
    )
    assert not make_ensemble(files).model.config.quantised


def test_other_models_start_from_one_in_floats(quantised: Make, make_checkpoint: Make, tmp_path: Path) -> None:
    for name, model in (("q", quantised()), ("other", make_checkpoint("lstm"))):
        checkpoint.save(tmp_path / f"{name}.safetensors", model)
    checkpoint.save(
        tmp_path / "pair.safetensors", make_ensemble([tmp_path / f"{n}.safetensors" for n in ("q", "other")])
    )
    pair = checkpoint.load(tmp_path / "pair.safetensors")
    pair.model.set_quantised(True)
    checkpoint.save(tmp_path / "pair.safetensors", pair)
    assert not take_member(tmp_path / "pair.safetensors", 1).model.config.quantised
    small = {"width": 16, "embedding": 16, "output_hidden": 16, "attention_width": 16, "heads": 2}
    refiner = {"width": 16, "heads": 2}
    for option, more in (
        ("start_from", {}),
        ("decoder_from", {"backbone": "tiny", "encoder_options": {"side": 64}, "refiner_options": refiner}),
        ("encoder_from", {"decoder_options": small, "refiner_options": refiner}),
    ):
        recipe = Recipe(**{option: str(tmp_path / "q.safetensors")}, **more)
        model, _ = first_model(recipe, [], vocabulary=pair.vocabulary)
        assert not quantised_matrices(model), option


def test_refiners_and_torchs_own_layers_stay_as_they_are(make_checkpoint: Make, tmp_path: Path) -> None:
    """torch's layers read each other's weights in fused kernels, without rounding."""
    part = nn.ModuleDict({"refiner": GridRefiner(channels=64, config=RefinerConfig(width=64, heads=2, layers=1))})
    part["layer"], part["attention"] = nn.TransformerEncoderLayer(64, 2, 128), nn.MultiheadAttention(64, 2)
    quantise(part)
    assert not quantised_matrices(part)


@pytest.fixture(scope="module")
def exported_quantised(exported: Callable[[str], Path]) -> Path:
    return exported("lstm-quantised")


def test_graphs_compute_in_integers_what_torch_does(exported_quantised: Path) -> None:
    torch_backend, onnx_backend = TorchBackend(checkpoint.load(exported_quantised)), open_model(str(exported_quantised))
    folder = exported_quantised.parent / "graphs" / exported_quantised.stem
    for name in ("step", "score"):
        graph = onnx.load(folder / f"{name}.onnx", load_external_data=False).graph
        bodies = [one.g.node for node in graph.node for one in node.attribute if one.HasField("g")]
        operators = [node.op_type for nodes in (graph.node, *bodies) for node in nodes]
        assert operators.count("MatMulInteger") == 3  # of the LSTM and of the output
    assert "logits" in {name for node in graph.node for name in node.output}  # computed once, after the loop
    pixels = pixels_for(torch_backend, 3)
    log_p = []
    for backend in (torch_backend, onnx_backend):
        state = backend.begin(backend.encode(pixels, []))
        for token in (1, 5, 9):
            step = backend.step(np.array([token, 4, 7]), state)
            state = step.state
        read = backend.score(backend.encode(pixels, []), [[[5, 9]], [], [[4]]])
        log_p.append([to_numpy(step.log_p)[:, 4:], *(words.log_p for some in read for words in some)])
    for ours, theirs in zip(*log_p, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-2)
    assert len(load(exported_quantised, backend="onnx").caption(np.zeros((9, 9, 3), dtype=np.uint8)).words)


def test_a_folder_of_a_quantised_model_keeps_its_integers(exported_quantised: Path, tmp_path: Path) -> None:
    picture = np.random.default_rng(3).integers(0, 256, (48, 80, 3), dtype=np.uint8)
    expected = load(exported_quantised, backend="torch").caption(picture)
    for precision in ("fp32", "fp16", "int8"):
        export_folder(exported_quantised, tmp_path / precision, precision=precision)
        step = onnx.load(tmp_path / precision / "step.onnx").graph
        assert "MatMulInteger" in {node.op_type for node in step.node}
        assert load(tmp_path / precision).caption(picture).text == expected.text


def test_all_kinds_of_products_are_found(tmp_path: Path, make_checkpoint: Make) -> None:
    """Products with a bias and without, and the embedding's rows."""
    from captioner.export.graphs import write_graphs

    model = make_checkpoint("lstm")
    config = ModelConfig(
        encoder=model.model.config.encoder,
        refiner=model.model.config.refiner.__class__(width=64, heads=2),
        decoder=LSTMConfig(
            width=64, embedding=64, output_hidden=64, attention="memory", attention_width=64, heads=2,
            attention_options={"slots": 1},
        ),
    )  # fmt: skip
    torch.manual_seed(0)
    large = model.model.__class__(config, vocabulary_size=len(model.vocabulary)).eval()
    large.set_quantised(True)
    checkpoint.save(tmp_path / "m.safetensors", checkpoint.Checkpoint(model=large, vocabulary=model.vocabulary))
    found = write_graphs(tmp_path / "m.safetensors")
    assert found.log_p < 0.1
    matrices = quantised_matrices(large.decoder)
    products = []
    for name in ("encode", "step"):
        graph = onnx.load(tmp_path / "graphs" / "m" / f"{name}.onnx", load_external_data=False).graph
        products.append(sum(node.op_type == "MatMulInteger" for node in graph.node))
        inside = [onnx.numpy_helper.to_array(one) for one in graph.initializer if not one.external_data]
        for part, matrix in matrices.items():
            weight = matrix.weight.numpy()
            assert not any(np.array_equal(one, w) for one in inside for w in (weight, weight.T)), part
    assert products == [0, len(matrices)] == [0, 9]


def test_ensembles_compute_the_same_in_graphs(make_checkpoint: Make, tmp_path: Path) -> None:
    """An LSTM, and a Transformer with a refiner of its own, whose matrices are found by their values in one graph."""
    from captioner.export.graphs import write_graphs

    second = make_checkpoint("transformer")
    second.model.encoder.load_state_dict(make_checkpoint("lstm").model.encoder.state_dict())
    second.model.refiner.get_parameter("projection.weight").data.mul_(1.5)
    checkpoint.save(tmp_path / "1.safetensors", make_checkpoint("lstm"))
    checkpoint.save(tmp_path / "2.safetensors", second)
    both = make_ensemble([tmp_path / "1.safetensors", tmp_path / "2.safetensors"])
    assert both.model.decoder.config.has_refiners
    both.model.set_quantised(True)
    assert not any("refiner" in name for name in quantised_matrices(both.model))
    checkpoint.save(tmp_path / "both.safetensors", both)
    assert write_graphs(tmp_path / "both.safetensors").log_p < 0.1
    for graph in ("step", "score"):
        stored = onnx.load(tmp_path / "graphs" / "both" / f"{graph}.onnx", load_external_data=False).graph.initializer
        names = {one.name for one in stored}
        assert {f"{name}.integers" for name in quantised_matrices(both.model)} <= names
        assert not any(name.endswith("embed.weight") for name in names)
    picture = np.random.default_rng(3).integers(0, 256, (48, 80, 3), dtype=np.uint8)
    texts = {load(tmp_path / "both.safetensors", backend=name).caption(picture).text for name in ("torch", "onnx")}
    assert len(texts) == 1


def test_a_matrix_that_no_graph_multiplies_with_is_named() -> None:
    layer = QuantisedLinear(torch.ones(64, 64), None)
    same = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 64])
    graph = onnx.helper.make_model(onnx.helper.make_graph([], "step", [same], [same]))
    with pytest.raises(OptionError, match=r"quantised decoder\.head"):
        require_integers([graph], {"decoder.head": layer}, layer)


def test_equal_and_symmetric_matrices_are_found() -> None:
    torch.manual_seed(0)
    half = torch.randn(64, 64)
    whole = (half + half.T).fill_diagonal_(20.0)  # which each row's scale is of
    layers = {"symmetric": QuantisedLinear(whole, None), "zero": QuantisedLinear(torch.zeros(64, 64), None)}
    make = onnx.helper.make_node
    weights = {name: one.weight.numpy() for name, one in layers.items()}
    nodes = [
        make("MatMul", ["x", "symmetric"], ["product"]),
        make("Gemm", ["product", "symmetric"], ["twice"], transB=1),
        make("Gemm", ["twice", "zero"], ["nothing"]),
    ]
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2, 64]) for name in ("x", "twice", "nothing")
    ]
    stored = [onnx.numpy_helper.from_array(np.ascontiguousarray(one), name) for name, one in weights.items()]
    graph = onnx.helper.make_graph(nodes, "step", ends[:1], ends[1:], stored)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    in_integers(model, layers)
    require_integers([model], layers, nn.Module())
    added = onnx.helper.make_graph([make("Add", ["x", "zero"], ["y"])], "step", ends[:1], [], stored)
    with pytest.raises(OptionError, match="something else than a product with the quantised zero"):
        in_integers(onnx.helper.make_model(added), layers)
    x = torch.randn(2, 64)
    twice, nothing = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x.numpy()})
    symmetric = layers["symmetric"]
    np.testing.assert_allclose(twice, symmetric(symmetric(x)).numpy(), rtol=1e-5, atol=1e-4)
    assert not nothing.any()


def test_a_release_in_eight_bits(
    either_model: Path, make_picture: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = [
        {"image": str(make_picture(f"{split}.png")), "captions": ["a dog in the park"], "split": split}
        for split in ("dev", "test")
    ]
    data = tmp_path / "captions.jsonl"
    data.write_text("\n".join(map(json.dumps, records)))
    words = ["export", str(either_model), "--data", str(data), "--decoding", '{"width": 2}']
    output = tmp_path / "small.safetensors"
    assert main([*words, "--output", str(output), "--precision", "int8"]) == 0
    assert checkpoint.load(output).model.config.quantised
    assert main(["export", str(output), *words[2:], "--output", str(tmp_path / "again.safetensors")]) == 0
    assert checkpoint.load(tmp_path / "again.safetensors").model.config.quantised
    capsys.readouterr()
    assert main([*words, "--output", str(output), "--precision", "fp16"]) == 2
    assert "--precision fp16" in capsys.readouterr().err
    assert main([*words, "--output", str(output), "--precision", "int8", "--calibrate", str(tmp_path)]) == 2
    assert "--calibrate" in capsys.readouterr().err
