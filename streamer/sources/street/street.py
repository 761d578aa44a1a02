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
from streamer.sources.street.placed import Placed
from streamer.sources.street.render import Renderer
from streamer.sources.street.scenery import props
from streamer.sources.street.shapes import F64
from streamer.sources.street.traffic import Traffic


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
        self._props = props()
        self._renderer: Renderer | None = None

    def prepare(self) -> Renderer:
        """Paint the empty street, if it is not yet: truth alone needs no pixels."""
        if self._renderer is None:
            self._renderer = Renderer(self._view, self._seed)
        return self._renderer

    def time_s(self, frame: int) -> float:
        """When a frame is, in seconds of the street."""
        return float(frame / self.fps)

    def render(self, frame: int, planes: Planes) -> None:
        """Draw a frame into planes of the street's size."""
        things, offset = self._things(frame)
        self.prepare().render(planes, things, offset, frame)

    def labels(self, frame: int) -> NDArray[np.uint8]:
        """Give the (H, W) map of indices into LABELS."""
        things, offset = self._things(frame)
        out = self.prepare().labels(offset)
        for thing in things:
            thing.stamp(out, thing.label)
        return out

    def instances(self, frame: int) -> NDArray[np.int32]:
        """Give the (H, W) map of the identity that is seen in each pixel; 0 is the scenery."""
        return self._stamped(self._things(frame)[0])[0]

    def truth(self, frame: int) -> Truth:
        """Say what is in a frame, and how much of it is seen."""
        time_s = self.time_s(frame)
        things, offset = self._things(frame)
        identities, alone = self._stamped(things)
        actors = {actor.identity: actor for actor in self._traffic.actors(time_s)}
        sightings = tuple(
            Sighting(
                thing.identity,
                actors[thing.identity].name,
                thing.box_xyxy(self.width, self.height),
                _pixels(identities, thing) / alone[thing.identity],
                _episode(actors[thing.identity], time_s),
            )
            for thing in sorted(things, key=lambda thing: thing.identity)
            if alone.get(thing.identity)
        )
        return Truth(frame, time_s, offset, sightings)

    def episodes(self, begin_s: float, end_s: float) -> list[tuple[int, Episode]]:
        """Give the episodes of all persons that touch [begin, end), with their identities.

        Persons are listed also while they are out of the picture.
        """
        return [
            (actor.identity, episode)
            for actor in self._traffic.between(begin_s, end_s)
            for episode in actor.episodes
            if episode.begin_s < end_s and begin_s < episode.end_s
        ]

    def _things(self, frame: int) -> tuple[list[Placed], tuple[int, int]]:
        """Everything that may be in the picture, the farthest first, and the camera's offset."""
        time_s = self.time_s(frame)
        offset = self._path.offset(time_s)
        placed = [
            Placed.at(self._view, offset, prop.figure, prop.z_m, prop.label, 0)
            for prop in self._props
        ]
        for actor in self._traffic.actors(time_s):
            figure = actor.figure(time_s)
            placed.append(
                Placed.at(self._view, offset, figure, actor.z_m, actor.label, actor.identity)
            )
        inside = [thing for thing in placed if thing.is_between(0, self.width)]
        return sorted(inside, key=lambda thing: -thing.z_m), offset

    def _stamped(self, things: list[Placed]) -> tuple[NDArray[np.int32], dict[int, int]]:
        """Draw identities over each other, and count the pixels of each before others hide it."""
        out = np.zeros((self.height, self.width), np.int32)
        alone: dict[int, int] = {}
        for thing in things:
            thing.stamp(out, thing.identity)
            if thing.identity:
                alone[thing.identity] = _pixels(out, thing)
        return out, alone


def _pixels(identities: NDArray[np.int32], thing: Placed) -> int:
    return int(np.count_nonzero(thing.around(identities) == thing.identity))


def _episode(actor: Actor, time_s: float) -> Episode | None:
    return next((e for e in actor.episodes if e.begin_s <= time_s < e.end_s), None)
