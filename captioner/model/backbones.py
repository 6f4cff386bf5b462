"""The convolutional networks that a `GridEncoder` can be made of, cut into stages."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from captioner.errors import CheckpointError, OptionError
from captioner.model.vision import import_torchvision
from captioner.registry import Registry

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Backbone:
    """A network and how it likes its pictures.

    Attributes:
        build: makes the network; its argument is torchvision's ``weights``, None for random ones.
        stages: lists the convolutional stages in order, without pooling and classifier.
        side: the side of the square input, in pixels, that it is usually given. Networks trained with
            TensorFlow's padding take 32 k + 1, at which torchvision's padding is the same.
        mean, std: of the input's channels, for values in [0, 1].
    """

    build: Callable[[str | None], nn.Module]
    stages: Callable[[nn.Module], list[nn.Module]]
    side: int = 224
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD


def _torchvision(name: str) -> Callable[[str | None], nn.Module]:
    def build(weights: str | None) -> nn.Module:
        models = import_torchvision().models
        try:
            net: nn.Module = models.get_model(name, weights=weights)
        except OSError as error:  # of the download
            raise CheckpointError(
                f"the weights of {name} cannot be downloaded ({error}): give a file of them"
            ) from None
        return net

    return build


def _features(net: Any) -> list[nn.Module]:
    return list(net.features)


def _resnet_stages(net: Any) -> list[nn.Module]:
    stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
    return [stem, net.layer1, net.layer2, net.layer3, net.layer4]


def _densenet_stages(net: Any) -> list[nn.Module]:
    f = net.features
    stages = [nn.Sequential(f.conv0, f.norm0, f.relu0, f.pool0)]
    for i in (1, 2, 3):
        stages.append(nn.Sequential(f.get_submodule(f"denseblock{i}"), f.get_submodule(f"transition{i}")))
    return [*stages, nn.Sequential(f.denseblock4, f.norm5, nn.ReLU())]


def _lite0(weights: str | None) -> nn.Module:
    """EfficientNet-Lite0: B0 without squeeze-and-excitation and with ReLU6 for SiLU."""
    if weights is not None:
        raise OptionError("torchvision has no weights for efficientnet_lite0: give a file, or none")
    net = _torchvision("efficientnet_b0")(None)
    squeeze_and_excite = import_torchvision().ops.SqueezeExcitation
    for parent in list(net.modules()):
        for name, child in parent.named_children():
            if isinstance(child, squeeze_and_excite):
                setattr(parent, name, nn.Identity())
            elif isinstance(child, nn.SiLU):
                setattr(parent, name, nn.ReLU6(inplace=True))
    return net


class _Tiny(nn.Module):
    """Four small convolutions, for tests and drawn scenes: trained from nothing within a minute.

    Normalised cell by cell, and with a view of 31 pixels: what a cell holds is in and about that cell, so that a
    map on these features can be held against where things are.
    """

    def __init__(self) -> None:
        super().__init__()
        norm = import_torchvision().models.convnext.LayerNorm2d
        self.features = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(before, after, 3, stride=stride, padding=1), norm(after), nn.ReLU())
                for before, after, stride in ((3, 32, 2), (32, 64, 2), (64, 96, 2), (96, 96, 1))
            )
        )


def _tiny(weights: str | None) -> nn.Module:
    if weights is not None:
        raise OptionError("there are no pretrained weights for 'tiny': it is trained from nothing")
    return _Tiny()


BACKBONES: Registry[Backbone] = Registry("backbone")
for _name, _backbone in {
    "resnet50": Backbone(_torchvision("resnet50"), _resnet_stages),
    "resnet101": Backbone(_torchvision("resnet101"), _resnet_stages),
    "densenet169": Backbone(_torchvision("densenet169"), _densenet_stages),
    "efficientnet_b0": Backbone(_torchvision("efficientnet_b0"), _features),
    "efficientnet_b4": Backbone(_torchvision("efficientnet_b4"), _features, side=257),
    "efficientnet_lite0": Backbone(_lite0, _features, side=225, mean=(127 / 255,) * 3, std=(128 / 255,) * 3),
    "mobilenet_v3_large": Backbone(_torchvision("mobilenet_v3_large"), _features),
    "convnext_tiny": Backbone(_torchvision("convnext_tiny"), _features),
    "tiny": Backbone(_tiny, _features, side=96, mean=(0.5,) * 3, std=(0.5,) * 3),
}.items():
    BACKBONES.register(_name)(_backbone)


def build_stages(
    name: str, *, stages: int | None = None, last_blocks: int | None = None, weights: str | Path | None = None
) -> nn.Sequential:
    """The first stages of a backbone.

    Args:
        name: of an entry of `BACKBONES`.
        stages: how many stages are kept; None for all.
        last_blocks: how many blocks of the last kept stage are kept; None for all.
        weights: "torchvision" for its pretrained weights (a download, once), the path of a safetensors file
            in torchvision's names, or None for random ones.

    Raises:
        OptionError: no such backbone, or no so many stages.
        CheckpointError: the file does not hold every weight of the kept stages, or the download fails.
    """
    backbone = BACKBONES[name]
    net = backbone.build("DEFAULT" if weights == "torchvision" else None)
    missing: set[str] = set()
    if weights is not None and weights != "torchvision":
        missing = _load(net, Path(weights))
    children = backbone.stages(net)
    if stages is not None and not 1 <= stages <= len(children):
        raise OptionError(f"{name} has 1 to {len(children)} stages, not {stages}")
    kept = children[:stages]
    if last_blocks is not None:
        # A stage that is one block has branches for children, and is not what they compute one after the other.
        blocks = list(kept[-1].children()) if isinstance(kept[-1], nn.Sequential) else [kept[-1]]
        if not 1 <= last_blocks <= len(blocks):
            raise OptionError(f"the last stage of {name} has 1 to {len(blocks)} blocks, not {last_blocks}")
        kept[-1] = nn.Sequential(*blocks[:last_blocks])
    result = nn.Sequential(*kept)
    lost = missing & _qualified_names(net, result)
    if lost:
        raise CheckpointError(
            f"{weights}: {len(lost)} weights of {name} are missing, '{min(lost)}' the first of them; "
            "keep fewer stages, or give a file of the whole network"
        )
    return result


def _load(net: nn.Module, path: Path) -> set[str]:
    """Load what the file has; the names of the weights that it lacks."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from None
    try:
        result = net.load_state_dict({name: tensor.float() for name, tensor in state.items()}, strict=False)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise CheckpointError(f"{path}: its weights do not fit the network ({reason})") from None
    # num_batches_tracked counts training steps and has no effect on what the network computes.
    return {name for name in result.missing_keys if not name.endswith("num_batches_tracked")}


def _qualified_names(net: nn.Module, kept: nn.Module) -> set[str]:
    """The names that the weights of ``kept`` bear in ``net``."""
    tensors = {id(tensor) for tensor in _tensors(kept)}
    return {name for name, tensor in _named_tensors(net) if id(tensor) in tensors}


def _named_tensors(module: nn.Module) -> Iterator[tuple[str, Any]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _tensors(module: nn.Module) -> Iterator[Any]:
    return (tensor for _, tensor in _named_tensors(module))
