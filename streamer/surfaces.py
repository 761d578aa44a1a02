"""Tell when a surface such as the road is blocked: where it usually is, something else is now; runs
in the segment process.

Where a surface usually is, is learned from the maps themselves, so that a camera needs no drawing.
One per camera and rule; knows no network, no queue and no frame number.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from streamer.config import SurfaceConfig
from streamer.messages import Fields, Happening

U8 = NDArray[np.uint8]

USUAL_S = 60.0
"""What is seen for about so long becomes what is usual."""
_USUAL = 0.5
_LEAST_SHARE = 0.01
"""Of the picture; a smaller surface is not judged."""
_HYSTERESIS = 0.8
"""Of the share at which a surface is blocked, it must fall to, to be clear again."""


def lost(name: str, surface: str) -> Happening:
    """Nobody knows any more whether a surface is blocked."""
    fields: Fields = {"name": name, "surface": surface, "share": None, "reason": "lost"}
    return Happening("surface.cleared", fields)


class Surface:
    """One rule on one camera.

    Args:
        name: of the rule, which events carry.
        config: the rule.
        classes: of the segmenter.

    Raises:
        ValueError: the segmenter does not know a class.
    """

    def __init__(self, name: str, config: SurfaceConfig, classes: tuple[str, ...]) -> None:
        for wanted in (config.surface, *config.by):
            if wanted not in classes:
                raise ValueError(
                    f"segmenter.surfaces.{name}: {wanted!r} must be a class of the segmenter, "
                    f"which knows {', '.join(classes)}; choose one of these"
                )
        self._name, self._config = name, config
        self._surface = classes.index(config.surface)
        blockers = [classes.index(by) for by in config.by] or [
            index for index in range(len(classes)) if index != self._surface
        ]
        self._blocks = np.zeros(256, bool)
        self._blocks[blockers] = True
        self._usual: NDArray[np.float32] | None = None
        self._last_s = 0.0
        self._since_s: float | None = None
        self.blocked = False
        """What was told last."""

    def forget(self) -> list[Happening]:
        """The camera looks elsewhere now, or at nothing any more."""
        over = [lost(self._name, self._config.surface)] if self.blocked else []
        self._usual, self._since_s, self.blocked = None, None, False
        return over

    def update(self, labels: U8, media_s: float) -> list[Happening]:
        """Judge one map.

        Args:
            labels: (h, w) of the whole picture.
            media_s: its media time.
        """
        here = labels == self._surface
        usual = self._learn(here, media_s) > _USUAL
        if usual.mean() < _LEAST_SHARE:
            over = [lost(self._name, self._config.surface)] if self.blocked else []
            self.blocked = False
            return over
        share = float(self._blocks[labels][usual].mean())
        limit = self._config.share * (_HYSTERESIS if self.blocked else 1.0)
        if (share >= limit) == self.blocked:
            self._since_s = None
            return []
        if self._since_s is None:
            self._since_s = media_s
        if media_s - self._since_s < self._config.for_s:
            return []
        self.blocked, self._since_s = not self.blocked, None
        fields: Fields = {
            "name": self._name,
            "surface": self._config.surface,
            "share": round(share, 4),
        }
        if self.blocked:
            return [Happening("surface.blocked", fields)]
        return [Happening("surface.cleared", fields | {"reason": "seen"})]

    def _learn(self, here: NDArray[np.bool_], media_s: float) -> NDArray[np.float32]:
        if self._usual is None or self._usual.shape != here.shape:
            self._usual = here.astype(np.float32)
        elif media_s > self._last_s:
            weight = 1 - math.exp(-(media_s - self._last_s) / USUAL_S)
            self._usual += np.float32(weight) * (here - self._usual)
        self._last_s = media_s
        return self._usual
