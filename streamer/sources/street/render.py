"""Draw placed figures over the empty street, straight onto planes.

Chroma is drawn interleaved and parted at the end, which halves the calls. Not thread-safe.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from streamer.planes import U8, Planes
from streamer.sources.street.camera import View
from streamer.sources.street.placed import BITS, ONE, Placed
from streamer.sources.street.scenery import paint_scenery
from streamer.sources.street.shapes import GRAIN

_NOISE_STREAM = 2000
_NOISE_STEPS = 64
_SHADE = 0.62


class Renderer:
    """The empty street of one view, and how figures are drawn into copies of it."""

    def __init__(self, view: View, seed: int) -> None:
        self._view = view
        canvas = paint_scenery(view, seed)
        self._labels = canvas.labels
        self._luma, chroma = _video_levels(canvas.rgb)
        self._shaded: U8 = np.maximum(16, (self._luma - 16.0) * _SHADE + 16).astype(np.uint8)
        # One for each parity of the offset, so that chroma never slips against luma.
        self._chroma = {(x, y): _halved(chroma[y:, x:]) for x in (0, 1) for y in (0, 1)}
        noise = np.random.Generator(np.random.Philox(key=[seed, _NOISE_STREAM]))
        tile = (view.height + _NOISE_STEPS, view.width + _NOISE_STEPS)
        self._noise: U8 = noise.binomial(GRAIN, 0.5, tile).astype(np.uint8)
        self._uv: U8 = np.empty(((view.height + 1) // 2, (view.width + 1) // 2, 2), np.uint8)
        self._shadow: U8 = np.empty((view.height, view.width), np.uint8)

    def labels(self, offset: tuple[int, int]) -> U8:
        """Copy the label map of the empty street."""
        out: U8 = self._labels[self._window(offset)].copy()
        return out

    def render(
        self, planes: Planes, things: Sequence[Placed], offset: tuple[int, int], frame: int
    ) -> None:
        """Draw things, the farthest first, over the empty street."""
        if (planes.width, planes.height) != (self._view.width, self._view.height):
            raise ValueError(
                f"planes must be {self._view.width}x{self._view.height}, "
                f"got {planes.width}x{planes.height}"
            )
        rows, columns = window = self._window(offset)
        np.copyto(planes.y, self._luma[window])
        x, y = columns.start, rows.start
        chroma = self._chroma[x % 2, y % 2][y // 2 :, x // 2 :]
        np.copyto(self._uv, chroma[: self._uv.shape[0], : self._uv.shape[1]])
        self._draw_shadows(planes.y, things, offset)
        for thing in things:
            self._draw(planes.y, thing)
        self._add_grain(planes.y, frame)
        cv2.extractChannel(self._uv, 0, planes.u)
        cv2.extractChannel(self._uv, 1, planes.v)

    def _window(self, offset: tuple[int, int]) -> tuple[slice, slice]:
        """Rows and columns of the canvas that the camera sees."""
        x, y = self._view.margin_px[0] + offset[0], self._view.margin_px[1] + offset[1]
        return slice(y, y + self._view.height), slice(x, x + self._view.width)

    def _draw_shadows(self, luma: U8, things: Sequence[Placed], offset: tuple[int, int]) -> None:
        """Copy what is in shadow from the darkened street: texture stays, none is double."""
        ground = slice(max(0, int(self._view.horizon_px) - offset[1]), None)
        self._shadow[ground] = 0
        outlines = [outline for thing in things for outline in thing.figure.shadows]
        corners = self._view.project(np.concatenate(outlines), offset) * ONE - ONE // 2
        fixed = np.rint(corners).astype(np.int32)
        start = 0
        for outline in outlines:
            end = start + len(outline)
            cv2.fillConvexPoly(self._shadow, fixed[start:end], (255,), cv2.LINE_8, BITS)
            start = end
        shaded = self._shaded[self._window(offset)]
        cv2.copyTo(shaded[ground], self._shadow[ground], luma[ground])

    def _draw(self, luma: U8, thing: Placed) -> None:
        fixed = thing.fixed()
        # Centres of chroma samples lie between those of luma: 1/32 of a chroma pixel is the unit.
        luma_at, chroma_at = fixed - ONE // 2, fixed - ONE
        start = 0
        for end, look in zip(thing.figure.ends, thing.figure.paints, strict=True):
            if look is not None and look.stroke_m:
                px, line, coarse = thing.line_px(look), [luma_at[start:end]], [chroma_at[start:end]]
                cv2.polylines(luma, line, True, look.luma, px, cv2.LINE_AA, BITS)
                half = max(1, px // 2)
                cv2.polylines(self._uv, coarse, True, look.chroma, half, cv2.LINE_8, BITS + 1)
            elif look is not None:
                cv2.fillConvexPoly(luma, luma_at[start:end], look.luma, cv2.LINE_AA, BITS)
                coarse_fill = chroma_at[start:end]
                cv2.fillConvexPoly(self._uv, coarse_fill, look.chroma, cv2.LINE_8, BITS + 1)
            start = end

    def _add_grain(self, luma: U8, frame: int) -> None:
        """Add the noise of the sensor, from another part of the tile in each frame."""
        mixed = (frame * 2654435761) & 0xFFFFFFFF
        y, x = (mixed >> 8) % _NOISE_STEPS, (mixed >> 20) % _NOISE_STEPS
        cv2.add(luma, self._noise[y : y + luma.shape[0], x : x + luma.shape[1]], luma)


def _video_levels(rgb: U8) -> tuple[U8, NDArray[np.float32]]:
    """Turn RGB (H, W, 3) into BT.601 luma, less the mean of the noise, and chroma (H, W, 2)."""
    to_luma = np.array([[0.257, 0.504, 0.098, 16 - GRAIN / 2]], np.float32)
    to_chroma = np.array([[-0.148, -0.291, 0.439, 128], [0.439, -0.368, -0.071, 128]], np.float32)
    exact = rgb.astype(np.float32)
    luma = np.clip(np.rint(cv2.transform(exact, to_luma)), 16, 235 - GRAIN)
    return luma.astype(np.uint8).reshape(rgb.shape[:2]), cv2.transform(exact, to_chroma)


def _halved(chroma: NDArray[np.float32]) -> U8:
    """Average chroma over 2x2 pixels; an odd edge is repeated."""
    height, width = chroma.shape[:2]
    even = cv2.copyMakeBorder(chroma, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
    mean = (even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]) / 4
    out: U8 = np.clip(np.rint(mean), 16, 240).astype(np.uint8)
    return out
