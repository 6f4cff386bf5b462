"""An ensemble: decoders that were trained apart on one encoder; the probabilities of their words are averaged."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from captioner.errors import OptionError
from captioner.metadata import MOST_MEMBERS
from captioner.model.decoder import DECODERS, Decoded, Decoder, Step
from captioner.model.fine_maps import FineMaps
from captioner.model.grid import Grid
from captioner.model.refiners import REFINERS


@dataclass(frozen=True, kw_only=True)
class EnsembleConfig:
    """The members of an `EnsembleDecoder`.

    Attributes:
        members: 2 to 16, each with ``kind``, a name of `captioner.model.decoder.DECODERS`, and that decoder's
            options. One with a ``refiner``, of the same form, reads the encoder's grid through that in place of the
            model's refiner. The first one's maps are those of the ensemble, and it has no refiner of its own.
    """

    members: tuple[dict[str, Any], ...] = ()

    def __post_init__(self) -> None:
        members = self.members if isinstance(self.members, (list, tuple)) else ()
        if len(members) < 2 or not all(isinstance(one, dict) and "kind" in one for one in members):
            raise OptionError(
                f"the members of an ensemble are two decoders or more, each with its kind, not {self.members!r:.80}",
                remedy="make one of trained models: captioner ensemble",
            )
        if len(members) > MOST_MEMBERS:
            raise OptionError(f"{len(members)} decoders are more than {MOST_MEMBERS}", remedy="take the best of them")
        if any(one["kind"] == "ensemble" for one in members):
            raise OptionError("an ensemble is among the members of an ensemble", remedy="name its members instead")
        if any(one.get("attention") == "hard" for one in members[1:]):
            raise OptionError("only the first member of an ensemble may have hard attention", remedy="put it first")
        if "refiner" in members[0]:
            raise OptionError(
                "the first member of an ensemble has a refiner of its own", remedy="give it as the model's refiner"
            )
        object.__setattr__(self, "members", tuple(dict(one) for one in members))

    def configs(self) -> list[tuple[Any, Any]]:
        """Of each member the decoder's configuration and the refiner's, None without.

        Raises:
            OptionError: an unknown part, or an option that is unknown or out of range.
        """
        try:
            return [_member(one) for one in self.members]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise OptionError(f"a member of the ensemble lacks its kind or has an unknown option: {error}") from None

    @property
    def has_refiners(self) -> bool:
        """Whether a member has a refiner of its own."""
        return any("refiner" in one for one in self.members)

    @property
    def fine_width(self) -> int:
        """That of the first member, which makes the maps."""
        return getattr(self.configs()[0][0], "fine_width", 0)


def _member(values: Mapping[str, Any]) -> tuple[Any, Any]:
    decoder = {name: value for name, value in values.items() if name != "refiner"}
    refiner = REFINERS.config_of(values["refiner"]) if "refiner" in values else None
    return DECODERS.config_of(decoder), refiner


@dataclass(frozen=True)
class EnsembleState:
    """The states of the members."""

    members: tuple[Any, ...]

    def select(self, rows: Tensor, images: Tensor | None = None) -> "EnsembleState":
        """See `captioner.model.decoder.DecoderState.select`."""
        return EnsembleState(tuple(one.select(rows, images) for one in self.members))


@DECODERS.register_with("ensemble", EnsembleConfig)
class EnsembleDecoder(Decoder):
    """``p(word) = 1/M sum_m p_m(word)``, at each step, as ensembles in machine translation (Sutskever et al. 2014,
    https://arxiv.org/abs/1409.3215) and captioning (Vinyals et al. 2016, https://arxiv.org/abs/1609.06647) decode.

    Where it looks is where its first member looks: the maps, the weight off the grid and the attention are of that
    member, whose map they would be without the others too. Gradients are those of the averaged probabilities.
    """

    config: EnsembleConfig

    def __init__(
        self,
        *,
        vocabulary_size: int,
        image_width: int,
        config: EnsembleConfig,
        fine_channels: int = 0,
        encoder_channels: int = 0,
    ) -> None:
        super().__init__()
        self.config = config
        self.members, self.refiners = nn.ModuleList(), nn.ModuleDict()
        for number, (decoder, refiner) in enumerate(config.configs()):
            fine = {"fine_channels": fine_channels} if getattr(decoder, "fine_width", 0) else {}
            width = image_width
            if refiner is not None:
                build = REFINERS[REFINERS.name_of(refiner)].build
                self.refiners[str(number)] = build(channels=encoder_channels, config=refiner)
                width = refiner.width
            member = DECODERS[DECODERS.name_of(decoder)].build
            self.members.append(member(vocabulary_size=vocabulary_size, image_width=width, config=decoder, **fine))
        self.layers, self.heads = self.map_decoder.layers, self.map_decoder.heads

    @property
    def map_decoder(self) -> Decoder:
        """The member that makes the maps."""
        first = self.members[0]
        assert isinstance(first, Decoder)
        return first

    @property
    def averaged(self) -> tuple[Decoder, ...]:
        """The members."""
        return tuple(one for one in self.members if isinstance(one, Decoder))

    @property
    def fine(self) -> FineMaps | None:
        """The first member's fine maps."""
        return getattr(self.map_decoder, "fine", None)

    @property
    def max_length(self) -> int:
        """The most words that every member can read."""
        return min(one.max_length for one in self.averaged)

    @property
    def map_heads(self) -> tuple[int, ...]:
        """Of the first member."""
        return self.map_decoder.map_heads

    def set_map_heads(self, heads: Sequence[int]) -> None:
        """See `captioner.model.decoder.Decoder.set_map_heads`."""
        self.map_decoder.set_map_heads(heads)
        changed = DECODERS.values_of(self.map_decoder.config)
        self.config = replace(self.config, members=(changed, *self.config.members[1:]))

    def member_grids(self, grid: Grid) -> Mapping[int, Grid]:
        """See `captioner.model.decoder.Decoder.member_grids`."""
        return {int(number): refiner(grid) for number, refiner in self.refiners.items()}

    def begin(self, grid: Grid) -> EnsembleState:
        """Each member's state."""
        return EnsembleState(tuple(one.begin(own) for one, own in self._with_grids(grid)))

    def step(self, token: Tensor, state: EnsembleState) -> Step:
        """See `captioner.model.decoder.Decoder.step`."""
        steps = [one.step(token, own) for one, own in zip(self.averaged, state.members, strict=True)]
        after = EnsembleState(tuple(step.state for step in steps))
        return replace(steps[0], logits=_mixture([step.logits for step in steps]), state=after)

    def forward(self, grid: Grid, tokens: Tensor, *, attention: bool = False) -> Decoded:
        """See `captioner.model.decoder.Decoder.forward`."""
        (first, own), *others = self._with_grids(grid)
        decoded: Decoded = first(own, tokens, attention=attention)
        logits = [decoded.logits, *(one(theirs, tokens).logits for one, theirs in others)]
        return replace(decoded, logits=_mixture(logits))

    def _with_grids(self, grid: Grid) -> list[tuple[Decoder, Grid]]:
        """The members, each with the grid that it reads."""
        return [(one, grid.members.get(number, grid)) for number, one in enumerate(self.averaged)]


def _mixture(logits: Sequence[Tensor]) -> Tensor:
    """The logarithm (..., V) of the mean of the members' probabilities."""
    log_p = torch.stack([one.float().log_softmax(-1) for one in logits])
    mixed: Tensor = log_p.logsumexp(0) - math.log(len(logits))
    return mixed
