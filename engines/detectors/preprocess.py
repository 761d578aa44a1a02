"""Turn the three planes of a frame into a detector's small input; runs on one thread with OpenCV.

The planes are scaled first and converted to colour at the small size, which costs a fifth of
converting the whole frame. Knows no engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from engines.detectors.signature import Signature

U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]

_NEUTRAL = 128


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a frame lies in the network's input: scaled to width x height, at the upper left."""

    width: int
    height: int
    scale_x: float
    scale_y: float


def place(width: int, height: int, signature: Signature) -> Placement:
    """Fit a frame of width x height into the input of a detector."""
    if not signature.letterbox:
        return Placement(
            signature.width, signature.height, signature.width / width, signature.height / height
        )
    ratio = min(signature.width / width, signature.height / height)
    if not signature.enlarge:
        ratio = min(ratio, 1.0)
    fitted = max(int(width * ratio), 1), max(int(height * ratio), 1)
    return Placement(*fitted, ratio, ratio)


def fill_input(
    y: U8, u: U8, v: U8, signature: Signature, out: NDArray[Any], *, matrix: str = "bt601"
) -> Placement:
    """Scale one frame into one picture of a batch.

    Args:
        y: (H, W) luma of limited range.
        u: (ceil(H/2), ceil(W/2)) blue difference.
        v: (ceil(H/2), ceil(W/2)) red difference.
        signature: how the detector wants to be fed.
        out: (3, h, w) slice of the input batch, uint8 or float32; overwritten.
        matrix: colour matrix of the planes, "bt601" or "bt709".

    Returns:
        Where the frame lies in the input, which the decoder needs.
    """
    at = place(y.shape[1], y.shape[0], signature)
    size = (at.width, at.height)
    scaled = [cv2.resize(plane, size, interpolation=cv2.INTER_LINEAR) for plane in (y, u, v)]
    if signature.colour != "yuv":
        scaled = to_bgr(scaled, matrix)
    if signature.colour == "rgb":
        scaled.reverse()
    padding = signature.padding
    if signature.colour == "yuv":
        padding = (padding[0], _NEUTRAL, _NEUTRAL)
    for index, plane in enumerate(scaled):
        out[index, : at.height, : at.width] = plane
        out[index, at.height :] = padding[index]
        out[index, : at.height, at.width :] = padding[index]
    if signature.scale != 1:
        out *= signature.scale
    if any(signature.mean) or signature.std != (1, 1, 1):
        out -= np.array(signature.mean, out.dtype).reshape(3, 1, 1)
        out /= np.array(signature.std, out.dtype).reshape(3, 1, 1)
    return at


def to_bgr(planes: list[U8], matrix: str) -> list[U8]:
    """Convert three planes of equal size from limited-range YUV to blue, green and red."""
    try:
        transform = _MATRICES[matrix]
    except KeyError:
        raise ValueError(f"matrix must be one of {list(_MATRICES)}, got {matrix!r}") from None
    return list(cv2.split(cv2.transform(cv2.merge(planes), transform)))


def _yuv_to_bgr(red: float, blue: float) -> F32:
    """Build the 3x4 matrix that undoes a YUV matrix with these weights of red and blue in luma."""
    green = 1 - red - blue
    luma, chroma = 255 / 219, 255 / 112
    rows = np.array(
        [
            [luma, chroma * (1 - blue), 0],
            [
                luma,
                -chroma * (1 - blue) * blue / green,
                -chroma * (1 - red) * red / green,
            ],
            [luma, 0, chroma * (1 - red)],
        ]
    )
    offset = -rows @ np.array([16, _NEUTRAL, _NEUTRAL])
    return np.column_stack([rows, offset]).astype(np.float32)


_MATRICES = {"bt601": _yuv_to_bgr(0.299, 0.114), "bt709": _yuv_to_bgr(0.2126, 0.0722)}
