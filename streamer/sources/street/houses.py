"""Paint the row of houses behind the far pavement: shops, windows, roofs, and gardens between.

Knows the canvas and the dice, and nothing that moves.
"""

from __future__ import annotations

import math

import numpy as np

from streamer.sources.street.canvas import BUILDING, FENCE, TREE, Canvas, shade
from streamer.sources.street.dice import Dice
from streamer.sources.street.ground import WALL_M
from streamer.sources.street.shapes import Rgb, disc, rectangle

_WALLS: tuple[Rgb, ...] = (
    (170, 92, 72), (222, 200, 160), (196, 196, 192), (232, 218, 188), (146, 160, 172),
    (204, 140, 96), (236, 230, 220), (178, 150, 128),
)  # fmt: skip
_ROOFS: tuple[Rgb, ...] = ((128, 62, 48), (84, 86, 94), (104, 74, 60))
_SHOPS: tuple[Rgb, ...] = ((30, 92, 74), (160, 36, 44), (34, 64, 120), (214, 158, 44), (60, 52, 58))
_FRAME: Rgb = (240, 238, 232)
_FAR_M = 21.5  # beyond what any camera sees at the wall


def build_houses(canvas: Canvas, dice: Dice) -> None:
    """Fill the street front from left to right."""
    x = -_FAR_M - dice.between(0, 3)
    while x < _FAR_M:
        if dice.chance(0.22):
            width = dice.between(3.2, 4.6)
            _garden(canvas, dice, x, x + width)
        else:
            width = dice.between(5.2, 8.4)
            _House(canvas, dice, x, width).build()
        x += width


def _garden(canvas: Canvas, dice: Dice, x1: float, x2: float) -> None:
    """A gap: bushes behind a fence."""
    for _ in range(26):
        green: Rgb = dice.pick(((66, 106, 56), (84, 126, 62), (52, 88, 50), (104, 140, 72)))
        at = (dice.between(x1 - 0.3, x2 + 0.3), dice.between(0.5, 2.6))
        canvas.wall(disc(*at, dice.between(0.4, 0.85), 10), WALL_M + 2, green, TREE)
    canvas.wall(rectangle(x1, 0, x2, 0.25), WALL_M, (150, 146, 138), FENCE)
    for x in np.arange(x1 + 0.05, x2, 0.2).tolist():
        canvas.wall(rectangle(x, 0.2, x + 0.06, 1.25), WALL_M, (52, 56, 58), FENCE)
    for y in (0.45, 1.1):
        canvas.wall(rectangle(x1, y, x2, y + 0.06), WALL_M, (52, 56, 58), FENCE)


