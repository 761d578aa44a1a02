"""Turn some frames of all cameras into maps of labels; runs in the segment process.

Maps travel coded, with the share of each class; what they say about surfaces becomes events.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from engines.cascade.carry import CarryOptions
from engines.cascade.labelcode import encode
from engines.cascade.runtime import Memory, Segmenter
from engines.errors import EngineError
from streamer.annotator import Annotator, Cadence, Wanted
from streamer.errors import ConfigError
from streamer.messages import Annotation, FrameInfo, Happening, LabelMap
from streamer.planes import Planes
from streamer.stage import StageStart
from streamer.surfaces import Surface, lost
from streamer.unfinished import Left
from streamer.view import check_surfaces

log = logging.getLogger(__name__)

_LONGEST_PX = 160
"""Longer side of a map that travels."""


class Segment(Annotator):
    """Feeds one cascade with the frames of all cameras."""

    def __init__(self, start: StageStart) -> None:
        super().__init__(start)
        assert start.config.segmenter is not None
        self._settings = start.config.segmenter
        self._cadence = Cadence(self._settings.per_s)
        self._segmenter: Segmenter | None = None
        self._memories: dict[str, Memory | None] = {}
        self._surfaces: dict[str, list[Surface]] = {}
        self._rules = tuple(self._settings.surfaces)

    def on_open(self) -> None:
        """Load the three engines."""
        settings = self._settings
        try:
            segmenter = self._segmenter = Segmenter.load(
                settings.model,
                device=settings.device,
                rho=settings.rho,
                carry=CarryOptions() if settings.carry_over else None,
                out_stride=2,
            )
            for camera in self.config.cameras:
                self._memories[camera] = segmenter.new_memory()
                self._surfaces[camera] = [
                    Surface(name, rule, segmenter.classes)
                    for name, rule in settings.surfaces.items()
                ]
        except EngineError as error:
            raise type(error)(f"segmenter: {error}") from error
        except ValueError as error:
            raise ConfigError(f"segmenter: {error}") from error
        for name, view in self.config.cameras.items():
            check_surfaces(f"cameras.{name}", view.zones, view.lines, segmenter.classes)

    def wants(self, info: FrameInfo, *, anew: bool) -> bool:
        """See Annotator."""
        return self._cadence.takes(info, anew=anew)

    def look(self, frames: Sequence[Wanted]) -> list[Annotation]:
        """See Annotator; the cascade takes one frame at a time."""
        return [self._label(frame.info, frame.planes, anew=frame.anew) for frame in frames]

    def end(self, camera: str) -> tuple[Happening, ...]:
        """What is blocked ends with the stream."""
        return tuple(self._forget(camera))

    def broken_off(self, left: Left) -> Happening:
        """See Annotator."""
        name = self._rules[left.what]
        return lost(name, self._settings.surfaces[name].surface)

    def _label(self, info: FrameInfo, planes: Planes, *, anew: bool) -> Annotation:
        assert self._segmenter is not None
        happenings = self._forget(info.camera) if anew else []
        found = self._segmenter.segment(
            (planes.y, planes.u, planes.v),
            info.matrix,
            info.pts_ns,
            anew,
            memory=self._memories[info.camera],
        )
        for rule, surface in enumerate(self._surfaces[info.camera]):
            changes = surface.update(found.labels, float(info.pts_s))
            happenings += changes
            if changes and surface.blocked:
                self.unfinished.begin(info.camera, 0, rule, info.pts_ns)
            elif changes:
                self.unfinished.end(info.camera, 0, rule)
        self.counters["carried_permille"] = round(1000 * found.carried)
        label_map = LabelMap(
            found.width,
            found.height,
            encode(found.labels, longest_px=_LONGEST_PX),
            self._segmenter.classes,
            tuple(round(float(share), 4) for share in found.shares),
        )
        return Annotation(info, tuple(happenings), label_map=label_map)

    def _forget(self, camera: str) -> list[Happening]:
        """The camera looks elsewhere, or at nothing any more."""
        for rule in range(len(self._rules)):
            self.unfinished.end(camera, 0, rule)
        return [each for surface in self._surfaces[camera] for each in surface.forget()]

    def on_close(self) -> None:
        """Let go of the engines."""
        if self._segmenter is not None:
            self._segmenter.close()


make = Segment
