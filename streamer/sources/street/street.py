"""A rendered street and the exact truth about every frame of it, in any order.

Frame i shows the street at time i / fps. Truth, labels, identities and pixels come from the same
outlines. Not thread-safe.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from streamer.planes import Planes
from streamer.sources.street.actors import Action, Actor, ActorClass, Episode
from streamer.sources.street.camera import Camera, CameraPath, View
from streamer.sources.street.render import Renderer, stamp
from streamer.sources.street.scenery import props
from streamer.sources.street.shapes import F64, Figure
from streamer.sources.street.traffic import Traffic

_STEPS = 16
"""Boxes are rounded to 1/16 pixel, so that they are equal on every machine."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """One actor in one frame."""

    identity: int
    """Given once and never again."""
    name: ActorClass
    box_xyxy: tuple[float, float, float, float]
    """Around the whole actor as far as it is in the picture, also where others hide it."""
    visibility: float
    """Part of its pixels in the picture that nothing hides, 0..1."""
    episode: Episode | None
    """What a person on foot does; None for riders and vehicles."""

    @property
    def action(self) -> Action | None:
        """What a person on foot does; None for riders and vehicles."""
        return self.episode.action if self.episode else None


@dataclass(frozen=True, slots=True)
class Truth:
    """Everything that is to be found in one frame."""

    frame: int
    time_s: float
    camera_px: tuple[int, int]
    """What the camera turned right and down: the scene is shifted by as much left and up."""
    sightings: tuple[Sighting, ...]
    """By identity."""

    @property
    def boxes_xyxy(self) -> F64:
        """(n, 4) float64, pixels."""
        return np.array([s.box_xyxy for s in self.sightings], np.float64).reshape(-1, 4)

    @property
    def identities(self) -> NDArray[np.int64]:
        """(n,) int64."""
        return np.array([s.identity for s in self.sightings], np.int64)


@dataclass(frozen=True, slots=True)
class _Placed:
    figure: Figure
    z_m: float
    label: int
    actor: Actor | None


class Street:
    """The street of one seed, seen by one camera."""

    def __init__(
        self,
        seed: int,
        width: int = 1280,
        height: int = 720,
        *,
        fps: Fraction = Fraction(25),
        camera: Camera = "static",
    ) -> None:
        self.width, self.height, self.fps = width, height, fps
        self._view = View(width, height, camera)
        self._seed = seed
        self._path = CameraPath(seed, self._view)
        self._traffic = Traffic(seed)
        self._props = [_Placed(prop.figure, prop.z_m, prop.label, None) for prop in props()]
        self._ready: Renderer | None = None

    def prepare(self) -> None:
        """Paint the empty street now and not with the first frame: truth alone needs no pixels."""
        self._ready = self._ready or Renderer(self._view, self._seed)

    def time_s(self, frame: int) -> float:
        """When a frame is, in seconds of the street."""
        return float(frame / self.fps)

    def truth(self, frame: int) -> Truth:
        """Say what is in a frame, and how much of it is seen."""
        offset = self._path.offset(self.time_s(frame))
        placed = self._placed(frame, offset)
        alone: dict[int, int] = {}
        identities = self._stamped(placed, offset, alone)
        seen = dict(
            zip(*(part.tolist() for part in np.unique(identities, return_counts=True)), strict=True)
        )
        sightings = []
        for thing in placed:
            actor = thing.actor
            if actor is None or not alone[actor.identity]:
                continue
            visibility = round(seen.get(actor.identity, 0) / alone[actor.identity], 3)
            box = self._box(thing.figure, offset)
            episode = _episode(actor, self.time_s(frame))
            sightings.append(Sighting(actor.identity, actor.name, box, visibility, episode))
        sightings.sort(key=lambda sighting: sighting.identity)
        return Truth(frame, self.time_s(frame), offset, tuple(sightings))

    def episodes(self, begin_s: float, end_s: float) -> list[tuple[int, Episode]]:
        """Give all episodes (identity, episode) of persons that touch [begin, end), in the picture or not."""
        return [
            (actor.identity, episode)
            for actor in self._traffic.between(begin_s, end_s)
            for episode in actor.episodes
            if episode.begin_s < end_s and begin_s < episode.end_s
        ]

    def render(self, frame: int, planes: Planes) -> None:
        """Draw a frame into planes of the street's size."""
        offset = self._path.offset(self.time_s(frame))
        figures = [thing.figure for thing in self._placed(frame, offset)]
        self._renderer.render(planes, figures, offset, frame)

    def labels(self, frame: int) -> NDArray[np.uint8]:
        """Give the (H, W) map of canvas.LABELS."""
        offset = self._path.offset(self.time_s(frame))
        out = self._renderer.labels(offset)
        for thing in self._placed(frame, offset):
            stamp(out, self._view, thing.figure, offset, thing.label)
        return out

    def instances(self, frame: int) -> NDArray[np.int32]:
        """Give the (H, W) map of the identity that is seen in each pixel; 0 is the scenery."""
        offset = self._path.offset(self.time_s(frame))
        return self._stamped(self._placed(frame, offset), offset, {})

    @property
    def _renderer(self) -> Renderer:
        self.prepare()
        assert self._ready is not None
        return self._ready

    def _placed(self, frame: int, offset: tuple[int, int]) -> list[_Placed]:
        """Everything that may be in the picture, the farthest first."""
        time_s = self.time_s(frame)
        things = list(self._props)
        for actor in self._traffic.actors(time_s):
            figure = actor.figure(time_s)
            x1, _, x2, _ = figure.extent_xyxy(self._view, offset)
            if x2 > 0 and x1 < self.width:
                things.append(_Placed(figure, actor.z_m, actor.label, actor))
        return sorted(things, key=lambda thing: -thing.z_m)

    def _stamped(
        self, placed: list[_Placed], offset: tuple[int, int], alone: dict[int, int]
    ) -> NDArray[np.int32]:
        """Draw identities over each other; alone gets the pixels of each before others hide it."""
        out = np.zeros((self.height, self.width), np.int32)
        for thing in placed:
            identity = thing.actor.identity if thing.actor else 0
            stamp(out, self._view, thing.figure, offset, identity)
            if thing.actor:
                x1, y1, x2, y2 = self._box(thing.figure, offset)
                part = out[max(0, int(y1) - 2) : int(y2) + 3, max(0, int(x1) - 2) : int(x2) + 3]
                alone[identity] = int(np.count_nonzero(part == identity))
        return out

    def _box(self, figure: Figure, offset: tuple[int, int]) -> tuple[float, float, float, float]:
        x1, y1, x2, y2 = (
            round(c * _STEPS) / _STEPS for c in figure.extent_xyxy(self._view, offset)
        )
        return max(0.0, x1), max(0.0, y1), min(float(self.width), x2), min(float(self.height), y2)


def _episode(actor: Actor, time_s: float) -> Episode | None:
    return next((e for e in actor.episodes if e.begin_s <= time_s < e.end_s), None)
