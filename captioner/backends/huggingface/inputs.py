"""What an image processor of transformers does to a picture, as a `Fitting` and as numbers."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from captioner.errors import OptionError
from captioner.geometry import Fitting


def fitting_of(processor: Any, name: str) -> Fitting:
    """How an image processor brings pictures to the model's input.

    Raises:
        OptionError: it cuts them into tiles, or into inputs of a size that differs from picture to picture.
    """
    tiles = [
        option
        for option in ("image_grid_pinpoints", "do_image_splitting", "crop_to_patches", "do_pan_and_scan")
        if getattr(processor, option, None)
    ]
    if tiles:
        raise tiled(name, tiles[0])
    size, crop = (_plain(getattr(processor, option, None)) for option in ("size", "crop_size"))
    resample = resample_of(processor)
    mean = getattr(processor, "image_mean", None) or (0.5, 0.5, 0.5)
    # LLaVA's pads with the mean; Donut's, which makes a thumbnail first, with black.
    fill = (0, 0, 0) if getattr(processor, "do_thumbnail", False) else tuple(int(255 * value) for value in mean)
    if getattr(processor, "do_align_long_axis", False):
        raise OptionError(f"{name}: its image processor turns pictures (do_align_long_axis), so that maps would lie")
    crops = bool(getattr(processor, "do_center_crop", False)) and bool(crop)
    width, height = _width_and_height(crop if crops else size)
    if not width:
        raise OptionError(
            f"{name}: its image processor makes inputs of several sizes ({size or 'none'}), and maps need one grid",
            remedy="use a model whose pictures have one size",
        )
    if not getattr(processor, "do_resize", True):
        raise OptionError(f"{name}: its image processor does not resize pictures")
    if getattr(processor, "do_pad", False) and (crops or getattr(processor, "do_thumbnail", False)):
        return Fitting(width=width, height=height, mode="pad", resample=resample, fill=_three(fill))
    if crops:
        resized = size.get("shortest_edge") or _width_and_height(size)
        return Fitting(width=width, height=height, mode="crop", resized=resized, resample=resample, fill=(0, 0, 0))
    return Fitting(width=width, height=height, resample=resample)


def resample_of(processor: Any) -> int:
    """The filter of an image processor, by its number in Pillow, of which one is 0."""
    found = getattr(processor, "resample", None)
    return int(Image.Resampling.BICUBIC if found is None else found)


def tiled(name: str, option: str) -> OptionError:
    """The error of a model that cuts pictures into tiles."""
    return OptionError(
        f"{name}: it cuts pictures into tiles ({option}), and tiles have no one grid for a map",
        remedy="use a model that sees the whole picture at once",
    )


def _plain(size: Any) -> dict[str, Any]:
    """A size of transformers as a dictionary of what is there."""
    if size is None:
        return {}
    if isinstance(size, int):
        return {"height": size, "width": size}
    items = size.items() if isinstance(size, Mapping) else vars(size).items()
    return {name: value for name, value in items if value is not None}


def _width_and_height(size: Mapping[str, Any]) -> tuple[int, int]:
    if "height" in size and "width" in size:
        return int(size["width"]), int(size["height"])
    return 0, 0


def _three(values: Any) -> tuple[int, int, int]:
    red, green, blue = values if len(values) == 3 else (values[0],) * 3
    return int(red), int(green), int(blue)


def normalise(pixels: NDArray[np.uint8], processor: Any, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Inputs (B, height, width, 3) of 0 to 255 as the model reads them: (B, 3, height, width)."""
    values = torch.from_numpy(np.require(pixels, requirements=["C", "W"])).to(device).permute(0, 3, 1, 2).float()
    if getattr(processor, "do_rescale", True):
        values = values * float(getattr(processor, "rescale_factor", 1 / 255))
    if getattr(processor, "do_normalize", True):
        mean, deviation = (
            torch.tensor(getattr(processor, name), device=device).reshape(1, -1, 1, 1)
            for name in ("image_mean", "image_std")
        )
        values = (values - mean) / deviation
    return values.to(dtype)
