"""Draw figures onto planes, onto a label map or onto an identity map, all from the same outlines.

Everything is drawn where the picture is needed, in the planes; chroma is drawn interleaved and
parted at the end. Not thread-safe: one Renderer per thread.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from streamer.planes import Planes
from streamer.sources.street.camera import View
from streamer.sources.street.scenery import paint_scenery
from streamer.sources.street.shapes import F64, GRAIN, Figure

U8 = NDArray[np.uint8]
I32 = NDArray[np.int32]

_BITS = 4
"""Fractional bits of the coordinates that are drawn: 1/16 pixel."""
_ONE = 1 << _BITS
_NOISE_STEPS = 64
_SHADE = 0.62


def fixed(view: View, points: F64, offset: tuple[int, int]) -> I32:
    """Project street points to 1/16 pixel, so that pixel k covers [16k, 16k + 16)."""
    out: I32 = np.rint(view.project(points, offset) * _ONE).astype(np.int32)
    return out


def stroke_px(view: View, stroke_m: float, z_m: float) -> int:
    """Width in whole pixels of a line."""
    return max(1, round(stroke_m * view.focal_px / z_m))


def stamp(
    target: U8 | I32, view: View, figure: Figure, offset: tuple[int, int], value: int
) -> None:
    """Draw a figure in one value, without soft edges."""
    corners = fixed(view, figure.points, offset) - _ONE // 2
    start = 0
    for end, look in zip(figure.ends, figure.paints, strict=True):
        if look is not None and look.stroke_m:
            width = stroke_px(view, look.stroke_m, float(figure.points[start, 2]))
            cv2.polylines(target, [corners[start:end]], True, (value,), width, cv2.LINE_8, _BITS)
        elif look is not None:
            cv2.fillConvexPoly(target, corners[start:end], (value,), cv2.LINE_8, _BITS)
        start = end


class Renderer:
    """The empty street of one view, and how actors are drawn into copies of it."""

    def __init__(self, view: View, seed: int) -> None:
        self._view = view
        canvas = paint_scenery(view, seed)
        self._labels = canvas.labels
        self._luma, chroma = _video_levels(canvas.rgb)
        self._shaded = np.maximum(16, (self._luma - 16.0) * _SHADE + 16).astype(np.uint8)
        self._chroma = {(x, y): _halved(chroma[y:, x:]) for x in (0, 1) for y in (0, 1)}
        noise = np.random.Generator(np.random.Philox(key=[seed, 2000]))
        tile = (view.height + _NOISE_STEPS, view.width + _NOISE_STEPS)
        self._noise = noise.binomial(GRAIN, 0.5, tile).astype(np.uint8)
        half = ((view.height + 1) // 2, (view.width + 1) // 2)
        self._uv: U8 = np.empty((*half, 2), np.uint8)
        self._shadow: U8 = np.empty((view.height, view.width), np.uint8)

    def _corner(self, offset: tuple[int, int]) -> tuple[int, int]:
        margin_x, margin_y = self._view.margin_px
        return margin_x + offset[0], margin_y + offset[1]

    def labels(self, offset: tuple[int, int]) -> U8:
        """Copy the label map of the empty street."""
        x, y = self._corner(offset)
        return self._labels[y : y + self._view.height, x : x + self._view.width].copy()

    def render(
        self, planes: Planes, figures: list[Figure], offset: tuple[int, int], frame: int
    ) -> None:
        """Draw figures, the farthest first, over the empty street."""
        x, y = self._corner(offset)
        window = slice(y, y + self._view.height), slice(x, x + self._view.width)
        np.copyto(planes.y, self._luma[window])
        rows, columns = self._uv.shape[:2]
        chroma = self._chroma[x % 2, y % 2]
        np.copyto(self._uv, chroma[y // 2 : y // 2 + rows, x // 2 : x // 2 + columns])
        drawn = [(figure, fixed(self._view, figure.points, offset)) for figure in figures]
        self._shadows(planes.y, figures, offset, self._shaded[window])
        for figure, corners in drawn:
            self._figure(planes.y, figure, corners)
        self._grain(planes.y, frame)
        cv2.extractChannel(self._uv, 0, planes.u)
        cv2.extractChannel(self._uv, 1, planes.v)

    def _shadows(
        self, luma: U8, figures: list[Figure], offset: tuple[int, int], shaded: U8
    ) -> None:
        top = max(0, min(self._view.height - 1, int(self._view.horizon_px) - offset[1]))
        self._shadow[top:] = 0
        outlines = [outline for figure in figures for outline in figure.shadows]
        corners = fixed(self._view, np.concatenate(outlines), offset) - _ONE // 2
        start = 0
        for outline in outlines:
            end = start + len(outline)
            cv2.fillConvexPoly(self._shadow, corners[start:end], (255,), cv2.LINE_8, _BITS)
            start = end
        cv2.copyTo(shaded[top:], self._shadow[top:], luma[top:])

    def _figure(self, luma: U8, figure: Figure, corners: I32) -> None:
        luma_at, chroma_at = corners - _ONE // 2, corners - _ONE
        start = 0
        for end, look in zip(figure.ends, figure.paints, strict=True):
            if look is None:
                pass
            elif look.stroke_m:
                width = stroke_px(self._view, look.stroke_m, float(figure.points[start, 2]))
                cv2.polylines(
                    luma, [luma_at[start:end]], True, look.luma, width, cv2.LINE_AA, _BITS
                )
                half = max(1, width // 2)
                cv2.polylines(
                    self._uv, [chroma_at[start:end]], True, look.chroma, half, cv2.LINE_8, _BITS + 1
                )
            else:
                cv2.fillConvexPoly(luma, luma_at[start:end], look.luma, cv2.LINE_AA, _BITS)
                cv2.fillConvexPoly(
                    self._uv, chroma_at[start:end], look.chroma, cv2.LINE_8, _BITS + 1
                )
            start = end

    def _grain(self, luma: U8, frame: int) -> None:
        mixed = (frame * 2654435761) & 0xFFFFFFFF
        y, x = (mixed >> 8) % _NOISE_STEPS, (mixed >> 20) % _NOISE_STEPS
        cv2.add(luma, self._noise[y : y + luma.shape[0], x : x + luma.shape[1]], luma)


def _video_levels(rgb: U8) -> tuple[U8, NDArray[np.float32]]:
    """Turn RGB (H, W, 3) into BT.601 luma, less the mean of the noise, and chroma (H, W, 2)."""
    to_luma = np.array([[0.257, 0.504, 0.098, 16 - GRAIN / 2]], np.float32)
    to_chroma = np.array([[-0.148, -0.291, 0.439, 128], [0.439, -0.368, -0.071, 128]], np.float32)
    luma = np.clip(np.rint(cv2.transform(rgb.astype(np.float32), to_luma)), 16, 235 - GRAIN)
    return luma.astype(np.uint8).reshape(rgb.shape[:2]), cv2.transform(
        rgb.astype(np.float32), to_chroma
    )


def _halved(chroma: NDArray[np.float32]) -> U8:
    """Average chroma over 2x2 pixels; an odd edge is repeated."""
    height, width = chroma.shape[:2]
    even = cv2.copyMakeBorder(chroma, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
    mean = (even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]) / 4
    out: U8 = np.clip(np.rint(mean), 16, 240).astype(np.uint8)
    return out
