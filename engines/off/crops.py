"""Cut a region out of a frame's planes and scale it to a network's input; OpenCV, one thread.

Luma and chroma are cut at the same place to a fraction of a pixel, so that a crop that follows a
person glides. Knows no engine and no track.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

U8 = NDArray[np.uint8]
Picture = tuple[U8, U8, U8]
"""Y (H, W), U and V (ceil(H/2), ceil(W/2)) of limited range."""
Box = tuple[float, float, float, float]

MARGIN = 1.2
"""Side of a person's square crop over the longer side of its box: arms and the way of a fall."""

_AREA = 2.0  # from this reduction on, averaging areas is worth its time


def fill_frame(picture: Picture, out: U8) -> None:
    """Scale the whole frame to out (3, h, w); the aspect is not kept."""
    size = (out.shape[2], out.shape[1])
    for plane, target in zip(picture, out, strict=True):
        reduction = plane.shape[1] / size[0]
        how = cv2.INTER_AREA if reduction >= _AREA else cv2.INTER_LINEAR
        cv2.resize(plane, size, dst=target, interpolation=how)


def fill_crop(picture: Picture, box_xyxy: Box, out: U8) -> None:
    """Scale a region to out (3, h, w); what lies outside the frame is the frame's edge, repeated.

    Args:
        picture: the frame.
        box_xyxy: region in pixels of luma, of any position; must not be empty.
        out: slice of a batch; overwritten.
    """
    x0, y0, x1, y1 = box_xyxy
    if not (x1 > x0 and y1 > y0):
        raise ValueError(f"box_xyxy must not be empty, got {box_xyxy}; drop boxes without area")
    height, width = out.shape[1:]
    for index, (plane, target) in enumerate(zip(picture, out, strict=True)):
        part = 1.0 if index == 0 else 0.5
        scale_x, scale_y = (x1 - x0) * part / width, (y1 - y0) * part / height
        # centres of pixels are at half positions in luma, chroma and the crop alike
        matrix = np.array(
            [
                [scale_x, 0, x0 * part + 0.5 * scale_x - 0.5],
                [0, scale_y, y0 * part + 0.5 * scale_y - 0.5],
            ]
        )
        source, matrix = _reduced(plane, matrix, max(scale_x, scale_y))
        cv2.warpAffine(
            source,
            matrix,
            (width, height),
            dst=target,
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )


def around(box_xyxy: Sequence[float], margin: float = MARGIN) -> Box:
    """Square region around a person: centred on its box, its side the box's longer one * margin."""
    x0, y0, x1, y1 = (float(value) for value in box_xyxy)
    half = max(x1 - x0, y1 - y0) * margin / 2
    middle_x, middle_y = (x0 + x1) / 2, (y0 + y1) / 2
    return (middle_x - half, middle_y - half, middle_x + half, middle_y + half)


def _reduced(
    plane: U8, matrix: NDArray[np.float64], scale: float
) -> tuple[U8, NDArray[np.float64]]:
    """Average the needed part of a plane by a whole factor, where linear sampling would alias."""
    factor = int(scale)
    if factor < 2:
        return plane, matrix
    height, width = plane.shape[0] // factor, plane.shape[1] // factor
    small = cv2.resize(
        plane[: height * factor, : width * factor], (width, height), interpolation=cv2.INTER_AREA
    )
    moved = matrix / factor
    moved[:, 2] = (matrix[:, 2] + 0.5) / factor - 0.5
    return np.asarray(small, np.uint8), moved
