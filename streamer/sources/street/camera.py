"""Turn points of the street in metres into points of the picture in pixels.

The street's axes: x to the right, y up from the ground, z away from the camera. The lens is
shifted, not tilted, so upright things stay upright. Knows nothing of what stands in the street.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from streamer.sources.street.dice import Dice

F64 = NDArray[np.float64]
Camera = Literal["static", "shake", "pan"]
CAMERAS: tuple[Camera, ...] = get_args(Camera)

HEIGHT_M = 3.2
FIELD_M = 0.82
"""Half the width that any camera may see, in metres for each metre of distance."""

_FOCAL_PX, _HORIZON_PX = 1000.0, 238.0  # of the picture that was composed, 1280x720
_SWAY_PX: dict[Camera, tuple[int, int]] = {"static": (0, 0), "shake": (8, 6), "pan": (160, 10)}
_SHAKE_HZ = ((1.7, 0.5), (4.3, 0.3), (7.9, 0.2))
_PAN_PERIOD_S = 18.0


class View:
    """A camera of one picture size; the composed picture is scaled to cover it and cut."""

    def __init__(self, width: int, height: int, camera: Camera) -> None:
        self.width, self.height, self.camera = width, height, camera
        scale = max(width / 1280, height / 720)
        self.focal_px = _FOCAL_PX * scale
        """Pixels of one metre at a distance of one metre."""
        self.horizon_px = height / 2 + (_HORIZON_PX - 360) * scale
        """Row of the horizon while the camera is at rest."""
        sway_x, sway_y = _SWAY_PX[camera]
        self.margin_px = math.ceil(sway_x * scale), math.ceil(sway_y * scale)
        """How far the camera may turn to either side, and up or down."""

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
