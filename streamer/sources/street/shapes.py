"""The vocabulary of the drawing: coloured outlines in metres, gathered into figures.

Knows no picture size and no drawing library.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
Rgb = tuple[int, int, int]

GRAIN = 4
"""Largest value that camera noise adds to luma; paints leave room for it."""

_SUN = (0.42, 0.22)  # how far a shadow falls to the right and away, for each metre of height
_CAP = np.linspace(-np.pi / 2, np.pi / 2, 6)


class Paint(NamedTuple):
    """How one outline is drawn: filled, or as a closed line `stroke_m` wide where that is not 0."""

    luma: float
    chroma: tuple[float, float]
    stroke_m: float = 0.0


@lru_cache(maxsize=1024)
def paint(rgb: Rgb, light: float = 1.0, stroke_m: float = 0.0) -> Paint:
    """Turn a colour under some light into BT.601 video levels, less the mean of the noise."""
    r, g, b = (min(255.0, max(0.0, c * light)) for c in rgb)
    luma = 16 + 0.257 * r + 0.504 * g + 0.098 * b - GRAIN / 2
    u = 128 - 0.148 * r - 0.291 * g + 0.439 * b
    v = 128 + 0.439 * r - 0.368 * g - 0.071 * b
    level = float(round(min(235 - GRAIN, max(16, luma))))
    return Paint(level, (float(round(u)), float(round(v))), stroke_m)


@dataclass(slots=True)
class Figure:
    """One thing as outlines from back to front, in street metres."""

    points: F64
    """(n, 3): the corners of all outlines, one after the other."""
    ends: list[int]
    """Where in points each outline ends."""
    paints: list[Paint | None]
    """One for each outline; None is not seen from here."""
    shadows: list[F64] = field(default_factory=list)
    """Outlines (k, 3) on the ground."""


def figure(outlines: list[tuple[F64, Paint]], shadows: list[F64] | None = None) -> Figure:
    """Gather outlines (n, 3) and their paints, from back to front."""
    ends = np.cumsum([len(points) for points, _ in outlines]).tolist()
    points = np.concatenate([points for points, _ in outlines])
    return Figure(points, ends, [look for _, look in outlines], shadows or [])


def capsules(limbs: F64) -> F64:
    """Turn limbs (n, 6) of (x, y, radius) at both ends into smooth outlines (n, 12, 2)."""
    ax, ay, ra, bx, by, rb = (column[:, None] for column in limbs.T)
    heading = np.arctan2(by - ay, bx - ax)
    front, back = heading + _CAP, heading + _CAP + np.pi
    out = np.empty((len(limbs), 12, 2))
    out[:, :6, 0], out[:, :6, 1] = bx + rb * np.cos(front), by + rb * np.sin(front)
    out[:, 6:, 0], out[:, 6:, 1] = ax + ra * np.cos(back), ay + ra * np.sin(back)
    return out


def upright(outline: F64, z_m: float) -> F64:
    """Stand (..., 2) outlines up in the street at distance z."""
    out = np.empty((*outline.shape[:-1], 3))
    out[..., :2], out[..., 2] = outline, z_m
    return out


def shadow(points: F64) -> F64:
    """Let the sun throw street points (..., 3) on the ground."""
    out = np.zeros_like(points)
    height = np.maximum(points[..., 1], 0)
    out[..., 0] = points[..., 0] + _SUN[0] * height
    out[..., 2] = points[..., 2] + _SUN[1] * height
    return out


def disc(x: float, y: float, radius: float, corners: int = 16) -> F64:
    """A circle as an outline (corners, 2)."""
    turn = np.arange(corners) * (2 * np.pi / corners)
    return np.stack([x + radius * np.cos(turn), y + radius * np.sin(turn)], axis=1)


def rectangle(x1: float, y1: float, x2: float, y2: float) -> F64:
    """A rectangle as an outline (4, 2)."""
    return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], np.float64)
