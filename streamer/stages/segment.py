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
from streamer.messages import Annotation, FrameInfo, LabelMap
from streamer.planes import Planes
from streamer.stage import StageStart
from streamer.surfaces import Surface

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
        self._epochs: dict[str, int] = {}

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
        except ValueError as error:
            if isinstance(error, EngineError):
                raise
            raise ConfigError(f"segmenter: {error}") from error

    def wants(self, info: FrameInfo) -> bool:
        """See Annotator."""
        return self._cadence.takes(info)

    def look(self, frames: Sequence[Wanted]) -> list[Annotation]:
        """See Annotator; the cascade takes one frame at a time."""
        return [self._label(frame.info, frame.planes) for frame in frames]

    def _label(self, info: FrameInfo, planes: Planes) -> Annotation:
        assert self._segmenter is not None
        anew = info.discontinuity or self._epochs.get(info.camera) != info.epoch
        surfaces = self._surfaces[info.camera]
        if anew:
            self._epochs[info.camera] = info.epoch
            for surface in surfaces:
                surface.forget()
        found = self._segmenter.segment(
            (planes.y, planes.u, planes.v),
            info.matrix,
            info.pts_ns,
            anew,
            memory=self._memories[info.camera],
        )
        media_s = float(info.pts_s)
        happenings = [
            happening for surface in surfaces for happening in surface.update(found.labels, media_s)
        ]
        self.counters["carried_permille"] = round(1000 * found.carried)
        label_map = LabelMap(
            found.width,
            found.height,
            encode(found.labels, longest_px=_LONGEST_PX),
            self._segmenter.classes,
            tuple(round(float(share), 4) for share in found.shares),
        )
        return Annotation(info, tuple(happenings), label_map=label_map)

    def on_close(self) -> None:
        """Let go of the engines."""
        if self._segmenter is not None:
            self._segmenter.close()


make = Segment
