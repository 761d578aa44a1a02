"""Turn some frames of all cameras into actions that start and end; runs in the act process.

In scope "frame" the whole picture acts, in scope "track" each person on its own: then the tracks of
a frame are waited for. Samples of all cameras go through the network together.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from engines.errors import EngineError
from engines.off.hysteresis import Thresholds
from engines.off.observer import ActionChange, Observer, Options, Sample, Track
from engines.off.runtime import OffModel
from engines.off.sampler import Sampler
from streamer.annotator import Annotator, Wanted
from streamer.errors import ConfigError
from streamer.messages import Annotation, Fields, FrameInfo, Happening, Tracks
from streamer.stage import StageStart

PERSON = "person"


class Act(Annotator):
    """Feeds one action recogniser."""

    def __init__(self, start: StageStart) -> None:
        assert start.config.actions is not None
        self._settings = start.config.actions
        self.needs_tracks = self._settings.scope == "track"
        super().__init__(start)
        self._observer: Observer | None = None
        self._samplers: dict[str, Sampler] = {}
        self._epochs: dict[str, int] = {}
        self._last: dict[str, FrameInfo] = {}

    def on_open(self) -> None:
        """Load the network and run it once."""
        settings = self._settings
        limits = Thresholds(settings.on, settings.off, settings.min_s)
        try:
            model = OffModel.load(settings.model, device=settings.device)
            options = Options(
                default=limits, only=settings.classes or None, crops_per_s=settings.crops_per_s
            )
            self._observer = Observer(model, options)
        except ValueError as error:
            if isinstance(error, EngineError):
                raise
            raise ConfigError(f"actions: {error}") from error
        if model.signature.scope != settings.scope:
            raise ConfigError(
                f"actions.scope: must be {model.signature.scope} for {settings.model}, got "
                f"{settings.scope}; change it, or choose another model"
            )
        model.engine.warm_up()
        self._samplers = {camera: Sampler(model.signature.rate) for camera in self.config.cameras}

    def wants(self, info: FrameInfo) -> bool:
        """See Annotator."""
        taken = self._samplers[info.camera].take(info.pts_ns, discontinuity=self._jumped(info))
        return taken != "skip"

    def look(self, frames: Sequence[Wanted]) -> list[Annotation]:
        """See Annotator."""
        assert self._observer is not None
        samples: list[Sample] = []
        changes: list[ActionChange] = []
        for frame in frames:
            info, planes = frame.info, frame.planes
            found, ended = self._observer.gather(
                info.camera,
                info.pts_ns,
                (planes.y, planes.u, planes.v),
                _people(frame.tracks),
                discontinuity=self._is_new(info),
                now_ns=time.monotonic_ns() if self.start.live[info.camera] else None,
            )
            samples += found
            changes += ended
        changes += self._observer.judge(samples)
        return [self._annotation(frame.info, changes) for frame in frames]

    def end(self, camera: str) -> tuple[Happening, ...]:
        """What goes on ends with the stream."""
        assert self._observer is not None
        return tuple(_happening(change) for change in self._observer.drop(camera))

    def on_close(self) -> None:
        """Let go of the engine."""
        if self._observer is not None:
            self._observer.model.close()

    def _jumped(self, info: FrameInfo) -> bool:
        """True where the window of a camera can't go on."""
        last = self._last.get(info.camera)
        self._last[info.camera] = info
        return info.discontinuity or (last is not None and last.epoch != info.epoch)

    def _is_new(self, info: FrameInfo) -> bool:
        """As _jumped, for the frames that are samples."""
        epoch = self._epochs.get(info.camera)
        self._epochs[info.camera] = info.epoch
        return info.discontinuity or epoch not in (None, info.epoch)

    def _annotation(self, info: FrameInfo, changes: Sequence[ActionChange]) -> Annotation:
        assert self._observer is not None
        captions = tuple(
            (who or 0, ", ".join(actions))
            for who, actions in self._observer.active(info.camera).items()
        )
        happenings = tuple(_happening(change) for change in changes if change.camera == info.camera)
        return Annotation(info, happenings, captions)


def _people(tracks: Tracks | None) -> list[Track]:
    if tracks is None:
        return []
    names = tracks.detections.class_names
    person = names.index(PERSON) if PERSON in names else -1
    classes = np.frombuffer(tracks.classes, np.int16).tolist()
    ids = np.frombuffer(tracks.ids, np.int64).tolist()
    boxes = np.frombuffer(tracks.boxes, np.float32).reshape(-1, 4).tolist()
    return [
        Track(track_id, (box[0], box[1], box[2], box[3]))
        for track_id, kind, box in zip(ids, classes, boxes, strict=True)
        if kind == person
    ]


def _happening(change: ActionChange) -> Happening:
    fields: Fields = {
        "class": change.action,
        "score": round(change.score, 4),
        "track_id": change.track_id,
        "start_s": round(change.begin_ns / 1e9, 6),
    }
    if change.end_ns is None:
        return Happening("action.started", fields)
    return Happening("action.ended", fields | {"end_s": round(change.end_ns / 1e9, 6)})


make = Act
