"""The colour scale: from a map to colours over the picture, exactly where the map's cells lie.

All maps of a caption share one scale: how many times the attention of a cell exceeds its even share, in logarithms,
because twice as much means the same at 2 as at 20 times the even share. An even map is invisible, and the strongest
colour is the strongest attention of the caption. A map that is stretched to its own range would look focused even
where it is flat.

Figures and pages use this module; it needs numpy and nothing that draws.
"""

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from captioner.image import Geometry

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from captioner.results import Answer, Caption

FAINTEST_TOP = 3.0  # a caption whose maps stay below three times their even share must not look focused
STRONGEST = 0.82  # opacity at the top of the scale
MAP_OF = {
    "attention": "attention of a cell",
    "gradient": "contribution of a cell to the word",
    "occlusion": "loss of the word when a cell is hidden",
}
"""What a caption's maps are made of, by `Caption.explain`; the viewer's maps.js has the same words."""

# The colour map inferno of matplotlib, 256 x RGB (Nathaniel Smith and Stefan van der Walt, CC0).
_INFERNO = np.frombuffer(
    bytes.fromhex(
        "00000401000501010601010802010a02020c02020e03021004031204031405041706041907051b08051d09061f0a07220b07240c08260d08"
        "290e092b10092d110a30120a32140b34150b37160b39180c3c190c3e1b0c411c0c431e0c451f0c48210c4a230c4c240c4f260c51280b5329"
        "0b552b0b572d0b592f0a5b310a5c320a5e340a5f3609613809623909633b09643d09653e0966400a67420a68440a68450a69470b6a490b6a"
        "4a0c6b4c0c6b4d0d6c4f0d6c510e6c520e6d540f6d550f6d57106e59106e5a116e5c126e5d126e5f136e61136e62146e64156e65156e6716"
        "6e69166e6a176e6c186e6d186e6f196e71196e721a6e741a6e751b6e771c6d781c6d7a1d6d7c1d6d7d1e6d7f1e6c801f6c82206c84206b85"
        "216b87216b88226a8a226a8c23698d23698f24699025689225689326679526679727669827669a28659b29649d29649f2a63a02a63a22b62"
        "a32c61a52c60a62d60a82e5fa92e5eab2f5ead305dae305cb0315bb1325ab3325ab43359b63458b73557b93556ba3655bc3754bd3853bf39"
        "52c03a51c13a50c33b4fc43c4ec63d4dc73e4cc83f4bca404acb4149cc4248ce4347cf4446d04545d24644d34743d44842d54a41d74b3fd8"
        "4c3ed94d3dda4e3cdb503bdd513ade5238df5337e05536e15635e25734e35933e45a31e55c30e65d2fe75e2ee8602de9612bea632aeb6429"
        "eb6628ec6726ed6925ee6a24ef6c23ef6e21f06f20f1711ff1731df2741cf3761bf37819f47918f57b17f57d15f67e14f68013f78212f784"
        "10f8850ff8870ef8890cf98b0bf98c0af98e09fa9008fa9207fa9407fb9606fb9706fb9906fb9b06fb9d07fc9f07fca108fca309fca50afc"
        "a60cfca80dfcaa0ffcac11fcae12fcb014fcb216fcb418fbb61afbb81dfbba1ffbbc21fbbe23fac026fac228fac42afac62df9c72ff9c932"
        "f9cb35f8cd37f8cf3af7d13df7d340f6d543f6d746f5d949f5db4cf4dd4ff4df53f4e156f3e35af3e55df2e661f2e865f2ea69f1ec6df1ed"
        "71f1ef75f1f179f2f27df2f482f3f586f3f68af4f88ef5f992f6fa96f8fb9af9fc9dfafda1fcffa4"
    ),
    dtype=np.uint8,
).reshape(256, 3)


def times_even(map_: "NDArray[np.float32]", geometry: Geometry) -> "NDArray[np.float32]":
    """A map (h, w) in multiples of the even share: 1 everywhere for a uniform map, whatever the grid."""
    return map_ * np.float32(geometry.mask.sum())


def top_of_scale(caption: "Caption | Answer") -> float:
    """The value, in multiples of the even share, at which the caption's scale ends."""
    strongest = max((float(times_even(m, caption.geometry).max()) for m in caption.maps), default=1.0)
    return max(strongest, FAINTEST_TOP)


def glow(map_: "NDArray[np.float32]", geometry: Geometry, *, top: float) -> "NDArray[np.float32]":
    """The strength of each cell of a map (h, w): 0 at the even share and below, 1 at the top of the scale."""
    values = times_even(map_, geometry)
    return np.asarray((np.log(values.clip(1)) / np.log(top)).clip(0, 1), dtype=np.float32)