class _House:
    """One house with its left lower corner at x on the street front."""

    def __init__(self, canvas: Canvas, dice: Dice, x: float, width: float) -> None:
        self._canvas, self._dice = canvas, dice
        self._x1, self._x2 = x, x + width
        self._floors = 2 if dice.chance(0.6) else 1
        self._floor_m = dice.between(2.7, 3.0)
        self._base_m = 3.3
        self._wall: Rgb = dice.pick(_WALLS)

    @property
    def _eaves(self) -> float:
        return self._base_m + self._floors * self._floor_m

    def build(self) -> None:
        """Paint it from the wall outwards."""
        self._roof()
        self._front()
        columns = max(2, int((self._x2 - self._x1) / 2.1))
        step = (self._x2 - self._x1) / columns
        for floor in range(self._floors):
            y = self._base_m + floor * self._floor_m + 0.75
            for column in range(columns):
                self._window(self._x1 + (column + 0.5) * step, y, 1.05, 1.45)
        if self._dice.chance(0.65):
            self._shop()
        else:
            self._ground_floor(columns, step)

    def _put(self, x1: float, y1: float, x2: float, y2: float, rgb: Rgb) -> None:
        self._canvas.wall(rectangle(x1, y1, x2, y2), WALL_M, rgb, BUILDING)

    def _roof(self) -> None:
        x1, x2, y = self._x1 - 0.15, self._x2 + 0.15, self._eaves
        tiles: Rgb = self._dice.pick(_ROOFS)
        high = self._dice.between(1.2, 2.0)
        slope = np.array([[x1, y], [x2, y], [x2 - 1.0, y + high], [x1 + 1.0, y + high]])
        self._canvas.wall(slope, WALL_M, tiles, BUILDING)
        for part in np.arange(0.12, 1.0, 0.12).tolist():
            row = rectangle(x1 + part, y + part * high, x2 - part, y + part * high + 0.03)
            self._canvas.wall(row, WALL_M, shade(tiles, 0.84), BUILDING)
        chimney = self._dice.between(self._x1 + 1.2, self._x2 - 1.8)
        self._put(chimney, y + high * 0.6, chimney + 0.55, y + high + 0.7, (142, 84, 68))
        self._put(chimney - 0.06, y + high + 0.7, chimney + 0.61, y + high + 0.82, (96, 92, 90))

    def _front(self) -> None:
        x1, x2, y = self._x1, self._x2, self._eaves
        self._put(x1, 0, x2, y, self._wall)
        for line in np.arange(0.3, y, 0.3).tolist():
            self._put(x1, line, x2, line + 0.025, shade(self._wall, 0.93))
        self._put(x1, 0, x2, 0.55, shade(self._wall, 0.7))
        self._put(x1, 0, x1 + 0.12, y, shade(self._wall, 0.86))
        self._put(x2 - 0.12, 0, x2, y, shade(self._wall, 1.06))
        self._put(x1 - 0.1, y - 0.22, x2 + 0.1, y, shade(self._wall, 1.16))
        self._put(x1 - 0.1, y - 0.3, x2 + 0.1, y - 0.22, shade(self._wall, 0.62))

    def _window(self, x: float, y: float, width: float, high: float) -> None:
        half = width / 2
        self._put(x - half - 0.12, y - 0.12, x + half + 0.12, y + high + 0.1, _FRAME)
        glass: Rgb = self._dice.pick(((70, 92, 112), (58, 76, 92), (92, 116, 136), (238, 208, 138)))
        self._glass(x - half, y, x + half, y + high, glass)
        self._put(x - 0.04, y, x + 0.04, y + high, _FRAME)
        self._put(x - half, y + high * 0.62, x + half, y + high * 0.62 + 0.06, _FRAME)
        self._put(x - half - 0.2, y - 0.2, x + half + 0.2, y - 0.1, shade(self._wall, 0.66))
        if self._dice.chance(0.35):
            for _ in range(7):
                at = (self._dice.between(x - half, x + half), y + self._dice.between(-0.12, 0.12))
                flower: Rgb = self._dice.pick(((196, 44, 60), (70, 120, 60), (232, 120, 150)))
                self._canvas.wall(disc(*at, 0.1, 8), WALL_M, flower, BUILDING)

    def _glass(self, x1: float, y1: float, x2: float, y2: float, rgb: Rgb) -> None:
        """A pane that mirrors the sky: lighter to the top, with a slanting glint."""
        bands = 5
        for band in range(bands):
            low = y1 + (y2 - y1) * band / bands
            self._put(x1, low, x2, y2, shade(rgb, 0.8 + 0.09 * band))
        w = x2 - x1
        glint = np.array(
            [[x1 + w * 0.15, y1], [x1 + w * 0.32, y1], [x1 + w * 0.62, y2], [x1 + w * 0.45, y2]]
        )
        self._canvas.wall(glint, WALL_M, shade(rgb, 1.32), BUILDING)

    def _shop(self) -> None:
        x1, x2 = self._x1 + 0.3, self._x2 - 0.3
        colour: Rgb = self._dice.pick(_SHOPS)
        self._put(x1, 0, x2, 3.05, shade(colour, 0.8))
        door = self._dice.between(x1 + 0.4, x2 - 1.5)
        for left, right in ((x1 + 0.2, door - 0.15), (door + 1.2, x2 - 0.2)):
            if right - left > 0.5:
                self._glass(left, 0.5, right, 2.3, (104, 116, 112))
                self._goods(left, right)
        self._put(door, 0, door + 1.05, 2.3, shade(colour, 0.5))
        self._glass(door + 0.12, 0.35, door + 0.93, 2.15, (88, 104, 112))
        self._put(x1, 2.55, x2, 3.15, colour)
        self._lettering(x1, x2)
        stripes = math.ceil((x2 - x1) / 0.45)
        for i in range(stripes):
            left, right = x1 + (x2 - x1) * i / stripes, x1 + (x2 - x1) * (i + 1) / stripes
            cloth = colour if i % 2 else (240, 236, 226)
            self._put(left, 2.2, right, 2.55, shade(cloth, 1.12))
            self._canvas.wall(
                disc((left + right) / 2, 2.2, (right - left) / 2, 12),
                WALL_M,
                shade(cloth, 1.0),
                BUILDING,
            )

    def _goods(self, left: float, right: float) -> None:
        """What is on show behind the pane."""
        for x in np.arange(left + 0.2, right - 0.2, 0.42).tolist():
            tone: Rgb = self._dice.pick(
                ((190, 150, 90), (150, 70, 66), (220, 214, 196), (80, 96, 90))
            )
            self._put(x, 0.6, x + 0.28, 0.6 + self._dice.between(0.3, 0.9), tone)

    def _lettering(self, x1: float, x2: float) -> None:
        letters = int(self._dice.between(5, 9))
        x = (x1 + x2) / 2 - letters * 0.15
        for _ in range(letters):
            self._put(x, 2.72, x + 0.07, 3.0, (246, 240, 224))
            if self._dice.chance(0.7):
                y = self._dice.pick((2.72, 2.83, 2.94))
                self._put(x, y, x + 0.2, y + 0.06, (246, 240, 224))
            if self._dice.chance(0.5):
                self._put(x + 0.13, 2.72, x + 0.2, 3.0, (246, 240, 224))
            x += 0.31

    def _ground_floor(self, columns: int, step: float) -> None:
        door = int(self._dice.unit() * columns)
        for column in range(columns):
            x = self._x1 + (column + 0.5) * step
            if column != door:
                self._window(x, 1.0, 1.05, 1.5)
                continue
            wood: Rgb = self._dice.pick(((96, 58, 38), (40, 70, 60), (120, 40, 40), (50, 60, 90)))
            self._put(x - 0.65, 0, x + 0.65, 2.5, _FRAME)
            self._put(x - 0.5, 0, x + 0.5, 2.05, wood)
            self._glass(x - 0.5, 2.12, x + 0.5, 2.4, (92, 116, 136))
            for y in (0.3, 1.15):
                self._put(x - 0.36, y, x + 0.36, y + 0.65, shade(wood, 0.8))
            self._put(x + 0.3, 1.0, x + 0.4, 1.08, (220, 190, 90))
            self._put(x - 0.8, 0, x + 0.8, 0.12, (170, 166, 158))
