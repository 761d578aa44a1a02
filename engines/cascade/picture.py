"""Turn planes into the cascade's input and its scores into labels; one thread, numpy and OpenCV.

Knows no engine and keeps no state.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]
Mask = NDArray[np.bool_]

_MATRICES = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722)}
_RANGE = 30.0
"""Logits further below the best one are cut off, so that the rest fits into 16 bits."""
_CHANGE_PX = 8


@dataclass(frozen=True, slots=True)
class Placement:
    """How large a frame is in the network's input, at whose upper left it lies."""

    width: int
    height: int


def place(width: int, height: int, input_width: int, input_height: int) -> Placement:
    """Fit a frame of width x height into the input, keeping its proportions."""
    ratio = min(input_width / width, input_height / height)
    return Placement(
        min(max(round(width * ratio), 1), input_width),
        min(max(round(height * ratio), 1), input_height),
    )


def fill_input(y: U8, u: U8, v: U8, out: U8, *, matrix: str = "bt601") -> Placement:
    """Scale one frame into the input; what it does not cover repeats its last row and column.

    Args:
        y: (H, W) luma of limited range.
        u: (ceil(H/2), ceil(W/2)) blue difference.
        v: (ceil(H/2), ceil(W/2)) red difference.
        out: (3, h, w), overwritten.
        matrix: colour matrix of the planes, "bt601" or "bt709"; the network knows the first.

    Raises:
        ValueError: an empty plane, chroma of another size, or an unknown matrix.
    """
    if y.ndim != 2 or 0 in y.shape:
        raise ValueError(f"planes: y must be (H, W) and not empty, got {y.shape}")
    chroma = ((y.shape[0] + 1) // 2, (y.shape[1] + 1) // 2)
    if u.shape != chroma or v.shape != chroma:
        raise ValueError(
            f"planes: u and v must be {chroma} for luma {y.shape}, got {u.shape} and {v.shape}; "
            "give planes of 4:2:0"
        )
    if matrix not in _MATRICES:
        raise ValueError(f"matrix must be one of {list(_MATRICES)}, got {matrix!r}")
    at = place(y.shape[1], y.shape[0], out.shape[2], out.shape[1])
    size = (at.width, at.height)
    scaled = [cv2.resize(plane, size, interpolation=cv2.INTER_LINEAR) for plane in (y, u, v)]
    if matrix != "bt601":
        scaled = list(cv2.split(cv2.transform(cv2.merge(scaled), _TO_BT601)))
    for target, plane in zip(out, scaled, strict=True):
        target[: at.height, : at.width] = plane
        target[: at.height, at.width :] = plane[:, -1:]
        target[at.height :] = target[at.height - 1]
    return at


def best_labels(logits: F32, at: Placement, stride: int, out_stride: int) -> U8:
    """Enlarge logits bilinearly and take the best class of each pixel.

    A class that is best at none of the given positions gets no pixel between them either.

    Args:
        logits: (K, h, w) of the whole input, finite.
        at: the part of the input that holds the frame.
        stride: of the logits.
        out_stride: 1 gives a label to each pixel of the input, 2 to each second one, ...

    Returns:
        (ceil(at.height / out_stride), ceil(at.width / out_stride)) uint8.
    """
    height, width = (-(-n // out_stride) for n in (at.height, at.width))
    rows, columns = -(-at.height // stride), -(-at.width // stride)
    part = logits[:, :rows, :columns]
    below = part - part.max(axis=0)
    somewhere_best = np.flatnonzero(below.reshape(len(part), -1).max(axis=1) == 0)
    below = np.maximum(below[somewhere_best], np.float32(-_RANGE))
    scaled = (below * np.float32(32767 / _RANGE)).astype(np.int16)
    factor = stride // out_stride
    size = (columns * factor, rows * factor)
    best = cv2.resize(scaled[0], size, interpolation=cv2.INTER_LINEAR)
    labels = np.full(best.shape, somewhere_best[0], np.uint8)
    for index, scores in zip(somewhere_best[1:], scaled[1:], strict=True):
        enlarged = cv2.resize(scores, size, interpolation=cv2.INTER_LINEAR)
        better = cv2.compare(enlarged, best, cv2.CMP_GT)
        cv2.copyTo(np.full(labels.shape, index, np.uint8), better, labels)
        cv2.max(enlarged, best, best)
    return labels[:height, :width]


def changed_blocks(before: U8, now: U8, block_px: int, threshold: float) -> Mask:
    """Find the blocks in which any plane changed by more than `threshold` on average.

    Averages are taken over 8x8 pixels, so that something small in a block is not diluted.

    Args:
        before: (3, h, w) input of an earlier frame.
        now: (3, h, w) input of this frame.
        block_px: side of a block, a multiple of 8.
        threshold: mean difference in levels of 0..255.

    Returns:
        (h / block_px, w / block_px).
    """
    cells = (now.shape[2] // _CHANGE_PX, now.shape[1] // _CHANGE_PX)
    change = np.zeros((cells[1], cells[0]), np.uint8)
    for old, new in zip(before, now, strict=True):
        mean = cv2.resize(cv2.absdiff(old, new), cells, interpolation=cv2.INTER_AREA)
        cv2.max(change, mean, change)
    side = block_px // _CHANGE_PX
    blocks = change.reshape(cells[1] // side, side, cells[0] // side, side).max(axis=(1, 3))
    mask: Mask = blocks > threshold
    return mask


def _yuv_to_rgb(red: float, blue: float) -> NDArray[np.float64]:
    green = 1 - red - blue
    return np.array(
        [
            [1, 0, 2 * (1 - red)],
            [1, -2 * (1 - blue) * blue / green, -2 * (1 - red) * red / green],
            [1, 2 * (1 - blue), 0],
        ]
    )


def _converter() -> F32:
    """Build the 3x4 matrix that turns limited-range bt709 planes into bt601 ones."""
    # Both ranges scale luma by 219 and chroma by 224.
    levels = np.diag([219.0, 224.0, 224.0])
    to_601 = np.linalg.inv(_yuv_to_rgb(*_MATRICES["bt601"])) @ _yuv_to_rgb(*_MATRICES["bt709"])
    rows = levels @ to_601 @ np.linalg.inv(levels)
    offset = np.array([16, 128, 128])
    return np.column_stack([rows, offset - rows @ offset]).astype(np.float32)


_TO_BT601 = _converter()
