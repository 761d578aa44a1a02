"""Turn some frames of all cameras into actions that start and end; runs in the act process.

In scope "frame" the whole picture acts, in scope "track" each person on its own: then the tracks of
a frame are waited for. Samples of all live cameras go through the network together; a file's go
alone, so that no result depends on its neighbours.
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
from streamer.unfinished import Left

PERSON = "person"


class Act(Annotator):
    """Feeds one action recogniser."""

    def __init__(self, start: StageStart) -> None:
        assert start.config.actions is not None
        self._settings = start.config.actions
        self.needs_tracks = self._settings.scope == "track"
        super().__init__(start)
        self._model: OffModel | None = None
        self._observers: dict[str, Observer] = {}
        self._samplers: dict[str, Sampler] = {}
        self._classes: tuple[str, ...] = ()

    def on_open(self) -> None:
        """Load the network and run it once."""
        settings = self._settings
        try:
            model = self._model = OffModel.load(settings.model, device=settings.device)
            self._observers = self._make_observers(model)
        except EngineError as error:
            raise type(error)(f"actions: {error}") from error
        except ValueError as error:
            raise ConfigError(f"actions: {error}") from error
        self._classes = model.signature.classes
        if model.signature.scope != settings.scope:
            raise ConfigError(
                f"actions.scope: must be {model.signature.scope} for {settings.model}, got "
                f"{settings.scope}; change it, or choose another model"
            )
        model.engine.warm_up()
        self._samplers = {camera: Sampler(model.signature.rate) for camera in self.config.cameras}

    def wants(self, info: FrameInfo, *, anew: bool) -> bool:
        """See Annotator."""
        return self._samplers[info.camera].take(info.pts_ns, discontinuity=anew) != "skip"

    def look(self, frames: Sequence[Wanted]) -> list[Annotation]:
        """See Annotator."""
        together: list[Sample] = []
        changes: list[ActionChange] = []
        for frame in frames:
            info, planes = frame.info, frame.planes
            observer, live = self._observers[info.camera], self.start.live[info.camera]
            samples, ended = observer.gather(
                info.camera,
                info.pts_ns,
                (planes.y, planes.u, planes.v),
                _people(frame.tracks),
                discontinuity=frame.anew,
                now_ns=time.monotonic_ns() if live else None,
            )
            changes += ended
            if live:
                together += samples
            else:
                changes += observer.judge(samples)
        if together:
            changes += self._observers[together[0].stream.camera].judge(together)
        for change in changes:
            self._keep(change)
        return [self._annotation(frame.info, changes) for frame in frames]

    def end(self, camera: str) -> tuple[Happening, ...]:
        """What goes on ends with the stream."""
        changes = self._observers[camera].drop(camera)
        for change in changes:
            self._keep(change)
        return tuple(_happening(change) for change in changes)

    def broken_off(self, left: Left) -> Happening:
        """See Annotator; its score is not known any more."""
        return Happening(
            "action.ended",
            {
                "class": self._classes[left.what],
                "score": None,
                "track_id": left.who or None,
                "start_s": round(left.since_ns / 1e9, 6),
                "end_s": round(left.last_ns / 1e9, 6),
            },
        )

    def on_close(self) -> None:
        """Let go of the engine."""
        if self._model is not None:
            self._model.close()

    def _make_observers(self, model: OffModel) -> dict[str, Observer]:
        """One for all live cameras, which share the budget; for each file its own part of it."""
        settings, live = self._settings, self.start.live
        limits = Thresholds(settings.on, settings.off, settings.min_s)

        only = settings.classes or None

        def observer(crops_per_s: float) -> Observer:
            return Observer(model, Options(default=limits, only=only, crops_per_s=crops_per_s))

        shared = observer(settings.crops_per_s)
        part = max(settings.crops_per_s / len(live), model.signature.rate)
        return {camera: shared if live[camera] else observer(part) for camera in live}

    def _keep(self, change: ActionChange) -> None:
        """So that our successor can end it."""
        entry = (change.camera, change.track_id or 0, self._classes.index(change.action))
        if change.end_ns is None:
            self.unfinished.begin(*entry, change.begin_ns)
        else:
            self.unfinished.end(*entry)

    def _annotation(self, info: FrameInfo, changes: Sequence[ActionChange]) -> Annotation:
        active = self._observers[info.camera].active(info.camera)
        captions = tuple((who or 0, ", ".join(actions)) for who, actions in active.items())
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
