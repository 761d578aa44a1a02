"""Turn points of the street in metres into points of the picture in pixels.

The street's axes: x to the right, y up from the ground, z away from the camera. The lens is
shifted, not tilted, so upright things stay upright. Knows nothing of what stands in the street.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from streamer.sources.street.dice import Dice

F64 = NDArray[np.float64]
Camera = Literal["static", "shake", "pan"]
CAMERAS: tuple[Camera, ...] = get_args(Camera)

HEIGHT_M = 3.2
FIELD_M = 0.82
"""Half the width that any camera sees, in metres for each metre of distance; actors turn up beyond."""

_FOCAL_PX, _HORIZON_PX = 1000.0, 238.0  # of the picture that was composed, 1280x720
_SWAY_PX: dict[Camera, tuple[int, int]] = {"static": (0, 0), "shake": (8, 6), "pan": (160, 10)}
_SHAKE_HZ = ((1.7, 0.5), (4.3, 0.3), (7.9, 0.2))
_PAN_PERIOD_S = 18.0


@dataclass(frozen=True, slots=True)
class View:
    """A camera of one picture size; the composed picture is scaled to cover it and cut."""

    width: int
    height: int
    camera: Camera

    @property
    def scale(self) -> float:
        """Pixels of this picture in one pixel of the composed one."""
        return max(self.width / 1280, self.height / 720)

    @property
    def focal_px(self) -> float:
        """Pixels of one metre at a distance of one metre."""
        return _FOCAL_PX * self.scale

    @property
    def horizon_px(self) -> float:
        """Row of the horizon while the camera is at rest."""
        return self.height / 2 + (_HORIZON_PX - 360) * self.scale

    @property
    def margin_px(self) -> tuple[int, int]:
        """How far the camera may turn to either side, and up or down."""
        sway_x, sway_y = _SWAY_PX[self.camera]
        return math.ceil(sway_x * self.scale), math.ceil(sway_y * self.scale)

    def project(self, points: F64, offset: tuple[int, int] = (0, 0)) -> F64:
        """Give the (n, 2) picture points of (n, 3) street points; pixel k covers [k, k+1)."""
        out = np.empty((len(points), 2))
        size = self.focal_px / points[:, 2]
        np.multiply(points[:, 0], size, out=out[:, 0])
        np.multiply(HEIGHT_M - points[:, 1], size, out=out[:, 1])
        out += (self.width / 2 - offset[0], self.horizon_px - offset[1])
        return out


class CameraPath:
    """Where the camera points at any time: a pure function of seed and time."""

    def __init__(self, seed: int, view: View) -> None:
        self._view = view
        dice = Dice(seed, 0, 0)
        self._phases = [(dice.between(0, math.tau), dice.between(0, math.tau)) for _ in _SHAKE_HZ]

    def offset(self, time_s: float) -> tuple[int, int]:
        """Whole pixels (right, down) by which the scene is shifted left and up in the picture."""
        reach_x, reach_y = self._view.margin_px
        if self._view.camera == "static":
            return 0, 0
        if self._view.camera == "pan":
            turn = math.tau * time_s / _PAN_PERIOD_S + self._phases[0][0]
            return round(reach_x * math.sin(turn)), round(reach_y * math.sin(2 * turn))
        x = y = 0.0
        for (hz, part), (phase_x, phase_y) in zip(_SHAKE_HZ, self._phases, strict=True):
            x += part * math.sin(math.tau * hz * time_s + phase_x)
            y += part * math.sin(math.tau * hz * 1.13 * time_s + phase_y)
        return round(reach_x * x), round(reach_y * y)
