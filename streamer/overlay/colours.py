"""Give classes and tracks colours that differ, as RGB, and turn RGB into limited-range YUV."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamer.planes import U8

PALETTE: U8 = np.array(
    [
        (255, 176, 0),  # amber
        (0, 168, 255),  # sky
        (255, 66, 114),  # rose
        (30, 200, 90),  # green
        (166, 104, 255),  # violet
        (255, 118, 26),  # orange
        (0, 190, 180),  # teal
        (240, 92, 210),  # pink
        (160, 196, 20),  # lime
        (92, 132, 255),  # blue
        (222, 150, 80),  # copper
        (60, 210, 230),  # ice
    ],
    np.uint8,
)
"""RGB, of middle lightness, to stand out by night and by day; neighbours differ in hue."""

ALERT = (214, 40, 57)
"""RGB of what must be seen at once."""

_WEIGHTS = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722)}  # of red and blue in luma


def colour_of(track_id: int) -> int:
    """Give a track its place in PALETTE: the same for as long as it lives."""
    return track_id % len(PALETTE)


def yuv_from_rgb(rgb: U8 | NDArray[np.float64], matrix: str) -> U8:
    """Turn (N, 3) RGB of 0..255 into limited-range Y, U, V."""
    if matrix not in _WEIGHTS:
        raise ValueError(f"matrix must be one of {', '.join(_WEIGHTS)}, got {matrix!r}")
    red, blue = _WEIGHTS[matrix]
    part = np.asarray(rgb, np.float64) / 255
    luma = part @ np.array([red, 1 - red - blue, blue])
    u = (part[:, 2] - luma) / (2 * (1 - blue))
    v = (part[:, 0] - luma) / (2 * (1 - red))
    scaled = np.stack([16 + 219 * luma, 128 + 224 * u, 128 + 224 * v], axis=1)
    return np.clip(np.round(scaled), 0, 255).astype(np.uint8)
