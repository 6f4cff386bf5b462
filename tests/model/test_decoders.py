"""All decoders do what `captioner.model.decoder.Decoder` promises."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from captioner.errors import OptionError
from captioner.model.caption_model import CaptionModel, ModelConfig
from captioner.model.decoder import DECODERS, Decoder, captions_per_picture, still_reading
from captioner.model.encoder import EncoderConfig
from captioner.model.ensemble import EnsembleConfig, EnsembleDecoder
from captioner.model.grid import Grid
from captioner.model.lstm import LSTMConfig
from captioner.model.refiners import GridRefiner, RefinerConfig, sinusoidal_positions
from captioner.model.transformer import TransformerConfig
from captioner.tokenizer.vocabulary import END, PAD, START

LSTM = LSTMConfig(width=24, embedding=16, output_hidden=16, attention_width=16, heads=2)
FINE_CHANNELS = 64  # of the stage 1 of "tiny"
TRANSFORMER = TransformerConfig(width=16, layers=3, heads=2, hidden=32)
CONFIGS = {
    "lstm": LSTM,
    "lstm of the paper": replace(LSTM, attention="additive", heads=1, attend_after_lstm=False),
    "lstm, chosen heads": replace(LSTM, map_heads=(1,)),
    "lstm, dot": replace(LSTM, attention="dot", heads=1),
    "lstm, adaptive": replace(LSTM, attention="adaptive", heads=1),
    "lstm, local_previous": replace(LSTM, attention="local_previous", heads=1, attention_options={"window": 1.5}),
    "lstm of the paper, local_previous": replace(
        LSTM, attention="local_previous", heads=1, attention_options={"window": 1.5}, attend_after_lstm=False
    ),
    "lstm, fine maps": replace(LSTM, attention="memory", attention_options={"slots": 1}, map_heads=(1,), fine_width=8),
    "lstm of the paper, fine maps": replace(LSTM, attention="additive", heads=1, attend_after_lstm=False, fine_width=8),
    "lstm, hierarchical": replace(LSTM, attention="hierarchical", heads=1, attention_options={"regions": 2}),
    "transformer": TRANSFORMER,
    "transformer, memory": replace(TRANSFORMER, layers=2, attention="memory", attention_options={"slots": 3}),
    "transformer, fine maps": replace(TRANSFORMER, layers=2, fine_width=8),
    "transformer, chosen heads": replace(TRANSFORMER, map_heads=((0, 1), (2, 0))),
}
CONFIGS |= {
    name: EnsembleConfig(members=tuple(DECODERS.values_of(CONFIGS[one]) for one in members))
    for name, members in {
        "ensemble": ("lstm, fine maps", "transformer"),
        "ensemble, transformer first": ("transformer, chosen heads", "lstm", "lstm, adaptive"),
    }.items()
}


def build(config: LSTMConfig | TransformerConfig | EnsembleConfig) -> CaptionModel:
    torch.manual_seed(0)
    stage = 1 if getattr(config, "fine_width", 0) else None
    whole = ModelConfig(
        encoder=EncoderConfig(backbone="tiny", side=64, fine_stage=stage),
        refiner=RefinerConfig(width=16, layers=1),
        decoder=config,
    )
    model = CaptionModel(whole, vocabulary_size=30).eval()
    if stage is not None:
        nn.init.normal_(model.fine_maps.query.weight)  # as if it had learned
    return model


def map_shape(model: CaptionModel) -> tuple[int, int]:
    """Of the maps of the grids that `made` makes."""
    return (6, 8) if model.encoder.fine_channels else (3, 4)


def forward(decoder: Decoder, grid: Grid, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    decoded = decoder(grid, tokens)
    torch.testing.assert_close(
        decoded.maps.sum((2, 3))[still_reading(tokens)], (1 - decoded.off_grid)[still_reading(tokens)]
    )
    return decoded.logits, decoded.maps


@pytest.fixture(params=CONFIGS)
def model(request: pytest.FixtureRequest) -> CaptionModel:
    return build(CONFIGS[request.param])


def made(copies: int) -> tuple[Grid, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    mask = torch.ones(2, 12, dtype=torch.bool)
    mask[1, 8:] = False
    tokens = torch.randint(4, 30, (2 * copies, 7), generator=generator)
    tokens[:, 0] = START
    features, fine = (torch.randn(2, 12, size, generator=generator) for size in (16, 4 * FINE_CHANNELS))
    return Grid(features, (3, 4), mask, fine=fine), tokens


def test_teacher_forcing_equals_stepping(model: CaptionModel) -> None:
    grid, tokens = made(copies=3)
    logits, maps = forward(model.decoder, grid, tokens)
    assert logits.shape == (6, 7, 30)
    assert maps.shape == (6, 7, *map_shape(model))
    state = model.decoder.begin(grid).select(torch.tensor([0, 0, 0, 1, 1, 1]))
    for t in range(7):
        step = model.decoder.step(tokens[:, t], state)
        state = step.state
        torch.testing.assert_close(step.logits, logits[:, t], rtol=0, atol=1e-5)
        torch.testing.assert_close(step.map, maps[:, t], rtol=0, atol=1e-6)


def test_maps_sum_to_one_over_the_cells_that_hold_picture(model: CaptionModel) -> None:
    grid, tokens = made(copies=2)
    decoded = model.decoder(grid, tokens)
    maps = decoded.maps
    torch.testing.assert_close(maps.sum((2, 3)) + decoded.off_grid, torch.ones(4, 7))
    looking = model.decoder.map_decoder
    has_more = {"adaptive", "memory"} & {looking.config.attention}
    assert bool(decoded.off_grid.max() > 0) == bool(has_more)
    assert maps.min() >= 0
    assert maps[2:, :, 2 * map_shape(model)[0] // 3 :].abs().max() == 0, "the second picture ends after two rows"


def test_a_caption_depends_on_no_other_caption(model: CaptionModel) -> None:
    grid, tokens = made(copies=3)
    logits, _ = forward(model.decoder, grid, tokens)
    for row in range(6):
        alone, _ = forward(model.decoder, grid.select(torch.tensor([row // 3])), tokens[row : row + 1])
        torch.testing.assert_close(alone[0], logits[row], rtol=0, atol=1e-5)


@pytest.mark.parametrize("lengths", [[7, 3, 5, 1, 7, 2], [2, 2, 2, 2, 2, 2], [3, 1, 1, 6, 1, 1]])
def test_captions_of_many_lengths_are_read_together(model: CaptionModel, lengths: list[int]) -> None:
    grid, whole = made(copies=3)
    padded = whole.clone()
    for row, length in enumerate(lengths):
        padded[row, length:] = PAD
        padded[row, length : length + 1] = END
    reading = still_reading(padded)
    assert reading.sum(1).tolist() == lengths
    for a, b in zip(forward(model.decoder, grid, whole), forward(model.decoder, grid, padded), strict=True):
        assert a.shape == b.shape
        torch.testing.assert_close(a[reading], b[reading], rtol=0, atol=1e-5)
    gradients = []
    for tokens in (whole, padded):
        logits, maps = forward(model.decoder, grid, tokens)
        value = logits[reading].logsumexp(-1).sum() + maps[reading].square().sum()
        gradients.append(torch.autograd.grad(value, list(model.decoder.parameters()), allow_unused=True))
    for one, other in zip(*gradients, strict=True):
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_word_depends_on_no_later_word(model: CaptionModel) -> None:
    grid, tokens = made(copies=1)
    logits, maps = forward(model.decoder, grid, tokens)
    changed = tokens.clone()
    changed[:, 4:] = 29
    logits2, maps2 = forward(model.decoder, grid, changed)
    torch.testing.assert_close(logits[:, :4], logits2[:, :4])
    torch.testing.assert_close(maps[:, :4], maps2[:, :4])
    assert not torch.allclose(logits[:, 4:], logits2[:, 4:])


def test_select_reorders_the_rows_of_a_picture(model: CaptionModel) -> None:
    grid, tokens = made(copies=2)
    state = model.decoder.begin(grid).select(torch.tensor([0, 0, 1, 1]))
    for t in range(3):
        state = model.decoder.step(tokens[:, t], state).state
    order = torch.tensor([1, 0, 3, 3])
    expected = model.decoder.step(tokens[:, 3], state)
    # The row's next word moves with it.
    found = model.decoder.step(tokens[order, 3], state.select(order))
    torch.testing.assert_close(found.logits, expected.logits[order])
    torch.testing.assert_close(found.map, expected.map[order])


def test_select_drops_pictures_and_keeps_the_others_as_they_were(model: CaptionModel) -> None:
    grid, tokens = made(copies=2)
    state = model.decoder.begin(grid).select(torch.tensor([0, 0, 1, 1]))
    for t in range(3):
        state = model.decoder.step(tokens[:, t], state).state
    expected = model.decoder.step(tokens[:, 3], state)
    rows = torch.tensor([3, 2])
    found = model.decoder.step(tokens[rows, 3], state.select(rows, torch.tensor([1])))
    torch.testing.assert_close(found.logits, expected.logits[rows], rtol=0, atol=1e-5)
    torch.testing.assert_close(found.map, expected.map[rows], rtol=0, atol=1e-6)


def test_stepping_is_what_a_decoder_without_a_faster_way_does(model: CaptionModel) -> None:
    grid, tokens = made(copies=3)
    fast, slow = model.decoder(grid, tokens), Decoder.forward(model.decoder, grid, tokens)
    for name in ("logits", "maps", "off_grid"):
        torch.testing.assert_close(getattr(fast, name), getattr(slow, name), rtol=0, atol=1e-5)


def test_gradients_reach_every_parameter(model: CaptionModel) -> None:
    model.encoder.train_from(0)
    decoded = model(torch.randn(2, 3, 64, 64), torch.randint(4, 30, (4, 5)))
    (decoded.logits.square().mean() + decoded.maps.square().mean()).backward()
    without = {name for name, p in model.named_parameters() if p.grad is None or p.grad.abs().max() == 0}
    assert without == set()


def test_the_lstm_reads_its_map_from_the_chosen_heads() -> None:
    grid, tokens = made(copies=1)
    logits, both = forward(build(LSTM).decoder, grid, tokens)
    maps = []
    for head in range(2):
        other_logits, map_ = forward(build(replace(LSTM, map_heads=(head,))).decoder, grid, tokens)
        torch.testing.assert_close(other_logits, logits)
        maps.append(map_)
    assert not torch.allclose(maps[0], maps[1], atol=1e-4)
    torch.testing.assert_close(both, (maps[0] + maps[1]) / 2)
    with pytest.raises(OptionError, match="map head 2 is not among 2 heads"):
        replace(LSTM, map_heads=(2,))


def test_the_transformer_reads_its_map_from_the_chosen_heads() -> None:
    grid, tokens = made(copies=1)
    every = [(layer, head) for layer in range(3) for head in range(2)]
    one_by_one = {}
    for pair in every:
        model = build(replace(TRANSFORMER, map_heads=(pair,)))
        one_by_one[pair] = forward(model.decoder, grid, tokens)[1]
    some = forward(build(replace(TRANSFORMER, map_heads=((0, 1), (2, 0)))).decoder, grid, tokens)[1]
    torch.testing.assert_close(some, (one_by_one[0, 1] + one_by_one[2, 0]) / 2)
    last = forward(build(TRANSFORMER).decoder, grid, tokens)[1]
    torch.testing.assert_close(last, (one_by_one[2, 0] + one_by_one[2, 1]) / 2)


def test_an_ensemble_averages_probabilities_and_looks_where_its_first_member_looks() -> None:
    config = CONFIGS["ensemble, transformer first"]
    decoder = build(config).decoder
    assert isinstance(decoder, EnsembleDecoder)
    grid, tokens = made(copies=3)
    decoded = decoder(grid, tokens, attention=True)
    members = [one(grid, tokens, attention=True) for one in decoder.members]
    mean = torch.stack([one.logits.softmax(-1) for one in members]).mean(0)
    torch.testing.assert_close(decoded.logits.exp(), mean, rtol=0, atol=1e-6)
    torch.testing.assert_close(decoded.logits.softmax(-1), mean, rtol=0, atol=1e-6)
    assert torch.equal(decoded.maps, members[0].maps)
    assert not torch.allclose(decoded.maps, members[1].maps)
    assert torch.equal(decoded.off_grid, members[0].off_grid)
    assert len(decoded.attention) == decoder.layers == 3
    assert decoder.map_heads == (1, 4)
    assert decoder.max_length == 63


def test_heads_of_an_ensemble_are_those_of_its_first_member() -> None:
    model = build(CONFIGS["ensemble"])
    grid, tokens = made(copies=1)
    before = model.decoder(grid, tokens).maps
    model.set_map_heads([0])
    assert model.decoder.map_heads == (0,)
    assert not torch.allclose(model.decoder(grid, tokens).maps, before)
    again = CaptionModel(ModelConfig.from_dict(model.config.as_dict()), vocabulary_size=30).eval()
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.decoder(grid, tokens).maps, model.decoder(grid, tokens).maps)
    assert model.fine_maps is model.decoder.members[0].fine
    model.set_plain_maps()
    assert model.decoder.map_heads == (0, 1)


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ((), "two decoders or more"),
        (({"kind": "lstm"},), "two decoders or more"),
        (({"kind": "lstm"}, {"width": 8}), "two decoders or more"),
        ("lstm", "two decoders or more"),
        (({"kind": "lstm"}, {"kind": "gru"}), "no decoder is called 'gru'"),
        (({"kind": "lstm"}, {"kind": "transformer", "wings": 2}), "wings"),
        (({"kind": "lstm"}, {"kind": "lstm", "refiner": {"width": 8}}), "lacks its kind"),
        (({"kind": "lstm", "refiner": {"kind": "se"}}, {"kind": "lstm"}), "refiner of its own"),
        (({"kind": "lstm"}, {"kind": "lstm", "refiner": "se"}), "lacks its kind"),
        (({"kind": "lstm"}, {"kind": "ensemble", "members": []}), "among the members"),
        (({"kind": "lstm"}, {"kind": "lstm", "attention": "hard"}), "hard attention"),
        (({"kind": "lstm"},) * 17, "17 decoders are more than 16"),
        (({"kind": "lstm", "width": 0}, {"kind": "transformer"}), "width must be positive, not 0"),
    ],
)
def test_members_that_make_no_ensemble_are_refused(members: object, said: str) -> None:
    with pytest.raises(OptionError, match=said):
        build(EnsembleConfig(members=members))  # type: ignore[arg-type]


def test_a_transformer_refuses_more_words_than_it_can_place() -> None:
    model = build(replace(TRANSFORMER, max_length=4))
    grid, tokens = made(copies=1)
    with pytest.raises(OptionError, match=r"4 positions.*max_length can be 3"):
        forward(model.decoder, grid, tokens)


def test_every_picture_has_as_many_rows() -> None:
    assert captions_per_picture(6, 2) == 3
    with pytest.raises(ValueError, match=r"5 captions .* 2 pictures"):
        captions_per_picture(5, 2)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_configuration_survives_its_own_dictionary(config: LSTMConfig | TransformerConfig) -> None:
    whole = ModelConfig(encoder=EncoderConfig(backbone="resnet50", pad=True), decoder=config)
    assert ModelConfig.from_dict(whole.as_dict()) == whole


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d.pop("refiner"), "lacks 'refiner'"),
        (
            lambda d: d["decoder"].update(kind="gru"),
            "no decoder is called 'gru'; there are ensemble, lstm, transformer",
        ),
        (lambda d: d["decoder"].update(wings=2), "does not fit this version"),
        (lambda d: d["encoder"].update(backbone="vgg"), "no backbone is called 'vgg'"),
        (lambda d: d["refiner"].update(width=10), "multiple of 4, not 10"),
        (lambda d: d["refiner"].update(layers=1, heads=0), "not 1 of 0"),
        (lambda d: d["refiner"].update(hidden=-1), "or 0 for four times the width, not -1"),
        (lambda d: d["refiner"].update(dropout=2.0), r"dropout must be in \[0, 1\), not 2.0"),
    ],
)
def test_a_foreign_configuration_is_refused(change, said: str) -> None:  # type: ignore[no-untyped-def]
    values = ModelConfig(decoder=LSTM).as_dict()
    change(values)
    with pytest.raises(OptionError, match=said):
        ModelConfig.from_dict(values)


def test_positions_are_the_same_places_on_a_finer_grid() -> None:
    coarse = sinusoidal_positions(2, 2, 16).unflatten(0, (2, 2))
    fine = sinusoidal_positions(6, 6, 16).unflatten(0, (6, 6))
    torch.testing.assert_close(coarse[0, 1], fine[1, 4])  # centres at (1/4, 3/4)
    every = sinusoidal_positions(7, 9, 32)
    assert torch.cdist(every, every).fill_diagonal_(9).min() > 0.1, "two cells with the same code"


def test_padding_is_left_out_of_the_mean_and_of_what_cells_tell_one_another() -> None:
    grid, _ = made(copies=1)
    torch.testing.assert_close(grid.mean()[1], grid.features[1, :8].mean(0))
    torch.manual_seed(0)
    refiner = GridRefiner(channels=16, config=RefinerConfig(width=8, layers=1, heads=2)).eval()
    changed = grid.features.clone()
    changed[1, 8:] = 50
    a, b = refiner(grid), refiner(Grid(changed, (3, 4), grid.mask))
    torch.testing.assert_close(a.features[1, :8], b.features[1, :8])