def colours(strength: "NDArray[np.float32]") -> "NDArray[np.float32]":
    """The colours of strengths from 0 to 1: any shape to (..., 3), from 0 to 255; the darkest colours are not used."""
    places = (0.3 + 0.7 * strength) * 256
    return np.asarray(_INFERNO[places.astype(np.intp).clip(0, 255)], dtype=np.float32)


def opacity(strength: "NDArray[np.float32]") -> "NDArray[np.float32]":
    """The opacity of strengths from 0 to 1."""
    return np.asarray(STRONGEST * strength, dtype=np.float32)


def on_picture(
    map_: "NDArray[np.float32]", geometry: Geometry, size: tuple[int, int], *, smooth: bool = True
) -> "NDArray[np.float32]":
    """A map (h, w) spread over the pixels of the picture.

    Args:
        map_: values of the cells.
        geometry: where the cells lie.
        size: (width, height) at which the picture is shown; it may differ from the original's.
        smooth: interpolate between the centres of cells with a monotone cubic, which adds no peak and does not
            overshoot (`interpolate`); False gives each cell its rectangle.

    Returns:
        (height, width) float32.
    """
    values: NDArray[Any] = map_
    for axis in (0, 1):  # down, then across
        cells, pixels, (start, stop) = geometry.grid[axis], size[1 - axis], geometry.span(1 - axis)
        # In cells; where there is padding the picture covers only a part of the grid, and where it is cropped the grid
        # only a part of the picture.
        places = ((np.arange(pixels) + 0.5) / pixels * geometry.size[1 - axis] - start) / (stop - start) * cells
        with_picture = np.flatnonzero(np.diff(geometry.edges(1 - axis)) > 0)
        first, last = int(with_picture[0]), int(with_picture[-1])
        if smooth:
            values = interpolate(values.take(with_picture, axis), places - first, axis)
        else:
            values = values.take(np.clip(places.astype(int), first, last), axis)
        seen = (places >= 0) & (places <= cells)
        values = np.where(seen[:, None] if axis == 0 else seen, values, 0)
    return np.asarray(values, dtype=np.float32)


def interpolate(values: "NDArray[np.floating]", places: "NDArray[np.floating]", axis: int) -> "NDArray[np.float64]":
    """Values of cells at any places along an axis, by piecewise cubic Hermite interpolation.

    The slope at a cell's centre is the harmonic mean of the steps to both neighbours, and 0 at peaks, valleys and
    both ends (Fritsch and Butland 1984, equation 5 with equal distances; PCHIP). Beyond the outermost centres the
    values stay level.

    Args:
        values: of the cells, n along ``axis``; the centre of cell i is at i + 0.5.
        places: (m,) from 0 to n.
        axis: along which to interpolate.

    Returns:
        The same shape with m along ``axis``.
    """
    lines = np.moveaxis(values.astype(np.float64), axis, -1)
    steps = np.diff(lines, prepend=lines[..., :1], append=lines[..., -1:])  # to the left and right of each centre
    before, after = steps[..., :-1], steps[..., 1:]
    same_sign = before * after > 0
    total = np.where(same_sign, before + after, 1)
    slopes = np.where(same_sign, 2 * before / total * after, 0)
    last = lines.shape[-1] - 1
    at = np.clip(places - 0.5, 0, last)
    left = np.minimum(at.astype(np.intp), max(last - 1, 0))
    right = np.minimum(left + 1, last)
    t = at - left
    s = 1 - t
    found = (
        lines[..., left] * ((1 + 2 * t) * s * s)
        + lines[..., right] * (t * t * (3 - 2 * t))
        + slopes[..., left] * (t * s * s)
        - slopes[..., right] * (t * t * s)
    )
    return np.moveaxis(found, -1, axis)


def overlay(
    picture: Image.Image, map_: "NDArray[np.float32]", geometry: Geometry, *, top: float, smooth: bool = True
) -> "NDArray[np.uint8]":
    """The picture with one map laid over it, (height, width, 3) of the picture's own size.

    Args:
        picture: upright RGB, in any size.
        map_: (h, w).
        geometry: where the cells lie.
        top: the end of the scale, in multiples of the even share; see `top_of_scale`.
        smooth: see `on_picture`.
    """
    strength = on_picture(glow(map_, geometry, top=top), geometry, picture.size, smooth=smooth)
    alpha = opacity(strength)[:, :, None]
    blended = np.asarray(picture, dtype=np.float32) * (1 - alpha) + colours(strength) * alpha
    return np.asarray(blended.round().clip(0, 255), dtype=np.uint8)


def times_likelier(gain: float) -> str:
    """A gain in nats (`captioner.results.Word.gain`) as how many times likelier the picture makes a word: "12×"."""
    times = math.exp(min(gain, 20.0))
    if times >= 1000:
        return ">1000×"
    return f"{times:.0f}×" if times >= 10 else f"{times:.1f}×" if times >= 0.1 else "<0.1×"
