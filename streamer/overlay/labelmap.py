"""Tint a picture by a map of labels, such as a segmenter gives; soft at the borders of regions."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from streamer.overlay.colours import yuv_from_rgb
from streamer.planes import U8, Planes


def draw_label_map(
    planes: Planes,
    labels: U8,
    palette_rgb: U8,
    alpha: float | NDArray[np.float64] = 0.5,
    *,
    matrix: str = "bt601",
) -> None:
    """Blend the colour of each label into the picture, in place.

    Luma is blended half as much as chroma, so that what is under the colour can still be seen.

    Args:
        planes: of the picture.
        labels: (h, w) uint8 of any size, stretched over the whole picture.
        palette_rgb: (K, 3) uint8; labels from K on stay clear.
        alpha: 0 is clear, 1 opaque; one for all labels or one for each of K.
        matrix: colour matrix of the planes.
    """
    count = len(palette_rgb)
    opacity = np.zeros(256)
    opacity[:count] = np.clip(np.broadcast_to(np.asarray(alpha, np.float64), (count,)), 0, 1)
    colours = np.zeros((256, 3))
    colours[:count] = yuv_from_rgb(palette_rgb, matrix)
    chroma_size = (planes.u.shape[1], planes.u.shape[0])
    _tint(planes.y, labels, opacity / 2, colours[:, 0], (planes.width, planes.height))
    _tint(planes.u, labels, opacity, colours[:, 1], chroma_size)
    _tint(planes.v, labels, opacity, colours[:, 2], chroma_size)


def _tint(
    plane: U8,
    labels: U8,
    opacity: NDArray[np.float64],
    colour: NDArray[np.float64],
    size: tuple[int, int],
) -> None:
    """plane = plane * (1 - opacity) + colour * opacity, with both factors scaled to its size."""
    kept = np.round(255 * (1 - opacity)).astype(np.uint8)
    added = np.round(colour * opacity).astype(np.uint8)
    kept_map = cv2.resize(cv2.LUT(labels, kept), size, interpolation=cv2.INTER_LINEAR)
    added_map = cv2.resize(cv2.LUT(labels, added), size, interpolation=cv2.INTER_LINEAR)
    cv2.multiply(plane, kept_map, kept_map, scale=1 / 255)
    cv2.add(kept_map, added_map, plane)
